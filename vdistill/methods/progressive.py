"""Progressive distillation, by regression (Salimans & Ho 2022) or by judges (SDXL-Lightning, Lin et al. 2024).

x_s = DDIM(x_t, x0_hat(x_t, t, c); t -> s) is to be where n steps of the guided teacher lead, G(x_t; t -> s):
regression: w(t) |x0_hat - x0(x_t, G)|^2;  pair judge: D(x_t, x_s) against D(x_t, G), so the student keeps the teacher's
trajectories; then, relaxed, D(x_s) alone, which forgives a trajectory that the student cannot follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn, no_grad

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.losses.progressive import implied_x0
from ..core.losses.regression import Weighting, weighted_x0
from ..core.rng import Rng
from ..core.sampling import checked
from ..core.schedule import Schedule
from ..core.solvers import Solver, advance
from ..core.step import Batch, Loss
from .judged import StepJudge, judging


@dataclass(frozen=True)
class ProgressiveConfig:
    """substeps: n; weighting, floor: of the regression, as in flow; distance: its weight, 0 for judges alone; relax:
    the training step from which the second judge takes over; each: updates of the judges for one of the student."""

    substeps: int = 2
    weighting: Weighting = "flow"
    floor: float = 0.05
    distance: float = 1.0
    relax: int = 0
    each: int = 1
    solver: Solver = "ddim"


@dataclass(frozen=True)
class Jump:
    """A step of a sampler, t -> s [B]: where it began, the student's and the teacher's end, x0 of the student."""

    t: Tensor
    s: Tensor
    xt: Tensor
    xs: Tensor
    goal: Tensor
    x0: Tensor


class Progressive:
    """Learners: "student", and "critic" with judges: first the one of pairs, from cfg.relax on the one of ends alone.

    times: of the student's steps, to 0 at the end; judges: none, one, or those two.
    """

    def __init__(
        self,
        cfg: ProgressiveConfig,
        teacher: Denoiser,
        student: Denoiser,
        modules: Mapping[str, nn.Module],
        times: Sequence[float],
        judges: Sequence[StepJudge] = (),
    ) -> None:
        self.cfg, self.teacher, self.student, self.judges = cfg, teacher, student, judges
        self.table = between(student.schedule, (*checked(times), 0.0), cfg.substeps)
        self.learners: Mapping[str, nn.Module] = {"student": modules["student"]} | judging(modules, judges)

    def turn(self, step: int) -> tuple[str, ...]:
        if "critic" not in self.learners:
            return ("student",)
        return ("student", "critic") if step % self.cfg.each == 0 else ("critic",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        if learner == "student":
            return self._student(self.jump(batch, rng), batch, rng)
        with no_grad():
            jump = self.jump(batch, rng)
        return self._watch(jump, batch, rng)

    def jump(self, batch: Batch, rng: Rng) -> Jump:
        """From a noised clip at one of the student's times to the next, by both (draws "place", "input/eps")."""
        x, path = batch.x, self.student.schedule
        place = rng.integers("place", (len(x),), len(self.table), like=x)
        way = self.table.to(x.device)[place]  # [B, substeps + 1]
        t, s = way[:, 0], way[:, -1]
        xt = path.noise(x, rng.normal("input/eps", x.shape, like=x), t)
        with no_grad():
            goal = xt
            for now, then in zip(way.unbind(1)[:-1], way.unbind(1)[1:], strict=True):
                goal = advance(self.teacher, goal, now, then, batch.cond, self.cfg.solver)
        x0 = self.student.x0(xt, t, batch.cond)
        return Jump(t, s, xt, path.step(x0, xt, t, s), goal, x0)

    def _student(self, jump: Jump, batch: Batch, rng: Rng) -> Loss:
        cfg, path = self.cfg, self.student.schedule
        goal = implied_x0(path, jump.xt, jump.goal, jump.t, jump.s)
        far = batch.mean(weighted_x0(jump.x0, goal, jump.t, path, cfg.weighting, cfg.floor))
        loss = Loss(cfg.distance * far, {"far": far.detach()})
        if not self.judges:
            return loss
        return loss + self._judge(rng).student(*seen(jump, batch.cond), rng, batch.weight)

    def _watch(self, jump: Jump, batch: Batch, rng: Rng) -> Loss:
        """Before its turn the second judge learns beside the first, which rests afterwards, with gradients of 0: so
        whoever is in charge is no newcomer, and any number of processes moves the same weights."""
        charge = self._judge(rng)
        loss = charge.watch(*seen(jump, batch.cond), rng, batch.weight)
        for other in self.judges:
            if other is not charge and rng.step < self.cfg.relax:
                loss = Loss(loss.total + other.watch(*seen(jump, batch.cond), rng, batch.weight).total, loss.parts)
            elif other is not charge and other.module is not None:
                loss = Loss(loss.total + sum(0 * p.sum() for p in other.module.parameters()), loss.parts)
        return loss

    def _judge(self, rng: Rng) -> StepJudge:
        """Who is heard."""
        return self.judges[-1] if rng.step >= self.cfg.relax else self.judges[0]


def seen(jump: Jump, cond: Cond) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Cond]:
    """What a judge is told of a step, in the order it takes it."""
    return jump.xt, jump.xs, jump.goal, jump.t, jump.s, cond


def between(path: Schedule, times: Sequence[float], steps: int) -> Tensor:
    """[N, steps + 1]: the way from each time to the next, even on the schedule's unshifted clock, float64."""
    even = replace(path, shift=1 / path.shift).warp(torch.tensor(times, dtype=torch.float64))
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return path.warp(torch.lerp(even[:-1, None], even[1:, None], share))
