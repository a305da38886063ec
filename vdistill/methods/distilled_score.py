"""Score distillation onto the student's sample (ADD, Sauer et al. 2023, equations 4 and 5).

L = w E c(t) |x - sg x0_teacher(alpha x + sigma eps, t)|^2: the sample is noised again and moved to what the teacher
sees in it. Alone it shrinks the sample's variance, so a judge belongs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, no_grad

from ..core.denoiser import Denoiser
from ..core.inputs import StudentInput
from ..core.losses.regression import per_sample
from ..core.rng import Rng
from ..core.schedule import Schedule
from ..core.step import Batch, Loss
from ..core.times import Times, Uniform

Fading = Literal["exponential", "sds"]


def fading(schedule: Schedule, t: Tensor, kind: Fading) -> Tensor:
    """c(t) [B], float64. exponential: alpha; sds: alpha sigma / 2, with which the gradient is that of score
    distillation sampling, sigma^2 (eps_hat - eps) (Poole et al. 2022)."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha if kind == "exponential" else alpha * sigma / 2


@dataclass(frozen=True)
class DistilledScore:
    """An `Aim`. teacher: guided, if it should be; times: of the added noise (draws "distil/t", "distil/eps")."""

    teacher: Denoiser
    times: Times = Uniform(0.02, 0.98)
    weight: float = 2.5
    kind: Fading = "exponential"

    def __call__(self, student: Denoiser, found: StudentInput, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        path = self.teacher.schedule
        t = self.times(rng, len(x), x, "distil/t")
        with no_grad():
            xt = path.noise(x, rng.normal("distil/eps", x.shape, like=x), t)
            seen = self.teacher.x0(xt, t, batch.cond)
        far = batch.mean(fading(path, t, self.kind).to(x.dtype) * per_sample((x - seen).square()))
        return Loss(self.weight * far, {"far": far.detach()})
