"""Guidance distillation, stage 1 (Meng et al. 2023): one pass that takes the scale as an input.

L = E w(t) |x0_hat(x_t, t, c, s) - [x0_u + s (x0_c - x0_u)]|^2 with s ~ U[low, high]; s = 1 means none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn, no_grad

from ..core.denoiser import Denoiser
from ..core.guidance import guided_x0
from ..core.losses.regression import weighted_x0
from ..core.rng import Rng
from ..core.step import Batch, Loss
from ..core.times import Times


@dataclass(frozen=True)
class GuidanceConfig:
    """low, high: range of the scale; name: the condition it guides; floor: smallest t in the weight 1 / t^2;
    max_batch: samples in one guided forward."""

    low: float = 1.0
    high: float = 4.0
    name: str = "text"
    floor: float = 0.05
    max_batch: int | None = None


class GuidanceDistillation:
    """One learner, "student", which reads the scale from Cond field "guidance" [B]."""

    def __init__(
        self, cfg: GuidanceConfig, teacher: Denoiser, student: Denoiser, module: nn.Module, times: Times
    ) -> None:
        self.cfg, self.teacher, self.student, self.times = cfg, teacher, student, times
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        x, n, cfg = batch.x, len(batch), self.cfg
        t = self.times(rng, n, x)
        xt = self.student.schedule.noise(x, rng.normal("eps", x.shape, like=x), t)
        scale = rng.uniform("scale", (n,), cfg.low, cfg.high, like=x)
        with no_grad():
            target = guided_x0(self.teacher, xt, t, batch.cond, scale, cfg.name, max_batch=cfg.max_batch)
        guess = self.student.x0(xt, t, batch.cond.with_field("guidance", scale))
        return Loss(batch.mean(weighted_x0(guess, target, t, self.student.schedule, "flow", cfg.floor)))
