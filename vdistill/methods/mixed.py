"""Distilling a guided teacher with the data as a second one: mixed supervision, after FADA (arXiv 2412.16915).

L = E mean w(t) [ |u(x_t, t, c, s) - û(x_t, t, c, s)|^2 + G |u - y_G|^2 ], û the teacher under the sample's own scales.
With `times` and `substeps` the teacher's estimate is that of its ODE from one of the student's times to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn, no_grad

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.inputs import Inputs, StudentInput
from ..core.losses.mixed import (
    Balance,
    GradNorm,
    Seen,
    Target,
    anchored,
    at_ones,
    believed,
    mixed,
    target,
)  # fmt: skip
from ..core.losses.regression import x0_weight
from ..core.plan import scales_in, untold
from ..core.rng import Rng
from ..core.schedule import Schedule, spread
from ..core.solvers import Solver, advance
from ..core.step import Batch, Carried, Loss, See, Term, alone


@dataclass(frozen=True)
class Supervision:
    """What data adds. target, balances, ratio, replaces: as in core/losses/mixed.py; weight: of it all; smooth: width
    of the low-pass by which damaged data moves the teacher's estimate, in positions (0: data as it is)."""

    target: Target = "delta"
    balances: Sequence[Balance] = ()
    weight: float = 1.0
    smooth: float = 0.0
    replaces: float = 0.0
    ratio: GradNorm | None = None

    def __call__(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """(y_G, G)."""
        goal = target(self.target, seen)
        if self.smooth:
            slow = anchored(goal, seen.guided, self.smooth)
            goal = slow + spread(seen.quality, goal) * (goal - slow)
        believe = self.weight * believed(seen, self.balances)
        if self.target == "unit":
            believe = believe * spread(at_ones(scales_in(seen.cond)).to(goal), goal)
        return goal, believe


@dataclass(frozen=True)
class MixedConfig:
    """floor: smallest t in the weight 1 / t^2; times, substeps, solver: of a few-step student's regression, 0 substeps
    for the teacher's estimate at the same place."""

    floor: float = 0.05
    times: Sequence[float] = ()
    substeps: int = 0
    solver: Solver = "ddim"


class MixedDistillation:
    """One learner, "student". The batches are told scales (see methods/guidance_scales.py); `teacher` guides itself by
    them; without `supervision` this is guidance distillation by several scales. terms: of the student's estimate."""

    def __init__(
        self,
        cfg: MixedConfig,
        teacher: Denoiser,
        student: Denoiser,
        module: nn.Module,
        inputs: Inputs,
        supervision: Supervision | None = None,
        see: See = alone,
        terms: Sequence[Term] = (),
    ) -> None:
        if cfg.substeps and not cfg.times:
            raise UserError("the teacher's ODE ends at the student's next time: give its times", "method.substeps")
        self.cfg, self.teacher, self.student, self.inputs, self.see = cfg, teacher, student, inputs, see
        self.supervision, self.terms = supervision, terms
        self.learners: Mapping[str, nn.Module] = {"student": module}
        carried = [b for b in (supervision.balances if supervision else ()) if isinstance(b, Carried)]
        self.carried = carried[0] if carried else None

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        student, teacher = self.see(self.student, batch.x), self.see(self.teacher, batch.x)
        found = self.inputs(student, batch, rng)
        if found.cond is not batch.cond:
            raise UserError("these inputs bring their own conditions; the teacher would be asked another", "inputs")
        with no_grad():
            guided = self._goal(teacher, found)
        guess = student.x0(found.x, found.t, found.cond) if found.answer is None else found.answer
        weight = spread(x0_weight(student.schedule, found.t, "flow", self.cfg.floor), guess).to(guess.dtype)
        seen = Seen(batch.x, guess, guided, guided, found.t, batch.cond, batch.regions)
        if self.supervision is None or found.target is not batch.x:  # own samples: the data says nothing of them
            to_teacher, _ = mixed(seen, guided, weight, guess.new_zeros(()))
            return self._with_terms(Loss(batch.mean(to_teacher)), guess, batch, rng)
        with no_grad():
            seen = replace(seen, plain=teacher.x0(found.x, found.t, untold(found.cond)))
            goal, believe = self.supervision(seen)
        s = self.supervision
        to_teacher, to_data = mixed(seen, goal, weight, believe, replaces=s.replaces, ratio=s.ratio)
        parts = {"teacher": to_teacher, "data": to_data}
        loss = Loss(batch.mean(to_teacher + to_data), {k: v.detach().mean() for k, v in parts.items()})
        return self._with_terms(loss, guess, batch, rng)

    def _with_terms(self, loss: Loss, guess: Tensor, batch: Batch, rng: Rng) -> Loss:
        for term in self.terms:
            loss = loss + term.student(guess, batch, rng)
        return loss

    def _goal(self, teacher: Denoiser, found: StudentInput) -> Tensor:
        if not self.cfg.substeps:
            return teacher.x0(found.x, found.t, found.cond)
        u = after(found.t, self.cfg.times)
        x, places = found.x, torch.linspace(0, 1, self.cfg.substeps + 1, dtype=torch.float64).tolist()
        for a, b in pairwise(places):
            x = advance(teacher, x, torch.lerp(found.t, u, a), torch.lerp(found.t, u, b), found.cond, self.cfg.solver)
        return straight(teacher.schedule, found.x, found.t, x, u)


def after(t: Tensor, times: Sequence[float]) -> Tensor:
    """The next of a few-step student's times below each t, 0 after the last."""
    below = torch.tensor([*sorted(times, reverse=True), 0.0], dtype=t.dtype, device=t.device)
    return below[(below < t[..., None] - 1e-9).to(torch.int8).argmax(-1)]


def straight(schedule: Schedule, x: Tensor, t: Tensor, xu: Tensor, u: Tensor) -> Tensor:
    """The clean estimate with which one DDIM step takes x at t to xu at u < t; [B, C, T, ...], in the dtype of x."""

    def curve(state: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = (spread(v, state) for v in schedule.alpha_sigma(time))
        return state.to(torch.float64) / (alpha + sigma), sigma / (alpha + sigma)

    (z, tau), (zu, tau_u) = curve(x, t), curve(xu, u)
    return (z - tau * (z - zu) / (tau - tau_u)).to(x.dtype)
