"""Guidance distillation, stage 1 (Meng et al. 2023): one pass that takes the scale as an input.

L = E w(t) |x0_hat(x_t, t, c, s) - [x0_u + s (x0_c - x0_u)]|^2 with s ~ U[low, high]; s = 1 means none. x_t is noised
data, or what a few-step student meets in its own sampling (as Jensen & Sadat 2025 do with guided trajectories). Where
the past says how a sample goes on, the goal may be the sample itself, which is sharper than any estimate of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn, no_grad

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guided import PerSample
from ..core.inputs import Inputs, StudentInput
from ..core.losses.regression import weighted_x0
from ..core.rng import Rng
from ..core.step import Batch, Carried, Loss, Met, See, Shown, alone, as_given, given_past


@dataclass(frozen=True)
class GuidanceConfig:
    """low, high: range of the scale; name: the condition it guides; floor: smallest t in the weight 1 / t^2;
    max_batch: samples in one guided forward; truth: positions after which the goal is the sample itself."""

    low: float = 1.0
    high: float = 4.0
    name: str = "text"
    floor: float = 0.05
    max_batch: int | None = None
    truth: int | None = None


class GuidanceDistillation:
    """One learner, "student", which may read the scale from Cond field "guidance" [B]; inputs: where x_t comes from;
    see: what both networks are shown of the batch's samples; past: which of those the student is shown, where that is
    not the truth that its teacher is shown; met: what it learns from in place of the data, such as its own streams."""

    def __init__(
        self,
        cfg: GuidanceConfig,
        teacher: Denoiser,
        student: Denoiser,
        module: nn.Module,
        inputs: Inputs,
        see: See = alone,
        past: Shown = given_past,
        met: Met = as_given,
    ) -> None:
        self.cfg, self.teacher, self.student, self.inputs = cfg, teacher, student, inputs
        self.see, self.past, self.met = see, past, met
        self.carried = met if isinstance(met, Carried) else None
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        cfg, path, batch = self.cfg, self.student.schedule, self.met(self.student, batch, rng)
        scale = rng.uniform("scale", (len(batch),), cfg.low, cfg.high, like=batch.x)
        told = replace(batch, cond=batch.cond.with_field("guidance", scale))
        student = self.see(self.student, self.past(self.student, batch, rng))
        plain = cfg.low == cfg.high == 1
        guided = self.teacher if plain else PerSample(self.teacher, scale, cfg.name, cfg.max_batch)
        found = self.inputs(student, told, rng)
        if found.cond is not told.cond:
            raise UserError("these inputs bring their own conditions; the teacher would be asked another", "inputs")
        with no_grad():
            goal = self._goal(guided, batch, found)
        guess = student.x0(found.x, found.t, told.cond) if found.answer is None else found.answer
        return Loss(batch.mean(weighted_x0(guess, goal, found.t, path, "flow", cfg.floor)))

    def _goal(self, guided: Denoiser, batch: Batch, found: StudentInput) -> Tensor:
        """The teacher's estimate, and the sample itself from `truth` on: what comes before does not see that."""
        k = batch.x.shape[2] if self.cfg.truth is None else self.cfg.truth
        teacher, t = self.see(guided, batch.x[:, :, :k]), found.t if found.t.ndim == 1 else found.t[:, :k]
        goal = teacher.x0(found.x[:, :, :k], t, batch.cond.narrow(0, k) if k < batch.x.shape[2] else batch.cond)
        return torch.cat([goal, batch.x[:, :, k:].to(goal)], 2)
