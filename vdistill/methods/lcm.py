"""Latent consistency distillation (Luo et al. 2023; Song et al. 2023).

L = E d( f(x_t, t, c), sg f(Phi(x_t, t -> u; c, s), u, c) ), Phi one solver step of the guided teacher, u the next time
of its grid, f(x, t) = c_skip x + c_out x0_hat, so that f(x, 0) = x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn, no_grad

from ..core.denoiser import Denoiser
from ..core.guided import PerSample
from ..core.losses.consistency import Boundary, target
from ..core.losses.regression import pseudo_huber
from ..core.rng import Rng
from ..core.solvers import Solver, advance
from ..core.step import Batch, Loss


@dataclass(frozen=True)
class LcmConfig:
    """steps: of the teacher's grid; skip: grid steps the teacher goes at once; low, high: range of the guidance scale
    s (1 = none); embed: give s to the student as Cond field "guidance"; huber: c of the pseudo-Huber distance;
    name: the condition guided by; solver: of the teacher's step; max_batch: samples in one guided forward."""

    steps: int = 50
    skip: int = 1
    low: float = 2.0
    high: float = 2.0
    embed: bool = False
    huber: float = 1e-3
    name: str = "text"
    solver: Solver = "ddim"
    max_batch: int | None = None


class Lcm:
    """One learner, "student", which is its own target (no average: LCM with adapters)."""

    def __init__(self, cfg: LcmConfig, teacher: Denoiser, student: Denoiser, module: nn.Module) -> None:
        self.cfg, self.teacher, self.student = cfg, teacher, student
        self.grid, self.boundary = student.schedule.grid(cfg.steps), Boundary()
        self.metric = pseudo_huber(cfg.huber)
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        x, n, cfg, path = batch.x, len(batch), self.cfg, self.student.schedule
        grid = self.grid.to(x.device)
        place = rng.integers("place", (n,), cfg.steps, like=x)
        t, u = grid[place], grid[(place + cfg.skip).clamp(max=cfg.steps)]
        xt = path.noise(x, rng.normal("eps", x.shape, like=x), t)
        scale = rng.uniform("scale", (n,), cfg.low, cfg.high, like=x)
        cond = batch.cond.with_field("guidance", scale) if cfg.embed else batch.cond
        with no_grad():
            xu = advance(self._guided(scale), xt, t, u, batch.cond, cfg.solver)
        goal = target(self.student, self.boundary, xu, u, cond)
        guess = self.boundary(self.student.x0(xt, t, cond), xt, t)
        return Loss(batch.mean(self.metric(guess, goal)))

    def _guided(self, scale: Tensor) -> Denoiser:
        """The teacher under a scale [B]; as it is, and for half the cost, where no scale but 1 is ever drawn."""
        cfg = self.cfg
        unguided = cfg.low == cfg.high == 1
        return self.teacher if unguided else PerSample(self.teacher, scale, cfg.name, cfg.max_batch)
