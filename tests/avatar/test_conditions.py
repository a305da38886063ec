"""What a talking clip is conditioned on, as a Cond."""

from __future__ import annotations

import pytest
import torch

from vdistill.avatar.conditions import Conditions, pooled, present
from vdistill.avatar.mel import Mel
from vdistill.avatar.voiced import Voiced
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


def duo() -> tuple[torch.Tensor, torch.Tensor]:
    """Speaker 0 is loud for 9 frames on the left; speaker 1 is silent on the right."""
    sounds = torch.stack([SOUND[0], torch.zeros(640 * 9)])[None]
    masks = torch.zeros(1, 2, 9, 8, 16)
    masks[:, 0, ..., :8], masks[:, 1, ..., 8:] = 1, 1
    return sounds, masks


def test_of_several_speakers_each_has_a_track_and_a_place_and_the_silent_listen() -> None:
    sounds, masks = duo()
    reference = torch.zeros(1, 4, 2, 4)
    cond = Conditions().several(sounds, masks, reference)
    assert cond.along["audio"].shape == (1, 3, 2, 8, 160)
    assert torch.equal(cond.along["audio"][:, :, 0], Conditions()(sounds[:, 0], reference).along["audio"])
    assert cond.along["audio.on"].tolist() == [[[1, 2]] * 3]
    assert cond.along["speakers"][0, 2].tolist() == [[[1, 1, 0, 0]] * 2, [[0, 0, 1, 1]] * 2]
    swapped = Conditions().several(sounds.flip(1), masks.flip(1), reference)
    assert torch.equal(swapped.along["audio"], cond.along["audio"].flip(2))
    mute = cond.drop(["audio"])
    assert not mute.along["audio.on"].any() and torch.equal(mute.along["speakers"], cond.along["speakers"])
    with pytest.raises(UserError, match="1 masks for 2 speakers"):
        Conditions().several(sounds, masks[:, :1], reference)
    with pytest.raises(UserError, match="masks of 5 frames for sound of 9"):
        Conditions().several(sounds, masks[:, :, :5], reference)


def test_a_mask_is_pooled_over_the_frames_of_a_position() -> None:
    masks = torch.zeros(1, 9, 4, 4)
    masks[:, 1:3, :2] = 1
    assert pooled(masks, Windows(), (2, 2))[0].tolist() == [[[0, 0], [0, 0]], [[0.5, 0.5], [0, 0]], [[0, 0], [0, 0]]]
    assert pooled(masks[:, :1], Windows(), (2, 2)).shape == (1, 1, 2, 2)


def test_speech_lasts_a_little_longer_than_its_loud_frames() -> None:
    sound = torch.zeros(640 * 20)
    sound[640 * 5 : 640 * 7] = 0.1
    assert Voiced(hold=3)(sound).nonzero().flatten().tolist() == [5, 6, 7, 8, 9]
    assert Voiced(hold=0, lead=2)(sound).nonzero().flatten().tolist() == [3, 4, 5, 6]
    assert not Voiced()(0.001 * sound).any()
    batch = Voiced(hold=3)(torch.stack([sound, sound * 0])[None])
    assert batch.shape == (1, 2, 20) and batch[0, 0].sum() == 5 and not batch[0, 1].any()
