"""Guidance found on the mean frame of a clip: only the conditional pass sees all of its frames.

Where guidance is much the same in every frame (a face's reference, a style), its branches need not see T noisy
frames each. The mean of T frames at time t is a frame with sqrt(T) times less noise, a clip of one frame at an earlier
time:

    x0 = p_0(x_t, t) + k sum_k w_k(t) [p_k(y_u, u) - p_0(y_u, u)],   y_u = mean over time of x_t, at sigma / alpha of u
                                                                    = sigma / alpha of t over sqrt(T)

Of clips whose frames are all alike the mean frame says everything, and this is full guidance exactly (tests). A step of
K branches costs 1 + K / T passes in place of K.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guidance import WHERE, Guidance, forwards
from ..core.schedule import Schedule, spread

FAR = 60.0  # of log(sigma / alpha): noise alone, or none


def mean_frame(schedule: Schedule, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(the mean frame of x [B, C, T, ...] as a clip of one frame on the same path, [B, C, 1, ...], its time [B]).

    t: [B]. The noise of frames is taken to be independent."""
    alpha, sigma = schedule.alpha_sigma(t.to(torch.float64))
    less = sigma / math.sqrt(x.shape[2])
    u = schedule.time_at((torch.log(less) - torch.log(alpha)).clamp(-FAR, FAR))
    size = torch.hypot(*schedule.alpha_sigma(u)) / torch.hypot(alpha, less)
    mean = x.mean(2, keepdim=True)
    return (spread(size, mean) * mean).to(x.dtype), u


def told_once(cond: Cond) -> Cond:
    """Conditions of a clip for its mean frame: what runs along it is averaged, [B, T, ...] -> [B, 1, ...]."""
    return replace(cond, along={name: value.mean(1, keepdim=True) for name, value in cond.along.items()})


@dataclass(frozen=True)
class MeanFrame:
    """A denoiser under guidance that is found on the mean frame: again a denoiser.

    factor: k, how much of it is taken; below 1 where frames differ. UserError for guidance that rescales (a frame does
    not know how far a clip's values spread), for a time at each position, and where frames are remembered.
    """

    denoiser: Denoiser
    guidance: Guidance
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.guidance.rescale:
            raise UserError("guidance on the mean frame cannot be rescaled", WHERE, "leave rescale out")

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        if t.ndim > 1 or attend is not full:
            raise UserError("guidance on the mean frame is of whole clips at one time", WHERE, "guide with all frames")
        plain = self.denoiser.x0(x, t, cond)
        weights = self.guidance.weights(t)
        if self.guidance.needed(weights) == [0]:
            return plain
        t = t.expand(len(x)) if t.ndim == 0 or t.shape == (1,) else t
        y, u = mean_frame(self.schedule, x, t)
        once = told_once(cond)
        conds = [once.drop(branch.dropped) for branch in self.guidance.branches]
        parts = dict(enumerate(forwards(self.denoiser, y, u, conds)))
        moved = self.guidance.mix(parts, weights, y) - parts[0].to(torch.float64)
        return (plain + self.factor * moved).to(x.dtype)
