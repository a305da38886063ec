"""Causal consistency distillation (Causal Forcing++, stage 2b): a start for few-step students without trajectories.

L = | f(x_t, t; c) - sg f-(Phi(x_t, t -> u; c), u; c) |^2, all blocks at once and each after the clean ones before it;
Phi one solver step of a causal teacher, u the next time of its grid, f- the student's average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn, no_grad

from ..core.denoiser import Denoiser
from ..core.losses.consistency import Boundary, target
from ..core.losses.regression import l2
from ..core.optim import Ema
from ..core.rng import Rng
from ..core.solvers import Solver, advance
from ..core.step import Batch, Loss
from .layout import Layout
from .student import AfterClean, block_times

COUNT = "/updates"  # beside the names of parameters


@dataclass(frozen=True)
class ConsistencyConfig:
    """steps: of the teacher's grid; skip: grid steps it goes at once; each: draw a time for every block, not for the
    clip; decay: of the average that says the target, 0 for the student itself; unit: latents to a position."""

    steps: int = 48
    skip: int = 1
    each: bool = False
    decay: float = 0.99
    solver: Solver = "ddim"
    unit: int = 1


class CausalConsistency:
    """One learner, "student"; `teacher` is causal, and comes guided."""

    def __init__(
        self, cfg: ConsistencyConfig, layout: Layout, teacher: Denoiser, student: Denoiser, module: nn.Module
    ) -> None:
        self.cfg, self.layout, self.teacher, self.student = cfg, layout, teacher, student
        self.grid, self.boundary = student.schedule.grid(cfg.steps), Boundary()
        self.learners: Mapping[str, nn.Module] = {"student": module}
        self.carried = Followed(cfg.decay, module) if cfg.decay else None

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        x, cfg, path = batch.x, self.cfg, self.student.schedule
        teacher, student = (AfterClean(net, self.layout, x, 0.0, cfg.unit) for net in (self.teacher, self.student))
        t, u = self._times(batch, rng)
        xt = path.noise(x, rng.normal("eps", x.shape, like=x), t)
        with no_grad():
            xu = advance(teacher, xt, t, u, batch.cond, cfg.solver)
        if self.carried is None:
            goal = target(student, self.boundary, xu, u, batch.cond)
        else:
            with self.carried.at(rng.step):
                goal = target(student, self.boundary, xu, u, batch.cond)
        guess = self.boundary(student.x0(xt, t, batch.cond), xt, t)
        return Loss(batch.mean(l2(guess, goal)))

    def _times(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor]:
        """(t, u) of every latent, [B, T] (draw "place")."""
        cfg, n = self.cfg, len(batch)
        blocks = self.layout.blocks(batch.x.shape[2] // cfg.unit)
        drawn = rng.integers("place", (n, blocks[-1] + 1 if cfg.each else 1), cfg.steps, like=batch.x)
        place = block_times(drawn.expand(n, blocks[-1] + 1), blocks, cfg.unit)
        grid = self.grid.to(batch.x.device)
        return grid[place], grid[(place + cfg.skip).clamp(max=cfg.steps)]


class Followed:
    """The moving average of a module that is being trained, which takes the module's place when asked.

    It is brought up to date at the first question of every step, before the module's own update.
    """

    alike = True
    """See `core.step.Carried`."""

    def __init__(self, decay: float, module: nn.Module) -> None:
        self.decay, self.module = decay, module
        self.ema, self.step = Ema(decay, module), -1

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """The module with its averaged weights while inside."""
        if step != self.step:
            self.ema.shadow = [s.to(p) for s, p in zip(self.ema.shadow, self.module.parameters(), strict=True)]
            self.ema.update(self.module.parameters())
            self.step = step
        self.ema.swap(self.module)
        torch.clear_autocast_cache()  # it holds the other weights
        try:
            yield
        finally:
            self.ema.swap(self.module)
            torch.clear_autocast_cache()

    def state(self) -> dict[str, Tensor]:
        """The average, and how many updates it is of."""
        return {**self.ema.state(), COUNT: torch.tensor([self.ema.updates, self.step])}

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """Become what `state` was taken of."""
        self.ema = Ema(self.decay, self.module)
        if state:
            updates, self.step = state[COUNT].tolist()
            self.ema.load({k: v for k, v in state.items() if k != COUNT}, updates)
