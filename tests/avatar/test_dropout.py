"""Conditions that training samples go without, and damage to the frames they go on from."""

from __future__ import annotations

import pytest
import torch

from vdistill.avatar.conditions import NULL, Conditions
from vdistill.avatar.dropout import Dropout
from vdistill.avatar.motion_frames import MotionFrames
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng


def cond(count: int) -> Cond:
    along = {"audio": torch.ones(count, 2, 8, 3), "audio.on": torch.ones(count, 2)}
    return Cond({"ref": torch.ones(count, 4, 2, 2), "ref.on": torch.ones(count)}, along, NULL)


def test_the_shares_are_those_of_the_table_and_the_cases_exclude_each_other() -> None:
    count = 20_000
    table = {"ref": 0.1, "audio": 0.05, "ref+audio": 0.2}
    made = Dropout(table)(cond(count), Rng(3), count)
    ref, audio = made.fields["ref.on"] == 0, made.along["audio.on"][:, 0] == 0
    for wanted, found in ((0.1, ref & ~audio), (0.05, audio & ~ref), (0.2, ref & audio), (0.65, ~ref & ~audio)):
        assert abs(float(found.float().mean()) - wanted) < 4 * (wanted * (1 - wanted) / count) ** 0.5
    assert not made.along["audio"][audio].any() and made.along["audio"][~audio].all()
    assert not made.fields["ref"][ref].any() and made.fields["ref"][~ref].all()


def test_motion_frames_are_a_condition_like_others() -> None:
    with_past = cond(4000).with_field("motion", torch.ones(4000, 1))
    with_past = Cond(with_past.fields, with_past.along, {**NULL, "motion": torch.zeros(1, 1)})
    made = Dropout({"motion": 0.3})(with_past, Rng(0), 4000)
    assert abs(float(1 - made.fields["motion"].mean()) - 0.3) < 0.03
    assert made.along["audio.on"].all()


def test_the_draw_is_a_function_of_seed_and_step() -> None:
    drop = Dropout()
    assert torch.equal(drop.draw(64, Rng(1, step=5)), drop.draw(64, Rng(1, step=5)))
    assert not torch.equal(drop.draw(64, Rng(1, step=5)), drop.draw(64, Rng(1, step=6)))
    assert torch.equal(Dropout({}).draw(8, Rng(0)), torch.zeros(8, dtype=torch.long))
    assert Dropout({"ref": 0.0, "audio": 1.0}).draw(99, Rng(0)).tolist() == [1] * 99


def test_shares_that_are_none_and_names_that_are_not_there_are_told() -> None:
    for table in ({"ref": 0.7, "audio": 0.4}, {"ref": -0.1}, {"ref": float("nan")}):
        with pytest.raises(UserError, match="add up to"):
            Dropout(table)
    with pytest.raises(KeyError, match="'speed'"):
        Dropout({"speed": 0.5})(cond(2), Rng(0), 2)


def test_damage_blanks_a_tenth_to_a_quarter_of_the_pixels_and_adds_noise() -> None:
    x = torch.ones(64, 3, 2, 16, 16)
    made = MotionFrames()(x, Rng(0))
    blank = (made == 0).all(1).flatten(1).float().mean(-1)
    assert float(blank.min()) > 0.05 and float(blank.max()) < 0.3 and float(blank.std()) > 0.02
    assert torch.equal((made == 0).all(1), (made == 0).any(1))  # channels together
    strength = torch.stack([one[one != 0].sub(1).std() for one in made]).log()
    assert abs(float(strength.mean()) + 3) < 0.2 and abs(float(strength.std()) - 0.5) < 0.15
    assert torch.equal(made, MotionFrames()(x, Rng(0))) and not torch.equal(made, MotionFrames()(x, Rng(1)))


def test_no_damage_is_none() -> None:
    x = Rng(0).normal("x", (4, 3, 2, 8, 8))
    assert torch.equal(MotionFrames(share=0.0)(x, Rng(0)), x)
    part = MotionFrames(share=0.5)(x.expand(4, 3, 2, 8, 8).repeat(50, 1, 1, 1, 1), Rng(0))
    untouched = (part == x.repeat(50, 1, 1, 1, 1)).flatten(1).all(-1).float().mean()
    assert 0.35 < float(untouched) < 0.65
    with pytest.raises(UserError, match="blank"):
        MotionFrames(blank=(0.5, 0.2))


def test_conditions_of_a_talking_clip_can_be_dropped_by_the_table() -> None:
    made = Conditions()(torch.zeros(8, 640 * 5), torch.ones(8, 4, 2, 2))
    assert Dropout()(made, Rng(0), 8).along["audio"].shape == (8, 2, 8, 160)
