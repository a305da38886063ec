"""Guidance distillation, stage 1 (Meng et al. 2023): one pass that takes the scale as an input.

L = E w(t) |x0_hat(x_t, t, c, s) - [x0_u + s (x0_c - x0_u)]|^2 with s ~ U[low, high]; s = 1 means none. x_t is noised
data, or what a few-step student meets in its own sampling (as Jensen & Sadat 2025 do with guided trajectories).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn, no_grad

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guided import PerSample
from ..core.inputs import Inputs
from ..core.losses.regression import weighted_x0
from ..core.rng import Rng
from ..core.step import Batch, Loss, See, Shown, alone, given_past


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
    """One learner, "student", which may read the scale from Cond field "guidance" [B]; inputs: where x_t comes from;
    see: what both networks are shown of the batch's samples; past: which of those the student is shown, where that is
    not the truth that its teacher is shown."""

    def __init__(
        self,
        cfg: GuidanceConfig,
        teacher: Denoiser,
        student: Denoiser,
        module: nn.Module,
        inputs: Inputs,
        see: See = alone,
        past: Shown = given_past,
    ) -> None:
        self.cfg, self.teacher, self.student, self.inputs = cfg, teacher, student, inputs
        self.see, self.past = see, past
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        cfg, path = self.cfg, self.student.schedule
        scale = rng.uniform("scale", (len(batch),), cfg.low, cfg.high, like=batch.x)
        told = replace(batch, cond=batch.cond.with_field("guidance", scale))
        student = self.see(self.student, self.past(self.student, batch, rng))
        plain = cfg.low == cfg.high == 1
        guided = self.teacher if plain else PerSample(self.teacher, scale, cfg.name, cfg.max_batch)
        teacher = self.see(guided, batch.x)
        found = self.inputs(student, told, rng)
        if found.cond is not told.cond:
            raise UserError("these inputs bring their own conditions; the teacher would be asked another", "inputs")
        with no_grad():
            goal = teacher.x0(found.x, found.t, batch.cond)
        guess = student.x0(found.x, found.t, told.cond) if found.answer is None else found.answer
        return Loss(batch.mean(weighted_x0(guess, goal, found.t, path, "flow", cfg.floor)))
