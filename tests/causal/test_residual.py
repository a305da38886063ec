"""Residual guidance is guidance where the negative stands still; similar inputs are left out as often as said."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vdistill.causal.residual import OneTimeNegative, Residual
from vdistill.causal.similar import SimilaritySkip, skip_probability
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic, OneStep, Renoise, at
from vdistill.core.schedule import Schedule
from vdistill.families.analytic import LABEL, Classes

FLOW = Schedule("rf")
MEANS = torch.tensor([[-1.0, 0.5], [2.0, 1.0], [0.3, -0.2]], dtype=torch.float64)[:, None, :, None]  # [3, 1, 2, 1]
TIMES = (1.0, 0.8, 0.5, 0.2)


@dataclass
class Noting:
    """Remembers every pass."""

    inner: Denoiser
    passes: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        out = self.inner.x0(x, t, cond)
        self.passes.append((x, t, out))
        return out


def bed(std: float = 0.5, schedule: Schedule = FLOW) -> tuple[Classes, Tensor, Cond]:
    law = Classes(schedule, MEANS, std)
    noise = Rng(0).normal("noise", (4, 1, 2, 1)).double()
    return law, noise, law.cond(torch.tensor([0, 1, 1, 0]))


def test_the_first_step_against_a_one_time_negative_is_guidance() -> None:
    law, noise, cond = bed()
    kept = Noting(law)
    for time in (1.0, 0.6):
        made = OneTimeNegative(OneStep(), 3.0, LABEL)(kept, noise, cond, Rng(0), (time,))
        x, t, _ = kept.passes[-1]
        assert (made - Guided(law, cfg(3.0, LABEL)).x0(x, t, cond)).abs().max() < 1e-12


@pytest.mark.parametrize("sampler", [Renoise(), Deterministic()])
def test_against_a_negative_that_is_one_point_it_is_guidance_at_every_step(sampler: Renoise | Deterministic) -> None:
    law, noise, cond = bed(std=0.0)
    made = OneTimeNegative(sampler, 3.0, LABEL)(law, noise, cond, Rng(1), TIMES)
    assert (made - sampler(Guided(law, cfg(3.0, LABEL)), noise, cond, Rng(1), TIMES)).abs().max() < 1e-12
    spread, *_ = bed(std=0.5)
    apart = OneTimeNegative(sampler, 3.0, LABEL)(spread, noise, cond, Rng(1), TIMES)
    assert (apart - sampler(Guided(spread, cfg(3.0, LABEL)), noise, cond, Rng(1), TIMES)).abs().max() > 1e-3


def test_passes_are_one_a_step_and_one_more_for_a_one_time_negative() -> None:
    law, noise, cond = bed()
    one, own, both = Noting(law), Noting(law), Noting(law)
    OneTimeNegative(Renoise(), 3.0, LABEL)(one, noise, cond, Rng(0), TIMES)
    Renoise()(Residual(own, noise, 3.0), noise, cond, Rng(0), TIMES)
    Renoise()(Guided(both, cfg(3.0, LABEL)), noise, cond, Rng(0), TIMES)
    assert [sum(len(x) for x, *_ in net.passes) // 4 for net in (one, own, both)] == [5, 4, 8]


def test_it_is_the_mix_of_noises_it_says() -> None:
    schedule = Schedule("vp")
    law, x, cond = bed(schedule=schedule)
    source, t, s = torch.randn_like(x), at(x, 0.6), 2.5
    alpha, sigma = (v[0] for v in schedule.alpha_sigma(t))
    for delta in (1.0, 0.7):
        eps = schedule.eps(law.x0(x, t, cond), x, t)
        virtual = delta * (x - alpha * source) / sigma
        told = virtual + s * (eps - virtual)
        found = Residual(law, source, s, delta).x0(x, t, cond)
        assert (found - (x - sigma * told) / alpha).abs().max() < 1e-9


def test_a_scale_of_one_is_none() -> None:
    law, noise, cond = bed()
    for one in (OneTimeNegative(Renoise(), 1.0, LABEL), Renoise()):
        assert torch.equal(one(law, noise, cond, Rng(0), TIMES), Renoise()(law, noise, cond, Rng(0), TIMES))


def test_a_delta_has_no_meaning_in_pure_noise() -> None:
    law, noise, cond = bed()
    with pytest.raises(UserError, match=r"residual\.delta"):
        Residual(law, noise, 2.0, 0.5).x0(noise, at(noise, 1.0), cond)


def test_the_same_input_is_left_out_and_another_is_not() -> None:
    picture = torch.rand(3, 8, 8)
    assert skip_probability(picture, picture) == pytest.approx(1.0)
    assert skip_probability(torch.rand(3, 8, 8), picture) == 0.0
    near = torch.tensor([1.0, 0.1])  # cos = 1 / sqrt(1.01)
    assert skip_probability(near, torch.tensor([2.0, 0.0]), 0.98) == pytest.approx((1.01**-0.5 - 0.98) / 0.02)


def test_a_still_picture_is_taken_once_in_a_while_and_a_new_one_at_once() -> None:
    still, other = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    skip = SimilaritySkip(Rng(0), longest=4)
    assert [skip(still) for _ in range(11)] == [False, *[True] * 4, False, *[True] * 4, False]
    assert [skip(other), skip(still), skip(other)] == [False] * 3
    assert (skip.seen, skip.skipped) == (14, 8)


def test_draws_are_named_and_skips_are_as_frequent_as_their_chance() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.1])
    chance = skip_probability(b, a)

    def told(seed: int) -> list[bool]:
        found = []
        for i in range(400):
            skip = SimilaritySkip(Rng(seed, step=i))
            skip(a)
            found.append(skip(b))
        return found

    assert told(0) == told(0) != told(1)
    assert sum(told(0)) / 400 == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize("wrong", [{"threshold": 1.0}, {"threshold": -0.1}, {"longest": -1}])
def test_what_cannot_be_is_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match="similarity"):
        SimilaritySkip(Rng(0), **wrong)  # type: ignore[arg-type]
