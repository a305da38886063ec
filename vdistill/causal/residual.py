"""Residual guidance: classifier-free guidance against a negative pass that is not made (StreamDiffusion, Kodaira 2023).

eps_hat = s eps_c + delta (1 - s) eps_v, where eps_v = (x_t - alpha x_v) / sigma is the noise that would lead to a given
clean x_v. As every conversion is affine, in x0 this is

    x0_hat = s x0_c + delta (1 - s) x_v + (1 - delta) (1 - s) x_t / alpha,

which at delta = 1, the default, is guidance whose negative estimate stays x_v. Self-negative: x_v is the source that is
edited, no pass more. One-time negative: x_v is the negative estimate at the first step, one pass more. Exact where
the negative estimate does not depend on x_t, and at the first step of the one-time form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.rng import Rng
from ..core.sampling import Sampler, at, checked, start
from ..core.schedule import Schedule, spread


@dataclass(frozen=True)
class Residual:
    """A Denoiser guided by `scale` against the clean `virtual`, shaped as x: one pass of the inner one.

    delta: how much of the virtual noise counts; other than 1 it has no meaning where alpha is 0 (t = 1 of flows).
    """

    inner: Denoiser
    virtual: Tensor
    scale: float
    delta: float = 1.0

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        kept = self.inner.x0(x, t, cond, attend=attend)
        if self.scale == 1:
            return kept
        mixed = self.scale * kept + self.delta * (1 - self.scale) * self.virtual
        if self.delta != 1:
            alpha = spread(self.schedule.alpha_sigma(t)[0], x)
            if not bool((alpha > 0).all()):
                raise UserError("a delta other than 1 needs a first time with some signal in it", "residual.delta")
            mixed = mixed + (1 - self.delta) * (1 - self.scale) * x / alpha
        return mixed.to(x.dtype)


@dataclass(frozen=True)
class OneTimeNegative:
    """A Sampler under residual guidance against the estimate without condition `name` at the first time: n + 1 passes
    for n steps, where guidance makes 2 n.

    In a causal student's chunk loop the negative pass reads the memory that the conditional ones made.
    """

    sampler: Sampler
    scale: float
    name: str = "text"
    delta: float = 1.0

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        if self.scale == 1:
            return self.sampler(student, noise, cond, rng, times)
        first = checked(times)[0]
        x = start(student.schedule, noise, first)
        virtual = student.x0(x, at(x, first), cond.drop([self.name]))
        return self.sampler(Residual(student, virtual, self.scale, self.delta), noise, cond, rng, times)
