"""Latent consistency distillation (Luo et al. 2023; Song et al. 2023).

L = E d( f(x_t, t, c), sg f(Phi(x_t, t -> u; c, s), u, c) ), Phi one solver step of the guided teacher, u the next time
of its grid, f(x, t) = c_skip x + c_out x0_hat, so that f(x, 0) = x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn, no_grad

from ..core.denoiser import Denoiser
from ..core.guidance import guided_x0
from ..core.losses.consistency import Boundary, target
from ..core.losses.regression import pseudo_huber
from ..core.rng import Rng
from ..core.step import Batch, Loss


@dataclass(frozen=True)
class LcmConfig:
    """steps: of the teacher's grid; skip: grid steps the teacher goes at once; low, high: range of the guidance scale
    s (1 = none); embed: give s to the student as Cond field "guidance"; huber: c of the pseudo-Huber distance."""

    steps: int = 50
    skip: int = 1
    low: float = 2.0
    high: float = 2.0
    embed: bool = False
    huber: float = 1e-3
    name: str = "text"


class Lcm:
    """One learner, "student". `target` is the denoiser of the target side: the student itself or its average."""

    def __init__(
        self, cfg: LcmConfig, teacher: Denoiser, student: Denoiser, module: nn.Module, target: Denoiser | None = None
    ) -> None:
        self.cfg, self.teacher, self.student, self.target = cfg, teacher, student, target or student
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
            xu = path.step(guided_x0(self.teacher, xt, t, batch.cond, scale, cfg.name), xt, t, u)
        goal = target(self.target, self.boundary, xu, u, cond)
        guess = self.boundary(self.student.x0(xt, t, cond), xt, t)
        return Loss(batch.mean(self.metric(guess, goal)))
