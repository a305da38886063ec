"""Pasts as a network's own errors leave them: between the clip itself and a rollout, and the truth stays the answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from causal.student_bed import TIMES, Watched, by_memory, clips, family, other, plan
from torch import Tensor

from vdistill.causal.attend import View
from vdistill.causal.forcing import Forcing, ForcingConfig
from vdistill.causal.resampled import Resampled
from vdistill.causal.rollout import generate
from vdistill.causal.student import Past
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.inputs import Noised
from vdistill.core.losses.regression import weighted_x0
from vdistill.core.rng import Rng
from vdistill.core.times import Grid
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation

PLAN = plan(window=4)
RNG = Rng(3)


@torch.no_grad()
def test_from_all_noise_it_is_a_rollout() -> None:
    f, b = family(), clips(family())
    place = RNG.at(turn="/resampled/0")
    noise = [
        place.at(turn=f"{place.turn}/block{n}").normal("resampled", b.x[:, :, :2].shape, like=b.x) for n in (0, 2, 4)
    ]
    made = Resampled(PLAN, 1.0, 1.0)(f.net, b, RNG)
    assert torch.equal(made, generate(f.net, torch.cat(noise, 2), b.cond, PLAN, place))


class Knowing(Watched):
    """A denoiser of clips it knows: every estimate is the truth."""

    def __init__(self, inner: Denoiser, truth: Tensor) -> None:
        super().__init__(inner)
        self.truth, self.met = truth, list[Tensor]()

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        super().x0(x, t, cond, attend=attend)
        self.met.append(x)
        assert isinstance(attend, View)
        return self.truth[:, :, [*attend.ids]]


def test_a_network_without_errors_leaves_the_clip_as_it_is() -> None:
    f, b = family(), clips(family())
    known = Resampled(PLAN, 0.2, 0.9, 2)(Knowing(f.net, b.x), b, RNG)
    assert torch.equal(known, b.x)
    assert not torch.equal(Resampled(PLAN, 0.2, 0.9, 2)(f.net, b, RNG), b.x)


def test_a_block_noised_to_the_level_takes_the_steps_below_it_and_is_remembered() -> None:
    f, b = family(), clips(family())
    seen = Knowing(f.net, b.x)
    Resampled(PLAN, 0.5, 0.5)(seen, b, RNG)
    assert seen.asked == [(0.5, False), (0.3, False), (0.0, False)] * 3
    for n in (0, 2, 4):
        block = b.x[:, :, n : n + 2]
        eps = RNG.at(turn=f"/resampled/0/block{n}").normal("resampled", block.shape, like=block)
        assert torch.equal(seen.met[n // 2 * 3], f.schedule.noise(block, eps, torch.full((2,), 0.5).double()))


def test_rounds_follow_one_another_and_take_the_past_further() -> None:
    f, b = family(), clips(family())
    one, two = (Resampled(PLAN, 0.5, 0.5, n)(f.net, b, RNG) for n in (1, 2))
    inner = Resampled(PLAN, 0.5, 0.5)._again(f.net, one, b.cond, RNG.at(turn="/resampled/1"), 0.5)
    assert torch.equal(two, inner) and not torch.equal(one, two)


def test_processes_share_the_level_and_not_the_noise() -> None:
    f, b = family(), clips(family())
    levels = set()
    for rank in (0, 1):
        seen = Watched(f.net)
        Resampled(PLAN, 0.4, 0.9)(seen, b, RNG.at(rank=rank))
        levels.add(tuple(seen.asked))
    a, c = (Resampled(PLAN, 0.4, 0.9)(f.net, b, RNG.at(rank=r)) for r in (0, 1))
    assert len(levels) == 1 and not torch.equal(a, c)


def test_a_guided_teacher_sees_the_truth_and_its_student_what_it_made_of_it() -> None:
    f, teacher, b, past = family(), other(), clips(family()), Resampled(PLAN, 0.7, 0.7)
    one = GuidanceConfig(1.0, 1.0)
    method = GuidanceDistillation(one, teacher.net, f.net, f.net, Noised(Grid(TIMES)), Past(PLAN.layout), past)
    said = method.loss("student", b, RNG).total
    t = Grid(TIMES)(RNG, len(b), b.x, "input/t")
    xt = f.schedule.noise(b.x, RNG.normal("input/eps", b.x.shape, like=b.x), t)
    with torch.no_grad():
        goal = by_memory(teacher.net, PLAN.layout, b.x, xt, t, b)
        guess = by_memory(f.net, PLAN.layout, past(f.net, b, RNG), xt, t, b)
    right = weighted_x0(guess, goal, t, f.schedule, "flow", 0.05).mean()
    torch.testing.assert_close(said.detach(), right, rtol=1e-6, atol=0)


def test_a_past_that_the_data_brings_is_the_students_alone() -> None:
    f, teacher, b = family(), other(), clips(family())
    b = replace(b, past=b.x.flip(2)).to("cpu")
    assert b.past is not None
    one = GuidanceConfig(1.0, 1.0)
    method = GuidanceDistillation(one, teacher.net, f.net, f.net, Noised(Grid(TIMES)), Past(PLAN.layout))
    t = Grid(TIMES)(RNG, len(b), b.x, "input/t")
    xt = f.schedule.noise(b.x, RNG.normal("input/eps", b.x.shape, like=b.x), t)
    with torch.no_grad():
        goal = by_memory(teacher.net, PLAN.layout, b.x, xt, t, b)
        guess = by_memory(f.net, PLAN.layout, b.past, xt, t, b)
    right = weighted_x0(guess, goal, t, f.schedule, "flow", 0.05).mean()
    torch.testing.assert_close(method.loss("student", b, RNG).total.detach(), right, rtol=1e-6, atol=0)
    forcing = Forcing(ForcingConfig(drop=0.0), PLAN.layout, f.net, f.net)
    t = forcing.times(RNG, 6, b.x).unflatten(0, (2, 3)).repeat_interleave(2, 1)
    xt = f.schedule.noise(b.x, RNG.normal("eps", b.x.shape, like=b.x), t)
    with torch.no_grad():
        guess = by_memory(f.net, PLAN.layout, b.past, xt, t, b)
    right = weighted_x0(guess, b.x, t, f.schedule, "flow", 0.05).mean()
    torch.testing.assert_close(forcing.loss("student", b, RNG).total.detach(), right, rtol=1e-6, atol=0)


def test_forcing_asks_for_what_truly_follows_a_past_made_anew() -> None:
    f, b, past = family(), clips(family()), Resampled(PLAN, 0.7, 0.7)
    method = Forcing(ForcingConfig(drop=0.0), PLAN.layout, f.net, f.net, resampled=past)
    said = method.loss("student", b, RNG).total
    t = method.times(RNG, 6, b.x).unflatten(0, (2, 3)).repeat_interleave(2, 1)
    xt = f.schedule.noise(b.x, RNG.normal("eps", b.x.shape, like=b.x), t)
    with torch.no_grad():
        guess = by_memory(f.net, PLAN.layout, past(f.net, b, RNG), xt, t, b)
    right = weighted_x0(guess, b.x, t, f.schedule, "flow", 0.05).mean()
    torch.testing.assert_close(said.detach(), right, rtol=1e-6, atol=0)
