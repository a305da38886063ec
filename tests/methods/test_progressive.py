"""Progressive distillation: exact where the student's step is the teacher's steps, halved twice, what judges see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gaussian import every_schedule
from methods.bed import G1, G8, RF, affine, batch_of, close, doubled, train
from torch import Tensor, nn

from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.losses.progressive import implied_x0
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import advance, solve
from vdistill.core.step import Loss
from vdistill.discriminators.look import Whole
from vdistill.discriminators.pair import Pair
from vdistill.methods.progressive import Progressive, ProgressiveConfig, between

ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)


def slope_and_shift(values: Tensor) -> tuple[float, float]:
    return (values[1] - values[0]).item(), values[0].item()


def perfect(law: Denoiser, times: tuple[float, ...], substeps: int) -> Net:
    """The student whose step is `substeps` DDIM steps of the law, at each of its times."""
    net = affine(*times).double()
    for i, way in enumerate(between(RF, (*times, 0.0), substeps)):
        goal = solve(law, ENDS, way, Cond())
        a, b = slope_and_shift(implied_x0(RF, ENDS, goal, way[0].expand(2), way[-1].expand(2)))
        with torch.no_grad():
            net.net.a[i], net.net.b[i] = a, b
    return net


def of(student: Net, times: tuple[float, ...], substeps: int = 2, teacher: Denoiser = G1) -> Progressive:
    return Progressive(ProgressiveConfig(substeps), teacher, student, {"student": student}, times)


@every_schedule
def test_the_implied_estimate_is_the_one_that_leads_there(schedule: Schedule) -> None:
    law = Rng(0)
    xt, x0 = (law.normal(name, (5, 2, 3)).double() for name in ("xt", "x0"))
    t, s = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.2]).double(), torch.tensor([0.5, 0.1, 0.4, 0.0, 0.1]).double()
    close(implied_x0(schedule, xt, schedule.step(x0, xt, t, s), t, s), x0, 1e-6)


def test_the_teachers_way_is_its_own_finer_grid() -> None:
    path = Schedule("rf", shift=3.0)
    fine = path.grid(8)
    way = between(path, (*path.grid(4)[:-1].tolist(), 0.0), 2)
    close(way, torch.stack([fine[0:7:2], fine[1:8:2], fine[2:9:2]], 1), 1e-15)


@pytest.mark.parametrize("substeps", [1, 2, 5])
def test_a_perfect_student_has_no_loss_and_an_imperfect_one_has(substeps: int) -> None:
    times, batch = (1.0, 0.7, 0.3), doubled(batch_of(G1, 256))
    net = perfect(G1, times, substeps)
    assert of(net, times, substeps).loss("student", batch, Rng(0)).total.item() < 1e-25
    assert of(net, times, substeps + 1).loss("student", batch, Rng(0)).total.item() > 1e-5


def test_two_halvings_end_at_the_first_teachers_eight_steps() -> None:
    """8 -> 4 -> 2 steps: the last student's two steps go where eight of the first teacher went, and not the ODE."""
    first, second = RF.grid(4)[:-1].tolist(), RF.grid(2)[:-1].tolist()
    middle, last = affine(*first), affine(*second)
    train(of(middle, tuple(first)), G1, 500, {"student": 0.05})
    train(of(last, tuple(second), teacher=middle), G1, 500, {"student": 0.05})
    made = slope_and_shift(Deterministic()(last, ENDS, Cond(), Rng(0), second).detach())
    assert made == pytest.approx(slope_and_shift(solve(G1, ENDS, RF.grid(8), Cond())), abs=2e-3)
    assert made[0] < 0.46  # the ODE says 0.5


# -- judges -----------------------------------------------------------------------------------------------------------


class Listening:
    """A judge that remembers what it is shown, with a weight to train."""

    def __init__(self, name: str) -> None:
        self.name, self.module, self.heard = name, nn.Linear(1, 1), list[Any]()

    def student(self, *told: Any) -> Loss:
        self.heard.append(told)
        return Loss(told[1].mean(), {"gan": told[1].mean().detach()})

    def watch(self, *told: Any) -> Loss:
        self.heard.append(told)
        return Loss(self.module(told[1][:, :1, 0]).mean())


def judged(relax: int) -> tuple[Progressive, Listening, Listening]:
    student, pair, alone = affine(1.0, 0.5, size=8), Listening("pair"), Listening("gan")
    cfg = ProgressiveConfig(distance=0.0, relax=relax, each=2)
    return Progressive(cfg, G8, student, {"student": student}, (1.0, 0.5), (pair, alone)), pair, alone


def test_judges_compare_the_students_end_of_a_step_with_the_teachers() -> None:
    method, pair, _ = judged(relax=10)
    batch, rng = batch_of(G8, 16), Rng(0, step=3)
    jump = method.jump(batch, rng)
    loss = method.loss("student", batch, rng)
    ((start, fake, real, t, s, _, _, _),) = pair.heard
    assert torch.equal(fake, jump.xs) and torch.equal(real, jump.goal) and loss.total == fake.mean()
    assert torch.equal(start, jump.xt) and torch.equal(t, jump.t) and torch.equal(s, jump.s)
    half = (jump.t + jump.s) / 2
    middle = advance(G8, jump.xt, jump.t, half, Cond())
    close(advance(G8, middle, half, jump.s, Cond()), real, 1e-6)
    assert set(zip(jump.t.tolist(), jump.s.tolist(), strict=True)) == {(1.0, 0.5), (0.5, 0.0)}
    assert fake.requires_grad and not real.requires_grad


def test_the_judge_of_pairs_speaks_first_and_then_the_one_of_ends_alone() -> None:
    method, pair, alone = judged(relax=10)
    for step in (0, 9, 10, 11):
        method.loss("critic", batch_of(G8, 4), Rng(0, step=step)).total.backward()
        assert (len(pair.heard), len(alone.heard)) == {0: (1, 1), 9: (2, 2), 10: (2, 3), 11: (2, 4)}[step]
        grads = [p.grad for p in method.learners["critic"].parameters()]
        assert all(g is not None for g in grads)
    assert not any(told[1].requires_grad for told in pair.heard + alone.heard)
    assert all(p.grad is None for p in method.learners["student"].parameters())
    assert set(method.learners["critic"].keys()) == {"pair", "gan"}  # type: ignore[operator]
    assert [method.turn(step) for step in (0, 1)] == [("student", "critic"), ("critic",)]


def test_the_student_hears_one_judge_at_a_time_and_the_resting_one_does_not_move() -> None:
    method, pair, alone = judged(relax=10)
    for step, ears in ((9, (1, 0)), (10, (1, 1))):
        method.loss("student", batch_of(G8, 4), Rng(0, step=step))
        assert (len(pair.heard), len(alone.heard)) == ears
    method.loss("critic", batch_of(G8, 4), Rng(0, step=10)).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in pair.module.parameters())
    assert all(p.grad is not None and p.grad.any() for p in alone.module.parameters())


class Near(nn.Module):
    """How near the end of a step is to slope x_t + shift, or, without the beginning, its square."""

    def __init__(self, slope: float, shift: float) -> None:
        super().__init__()
        self.slope, self.shift = slope, shift

    def forward(self, seen: Sequence[Tensor], times: Tensor, cond: Cond) -> Tensor:
        if seen[0].shape[1] == 1:
            return seen[0][:, :, 0].square()
        start, end = seen[0].unbind(1)
        return -(end - self.slope * start - self.shift).abs()


def test_a_step_to_the_mirror_image_is_seen_by_the_judge_of_pairs_and_forgiven_by_the_other() -> None:
    """Both students give x_s the teacher's law; only one of them gives each x_t the teacher's x_s."""
    t, s, n = torch.full((2,), 0.6).double(), torch.zeros(2).double(), 20000
    low, high = solve(G1, ENDS, between(RF, (0.6, 0.0), 2)[0], Cond()).flatten().tolist()
    slope, middle = high - low, 0.4 * 0.7  # x_t has mean (1 - t) mu
    gaps: list[list[float]] = []
    for sign in (1, -1):
        net = affine(0.6).double()
        ends = low + slope * (middle + sign * (ENDS - middle))
        with torch.no_grad():
            net.net.a[0], net.net.b[0] = slope_and_shift(implied_x0(RF, ENDS, ends, t, s))
        pair, alone = Pair(Whole(), Near(slope, low), kind="wgan"), Pair(Whole(), Near(0, 0), kind="wgan", before=False)
        cfg = ProgressiveConfig(distance=0.0, relax=1)
        method = Progressive(cfg, G1, net, {"student": net}, (0.6,), (pair, alone))
        batch = doubled(batch_of(G1, n))
        gaps.append([method.loss("critic", batch, Rng(0, k)).parts["logit_gap"].item() for k in (0, 1)])
    assert max(map(abs, gaps[0])) < 1e-6
    assert gaps[1][0] > 0.3 and abs(gaps[1][1]) < 0.02
