"""Sync: a shift of the picture is found to the frame, with its sign; unrelated signals agree nowhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.eval.sync import best, by_second, distances, pearson, sync, windowed, z_score


def speech(clips: int = 4, frames: int = 100, name: str = "speech") -> Tensor:
    """Smooth signals [B, T, 1] that resemble openings: noise of about the speed of syllables."""
    noise = Rng(5).normal(name, (clips, 1, frames + 8))
    kernel = torch.exp(-0.5 * (torch.arange(-4.0, 5) / 1.6).square())
    return torch.nn.functional.conv1d(noise, (kernel / kernel.sum()).view(1, 1, -1)).transpose(1, 2)


def late(x: Tensor, frames: int) -> Tensor:
    """Every frame shows what belongs `frames` before it."""
    return torch.cat([x[:, :1].expand(-1, frames, -1), x[:, :-frames]], 1) if frames else x


def test_a_signal_agrees_with_itself() -> None:
    x = speech()
    assert torch.allclose(pearson(x[..., 0], 3 - 2 * x[..., 0]), -torch.ones(4))
    found = sync(5 * x + 1, x)
    assert found.distance.max() < 1e-4 and torch.equal(found.offset, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("frames", [3, 8])
def test_a_late_picture_has_a_positive_offset_of_as_many_frames(frames: int) -> None:
    x = speech()
    picture, sound = late(x, frames), x
    assert sync(picture, sound).offset.tolist() == [frames] * 4
    assert sync(sound, picture).offset.tolist() == [-frames] * 4
    assert pearson(picture[..., 0], sound[..., 0]).abs().max() < 0.6
    assert sync(picture, sound).distance.max() < 0.5


def test_unrelated_signals_are_as_far_apart_as_chance_says() -> None:
    found = distances(windowed(z_score(speech(64))), windowed(z_score(speech(64, name="other"))))
    assert found.shape == (64, 31)
    assert abs(float(found.mean()) - math.sqrt(2 * 5)) < 0.45  # less, as neighbours move together
    assert float(best(found).confidence.mean()) < 0.2 * float(sync(speech(), speech()).confidence.mean())


def test_only_positions_with_picture_and_sound_count() -> None:
    x = torch.arange(20.0).view(1, 20, 1)
    expected = torch.arange(-10.0, 11).abs()[None]
    assert torch.equal(distances(x, x), expected)  # half of 20 windows limits the reach to 10


def test_a_signal_that_does_not_move_correlates_with_nothing() -> None:
    assert pearson(torch.full((2, 50), 0.1), speech(2, 50)[..., 0]).abs().max() == 0


def test_the_second_in_which_sync_is_lost_is_found() -> None:
    x = speech(2, 200)
    picture = torch.cat([x[:, :100], late(x, 5)[:, 100:]], 1)
    found = by_second(picture, x)
    assert found.offset.shape == (2, 4)
    assert found.offset[:, :2].abs().max() == 0 and torch.equal(found.offset[:, 3], torch.tensor([5, 5]))


def test_signals_of_different_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="expected two signals"):
        pearson(torch.zeros(1, 5), torch.zeros(1, 6))
    with pytest.raises(UserError, match="expected equal"):
        distances(torch.zeros(1, 5, 2), torch.zeros(1, 6, 2))
    with pytest.raises(UserError, match="no window of 5"):
        sync(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1))
    with pytest.raises(UserError, match="less than one piece"):
        by_second(torch.zeros(1, 40, 1), torch.zeros(1, 40, 1))
