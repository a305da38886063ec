"""Regression to the clean end of the trajectory the student was shown a state of, in any distance.

Diffusion2GAN (Kang et al. 2024): the ends are a bank's and the distance is perceptual; OSV (Mao et al. 2024), stage 1:
the ends are what the teacher's solver makes of the noised clip.  L = E d(x0_hat(x_t, t, c), end(x_t, t, c)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, no_grad

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.inputs import StudentInput
from ..core.rng import Rng
from ..core.solvers import Solver, advance
from ..core.step import Batch, Loss

End = Callable[[StudentInput], Tensor]
"""What the student was shown -> the clean sample it should have said, without a graph."""
Distance = Callable[[Tensor, Tensor, Cond, Rng], Tensor]
"""(x, goal, cond, rng), x and goal [B, C, T, ...] -> distance [B]; cond, rng: for distances that look or draw."""


@dataclass(frozen=True)
class Towards:
    """An `Aim`. weight: of this loss beside a judge's."""

    end: End
    distance: Distance
    weight: float = 1.0

    def __call__(self, student: Denoiser, found: StudentInput, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        far = batch.mean(self.distance(x, self.end(found), found.cond, rng))
        return Loss(self.weight * far, {"far": far.detach()})


@dataclass(frozen=True)
class Solved:
    """Where `steps` even steps of the teacher, guided if it should be, take the input: t -> 0."""

    teacher: Denoiser
    steps: int = 4
    solver: Solver = "ddim"

    @no_grad()
    def __call__(self, found: StudentInput) -> Tensor:
        return solved(self.teacher, found, 0 * found.t, self.steps, self.solver)


def solved(teacher: Denoiser, found: StudentInput, u: Tensor, steps: int, solver: Solver) -> Tensor:
    """The teacher's state at u [B] after `steps` even steps from the input's own times."""
    x, t = found.x, found.t
    for i in range(steps):
        now, then = t + (u - t) * (i / steps), t + (u - t) * ((i + 1) / steps)
        x = advance(teacher, x, now, then, found.cond, solver)
    return x
