"""The toy talker: truth scores as truth, damage shows where it was put, and a batch is a function of its place."""

from __future__ import annotations

import pytest
import torch

from vdistill.core.rng import Rng
from vdistill.worlds.toy_talker import MOUTH, ToyTalker, scores, smooth

WORLD = ToyTalker(moving=0.15)


def test_true_clips_have_the_true_look_no_jitter_and_the_true_motion() -> None:
    batch, truth = WORLD.clips(Rng(0), 128, "open")
    found = scores(batch.x, truth, WORLD.way)
    assert found.identity < 1e-10 and found.jitter < 1e-6 and found.motion == pytest.approx(1.0, abs=1e-5)
    assert 0.8 < found.pcc < 0.9  # part of a mouth is its owner's


def test_a_mouth_that_only_follows_the_sound_correlates_wholly() -> None:
    batch, truth = ToyTalker(free=0.0).clips(Rng(0), 32, "open")
    assert scores(batch.x, truth, WORLD.way).pcc == pytest.approx(1.0, abs=1e-5)


def test_damaged_clips_flicker_and_half_of_them_are_late() -> None:
    batch, truth = ToyTalker(flicker=0.2, drift=0.0).clips(Rng(0), 400, "damaged")
    found, late = scores(batch.x, truth, WORLD.way), batch.cond.fields["sync"] == 1
    assert 0.15 < found.jitter < 0.2 and 0.4 < late.float().mean() < 0.6
    kept = truth.mouth[~late], truth.mouth[late]
    for mine, x, least, most in ((kept[0], batch.x[~late], 0.6, 0.9), (kept[1], batch.x[late], -0.1, 0.4)):
        a, b = x[:, :MOUTH] - x[:, :MOUTH].mean(2, keepdim=True), mine - mine.mean(2, keepdim=True)
        assert least < ((a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))).mean() < most
    assert not batch.cond.fields["quality"].any()


def test_clean_clips_show_few_people_and_others_anybody() -> None:
    looks = [WORLD.clips(Rng(0), 300, split)[1].look for split in ("clean", "open")]  # type: ignore[arg-type]
    assert len(looks[0].unique(dim=0)) <= WORLD.people and len(looks[1].unique(dim=0)) == 300


def test_a_training_batch_is_a_function_of_its_place_and_has_the_share_asked_for() -> None:
    one, two, other = WORLD.mixed(Rng(0, 3), 8, 0.25), WORLD.mixed(Rng(0, 3), 8, 0.25), WORLD.mixed(Rng(0, 4), 8, 0.25)
    assert torch.equal(one.x, two.x) and not torch.equal(one.x, other.x)
    assert one.cond.fields["quality"].tolist() == [1.0] * 6 + [0.0] * 2
    assert one.regions["mouth"].expand_as(one.x)[:, :MOUTH].all() and not one.regions["mouth"][:, MOUTH:].any()


def test_smoothed_noise_keeps_its_variance() -> None:
    x = smooth(torch.randn(500, 40, 3), 2.0)
    assert x.shape == (500, 40, 3) and abs(x.var().item() - 1) < 0.1
