"""Two talkers: tracks, turns, masks, who is silent."""

from __future__ import annotations

import pytest
import torch

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.worlds.talker.duo import OVERLAP, Duo, converse

WORLD = Duo(size=32, frames=200)


def test_sound_is_the_sum_of_tracks_and_pictures_stand_side_by_side() -> None:
    clip = WORLD.clip(0)
    assert clip.frames.shape == (3, 200, 32, 64) and clip.tracks.shape == (2, 200 * 640)
    assert torch.allclose(clip.sound, clip.tracks.sum(0).clamp(-1, 1))
    for i, one in enumerate(clip.people):
        half = slice(32 * i, 32 * i + 32)
        assert torch.equal(clip.frames[..., half], one.frames) and torch.equal(clip.tracks[i], one.sound)
        assert torch.equal(clip.reference[..., half], one.reference)
    assert torch.equal(WORLD.clip(0).frames, clip.frames) and not torch.equal(WORLD.clip(1).frames, clip.frames)


def test_masks_are_those_of_each_and_never_meet() -> None:
    clip = WORLD.clip(1)
    for name, mask in clip.masks.items():
        assert mask.shape == (2, 200, 32, 64) and float((mask[0] * mask[1]).max()) == 0
        assert torch.equal(mask[1, ..., 32:], clip.people[1].masks[name]) and float(mask[1, ..., :32].max()) == 0
    assert bool((clip.box[1, :, 0] > 32).all()) and bool((clip.box[0, :, 2] < 32).all())


def test_turns_alternate_and_overlap_by_a_tenth() -> None:
    _, turns = converse(("en", "en-us"), 2000, Rng(5), "train")
    assert len(turns) > 15
    for one, other in zip(turns, turns[1:-1], strict=False):
        assert other.speaker == 1 - one.speaker
        assert one.end - other.begin == pytest.approx(OVERLAP * (one.end - one.begin), abs=1e-6)


def test_each_is_heard_in_his_turns_only_and_else_keeps_the_mouth_shut() -> None:
    clip = WORLD.clip(2)
    for i in (0, 1):
        loud = clip.tracks[i].reshape(200, 640).square().mean(1) > 1e-8
        assert not bool((loud & ~widened(clip.active[i], 1)).any())
        quiet = ~widened(clip.active[i], 5)
        assert int(quiet.sum()) > 20
        assert float(clip.people[i].mouth[quiet, 0].max()) < 0.02
        assert float(clip.people[i].mouth[clip.active[i], 0].mean()) > 0.15


def widened(active: torch.Tensor, by: int) -> torch.Tensor:
    return torch.nn.functional.max_pool1d(active[None].float(), 2 * by + 1, 1, by)[0] > 0


def test_phonemes_of_each_cover_the_whole_clip() -> None:
    for one in WORLD.clip(3).people:
        ends = [0.0] + [b for _, b, _ in one.phonemes]
        assert [a for a, _, _ in one.phonemes] == pytest.approx(ends[:-1], abs=1e-6)
        assert ends[-1] == pytest.approx(8.0, abs=1e-3)


def test_two_people_have_two_voices_and_one_wall() -> None:
    for i in range(20):
        left, right = WORLD.who(i)
        assert left.voice != right.voice and torch.equal(left.face[12:15], right.face[12:15])
        assert not torch.equal(left.face[:12], right.face[:12])


def test_listeners_nod() -> None:
    clip = Duo(16, 400).clip(4)
    quiet = ~widened(clip.active[0], 2)
    bob = clip.people[0].pose[:, 1].diff().abs()[quiet[1:]]
    assert float(bob.max()) > 0.003


def test_a_picture_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="10 frames of 7 pixels are no clip"):
        Duo(7, 10)
