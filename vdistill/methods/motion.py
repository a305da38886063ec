"""What MCM (Zhai et al. 2024) adds to consistency: views of a clip that show its motion, and mixed trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.inputs import StudentInput
from ..core.rng import Rng
from ..core.sampling import OneStep
from ..core.step import Batch
from ..core.times import Times


def whole(x: Tensor) -> Tensor:
    """The clip as it is."""
    return x


def differences(x: Tensor) -> Tensor:
    """Neighbouring frames' differences [B, C, T - 1, ...]: blind to a picture that is added to all frames."""
    return x.diff(dim=2)


def correlations(x: Tensor) -> Tensor:
    """How alike two frames are at each place: products over channels of a frame with the next [B, T - 1, ...]."""
    return (x[:, :, 1:] * x[:, :, :-1]).mean(1)


def coarse(x: Tensor) -> Tensor:
    """What is left of every frame after averaging over squares of 2 x 2 places, or of one where it is narrower."""
    b, c, t = x.shape[:3]
    squares = x.flatten(1, 2)
    step = [2 if size > 1 else 1 for size in squares.shape[2:]]
    pooled = torch.nn.functional.avg_pool2d(squares, step, ceil_mode=True)
    return pooled.view(b, c, t, *pooled.shape[2:])


def fine(x: Tensor) -> Tensor:
    """What averaging over squares of 2 x 2 places takes away: edges and texture, blind to a tint of a frame."""
    low = coarse(x)
    spread = torch.nn.functional.interpolate(low.flatten(1, 2), size=x.shape[3:], mode="nearest")
    return x - spread.view(x.shape)


VIEWS = {"whole": whole, "differences": differences, "correlations": correlations, "coarse": coarse, "fine": fine}


@dataclass(frozen=True)
class OwnNoised:
    """Inputs from the student's own clips, made in one pass from noise at time `first` and noised to a drawn time; with
    noised data beside them in a `Mixed`, MCM's mixed trajectories.

    Draws "own/noise", "input/t" and "input/eps". The target is the student's clip.
    """

    times: Times
    first: float = 1.0

    @torch.no_grad()
    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        noise = rng.normal("own/noise", batch.x.shape, like=batch.x)
        own = OneStep()(student, noise, batch.cond, rng, [self.first])
        t = self.times(rng, len(batch), batch.x, "input/t")
        eps = rng.normal("input/eps", own.shape, like=own)
        return StudentInput(student.schedule.noise(own, eps, t), t, batch.cond, target=own)
