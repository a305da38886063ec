"""What a talking clip is conditioned on, as a Cond."""

from __future__ import annotations

import pytest
import torch

from vdistill.avatar.conditions import Conditions, present
from vdistill.avatar.mel import Mel
from vdistill.avatar.windows import Windows
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng

SOUND = 0.1 * Rng(0).normal("sound", (2, 640 * 9))
REFERENCE = Rng(0).normal("reference", (2, 16, 4, 4))


def test_it_is_the_windows_of_the_features_and_the_reference_as_given() -> None:
    make = Conditions(Mel(40), Windows())
    cond = make(SOUND, REFERENCE)
    assert torch.equal(cond.along["audio"], Windows()(Mel(40).features(SOUND)))
    assert cond.along["audio"].shape == (2, 3, *make.size) == (2, 3, 8, 160)
    assert torch.equal(cond.fields["ref"], REFERENCE)
    assert cond.along["audio.on"].tolist() == [[1, 1, 1]] * 2 and cond.fields["ref.on"].tolist() == [1, 1]


def test_dropping_says_that_it_is_off() -> None:
    text = Cond({"text": torch.ones(2, 3, 5)}, null={"text": torch.zeros(1, 3, 5)})
    cond = Conditions()(SOUND, REFERENCE, text)
    mute = cond.drop(["audio"])
    assert not mute.along["audio"].any() and not mute.along["audio.on"].any()
    assert torch.equal(mute.fields["ref"], REFERENCE) and torch.equal(mute.fields["text"], text.fields["text"])
    some = cond.drop_where("ref", torch.tensor([False, True]))
    assert some.fields["ref.on"].tolist() == [1, 0] and not some.fields["ref"][1].any()
    assert not cond.drop(["audio", "ref", "text"]).fields["text"].any()


def test_a_part_is_the_condition_of_those_positions() -> None:
    cond = Conditions()(SOUND, REFERENCE)
    assert torch.equal(cond.narrow(1, 2).along["audio"], cond.along["audio"][:, 1:3])


def test_sound_is_on_where_half_of_a_position_has_some() -> None:
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1, 1, 1, 1], [1] + [0] * 8])
    assert present(valid, Windows()).tolist() == [[1, 1, 1], [0, 0, 1], [1, 0, 0]]
    on = Conditions()(SOUND, REFERENCE, valid=valid[:2]).along["audio.on"]
    assert on.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"10 frames.*4 k \+ 1"):
        Conditions()(torch.zeros(2, 6400), REFERENCE)
    with pytest.raises(UserError, match="reference"):
        Conditions()(SOUND, REFERENCE[:1])
    with pytest.raises(UserError, match=r"valid \[2, 8\] for 2 clips of 9 frames"):
        Conditions()(SOUND, REFERENCE, valid=torch.ones(2, 8))
