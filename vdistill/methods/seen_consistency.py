"""Consistency of what is seen of a clip, with a teacher of several solver steps.

L = E d( R f(x_t, t, c), sg R f(Phi^k(x_t, t -> u; c), u, c) ): OSV's second stage (Mao et al. 2024) with the clip as a
whole, k steps of the guided teacher; MCM (Zhai et al. 2024) with a view R of its motion, whose judge looks at pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, no_grad

from ..core.denoiser import Denoiser
from ..core.inputs import StudentInput
from ..core.losses.consistency import Boundary, target
from ..core.losses.regression import Metric, pseudo_huber
from ..core.rng import Rng
from ..core.solvers import Solver
from ..core.step import Batch, Loss
from .motion import whole
from .towards import solved

View = Callable[[Tensor], Tensor]
"""A clip [B, C, T, ...] -> what is compared of it [B, ...]."""


@dataclass(frozen=True)
class SeenConsistency:
    """An `Aim` for inputs at times of `grid` (descending to 0).

    skip: how many of its steps lie between t and u; solves: of the teacher between them; view: R.
    """

    teacher: Denoiser
    grid: tuple[float, ...]
    skip: int = 1
    solves: int = 1
    view: View = whole
    metric: Metric = field(default_factory=pseudo_huber)
    solver: Solver = "ddim"
    weight: float = 1.0

    def __call__(self, student: Denoiser, found: StudentInput, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        boundary, u = Boundary(), self.next(found.t)
        with no_grad():
            xu = solved(self.teacher, found, u, self.solves, self.solver)
        goal = target(student, boundary, xu, u, found.cond)
        guess = boundary(x, found.x, found.t)
        far = batch.mean(self.metric(self.view(guess), self.view(goal)))
        return Loss(self.weight * far, {"far": far.detach()})

    def next(self, t: Tensor) -> Tensor:
        """`skip` steps of the grid below each t [B], 0 at its end."""
        grid = torch.tensor(self.grid, dtype=torch.float64, device=t.device)
        place = (t[:, None] - grid).abs().argmin(1)
        return grid[(place + self.skip).clamp(max=len(grid) - 1)]
