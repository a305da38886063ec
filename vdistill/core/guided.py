"""Denoisers under guidance are again denoisers: by a table, by a scale for every sample, by a scale as an input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import Attend, full
from .cond import Cond
from .denoiser import Denoiser, Tapped
from .guidance import Guidance, forwards
from .schedule import Schedule, spread

INPUT = "guidance"
"""The condition of networks that take the scale as an input: guiding by it is one pass that is told the scale."""


def guided_x0(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor,
    cond: Cond,
    scale: Tensor,
    name: str = "text",
    *,
    attend: Attend = full,
    max_batch: int | None = None,
) -> Tensor:
    """Classifier-free guidance with a scale of its own for every sample [B] (teacher of guidance distillation, LCM).

    name: the condition it goes without, or INPUT for a network that is told the scale.
    """
    if name == INPUT:
        return denoiser.x0(x, t, cond.with_field(INPUT, scale), attend=attend)
    kept, without = forwards(denoiser, x, t, [cond, cond.drop([name])], attend, max_batch)
    s = spread(scale.to(torch.float64), x)
    return (s * kept + (1 - s) * without).to(x.dtype)


@dataclass(frozen=True)
class Guided:
    """A denoiser under guidance: again a denoiser. Its taps are those of the network inside, where it has any.

    apart: a forward for every branch, one after the other, instead of `max_batch`.
    """

    denoiser: Denoiser
    guidance: Guidance
    max_batch: int | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.denoiser, Tapped):
            object.__setattr__(self, "taps", self.denoiser.taps)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        most = len(x) if self.apart else self.max_batch
        return self.guidance.x0(self.denoiser, x, t, cond, attend=attend, max_batch=most)


@dataclass(frozen=True)
class Told:
    """A network that takes the guidance scale as an input, told one scale: again a denoiser, of one pass."""

    denoiser: Denoiser
    scale: float

    def __post_init__(self) -> None:
        if isinstance(self.denoiser, Tapped):
            object.__setattr__(self, "taps", self.denoiser.taps)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        scale = torch.full((len(x),), self.scale, device=x.device, dtype=x.dtype)
        return self.denoiser.x0(x, t, cond.with_field(INPUT, scale), attend=attend)


@dataclass(frozen=True)
class PerSample:
    """A denoiser under classifier-free guidance with a scale of its own [B] for every sample it is asked about."""

    denoiser: Denoiser
    scale: Tensor
    name: str = "text"
    max_batch: int | None = None

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return guided_x0(self.denoiser, x, t, cond, self.scale, self.name, attend=attend, max_batch=self.max_batch)
