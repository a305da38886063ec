"""A start for few-step causal students: from any state of a teacher's trajectory to its end in one pass.

L = |x0_hat(x_t, t, c) - x_0|^2 with x_t and x_0 on one trajectory. CausVid (Yin et al. 2025): of the bidirectional
teacher, each block at a time of its own, seeing noisy ones before it. Causal Forcing, stage 2a: of a causal teacher,
one time for the clip, each block seeing clean ones before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.denoiser import Denoiser
from ..core.losses.regression import per_sample
from ..core.rng import Rng
from ..core.sampling import start
from ..core.schedule import spread
from ..core.solvers import Solver, path
from ..core.step import Batch, Loss
from .layout import Layout
from .student import AfterClean, BlockCausal, block_times

Trajectories = Callable[[Batch, Rng], tuple[Tensor, tuple[float, ...]]]
"""States [B, K, C, T, ...] of the batch's samples, and their times, descending to 0."""


@dataclass(frozen=True)
class AfterCleanPath:
    """Trajectories of a causal teacher, all blocks at once, each after the clean ones before it (draw "noise").

    teacher: guided, if it should be; grid: its solver's times, 1 to 0; times: those kept beside the end, each moved to
    the nearest of the grid.
    """

    teacher: Denoiser
    layout: Layout
    grid: tuple[float, ...]
    times: tuple[float, ...]
    solver: Solver = "ddim"
    unit: int = 1

    @torch.no_grad()
    def __call__(self, batch: Batch, rng: Rng) -> tuple[Tensor, tuple[float, ...]]:
        grid = self.grid
        kept = sorted({min(range(len(grid) - 1), key=lambda i: abs(grid[i] - t)) for t in self.times})
        noise = rng.normal("noise", batch.x.shape, like=batch.x)
        x = start(self.teacher.schedule, noise, grid[0])
        after = AfterClean(self.teacher, self.layout, batch.x, 0.0, self.unit)
        states = path(after, x, grid, batch.cond, self.solver)
        return torch.stack([states[i] for i in (*kept, -1)], 1), (*(grid[i] for i in kept), 0.0)


class OdeInit:
    """One learner, "student". kind: what a block sees of those before it, as noisy as they are, or clean."""

    def __init__(
        self,
        kind: Literal["diffusion", "teacher"],
        layout: Layout,
        paths: Trajectories,
        student: Denoiser,
        module: nn.Module,
        unit: int = 1,
    ) -> None:
        self.kind, self.layout, self.paths, self.student, self.unit = kind, layout, paths, student, unit
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        states, times = self.paths(batch, rng)
        blocks, n = self.layout.blocks(states.shape[3] // self.unit), len(states)
        level = self._levels(rng, n, blocks[-1] + 1, len(times))
        index = block_times(level, blocks, self.unit)  # [B, T]
        xt = states.gather(1, spread(index, states[:, 0])[:, None].expand_as(states[:, :1]).to(states.device))[:, 0]
        t = torch.tensor(times, dtype=torch.float64)[index].to(xt.device)
        guess = self._seeing(batch).x0(xt, t, batch.cond)
        noisy = spread(t > 0, guess).to(guess.dtype)  # at the end there is nothing to say
        error = per_sample(noisy * (guess - states[:, -1]).square())
        return Loss(batch.mean(error) / noisy.mean().clamp_min(1e-6))

    def _levels(self, rng: Rng, n: int, blocks: int, levels: int) -> Tensor:
        """Which state each block is taken from, [B, blocks]: the end too, where others may see it (draw "level")."""
        if self.kind == "diffusion":
            return rng.integers("level", (n, blocks), levels)
        return rng.integers("level", (n, 1), levels - 1).expand(n, blocks)

    def _seeing(self, batch: Batch) -> Denoiser:
        if self.kind == "diffusion":
            return BlockCausal(self.student, self.layout, self.unit)
        return AfterClean(self.student, self.layout, batch.x, 0.0, self.unit)
