"""Scores of talking clips: exact on drawn mouths, blind to the mouth where they speak of the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.eval.aperture import INNER, side_by_side
from vdistill.eval.talking import Truth, colour_slope, ends, jerk, jitter, motion, seconds, talking_scores

KEYS = {"sync_pcc", "sync_d", "sync_c", "offset", "identity_error", "jitter", "motion", "aperture", "crosstalk"}


def speech(clips: int, frames: int) -> Tensor:
    noise = Rng(5).normal("speech", (clips, 1, frames + 8))
    kernel = torch.exp(-0.5 * (torch.arange(-4.0, 5) / 1.6).square())
    smooth = torch.nn.functional.conv1d(noise, (kernel / kernel.norm()).view(1, 1, -1))[:, 0]
    return (0.5 + 0.25 * smooth).clamp(0.05, 1)


def drawn(opening: Tensor, size: int = 32) -> Tensor:
    """Still faces whose mouths are open as asked: a dark band, its last row as dark as what is left over."""
    b, t = opening.shape
    rows = torch.arange(size).view(1, 1, -1) - 19
    cover = (8 * opening[..., None] - rows).clamp(0, 1) * (rows >= 0)  # [B, T, H]
    alpha = cover[:, None, :, :, None] * ((torch.arange(size) >= 12) & (torch.arange(size) < 20))
    skin, inner = torch.tensor((0.9, 0.7, 0.6)), torch.tensor(INNER)
    x = skin.view(1, 3, 1, 1, 1) + alpha * (inner - skin).view(1, 3, 1, 1, 1)
    return 2 * x.expand(b, 3, t, size, size) - 1


def late(x: Tensor, frames: int) -> Tensor:
    return torch.cat([x[:, :, :1].expand(-1, -1, frames, -1, -1), x[:, :, :-frames]], 2)


def test_a_mouth_that_does_what_is_asked_scores_full_and_stillness_is_stillness() -> None:
    opening = speech(3, 75)
    found = talking_scores(drawn(opening), Truth(opening, identity=lambda x: torch.tensor([0.1, 0.2, 0.3])))
    assert found["sync_pcc"] > 0.97 and found["offset"] == 0 and found["sync_d"] < 0.7 < found["sync_c"]
    assert found["motion"] == found["jitter"] == 0
    assert found["identity_error"] == pytest.approx(0.2)
    assert set(found) == KEYS - {"crosstalk"}


@pytest.mark.parametrize("frames", [3, 8])
def test_a_late_picture_is_found_exactly_and_punished_by_the_correlation_alone(frames: int) -> None:
    opening = speech(3, 75)
    on_time = talking_scores(drawn(opening), Truth(opening))
    found = talking_scores(late(drawn(opening), frames), Truth(opening))
    assert found["offset"] == frames
    assert found["sync_pcc"] < 0.5 * on_time["sync_pcc"]
    assert found["sync_d"] < on_time["sync_d"] + 0.2


def test_noise_outside_the_mouth_is_its_deviation() -> None:
    opening = speech(2, 40)
    x = drawn(opening) + 0.05 * Rng(1).normal("noise", (2, 3, 40, 32, 32))
    assert torch.allclose(jitter(x), torch.full((2,), 0.05), rtol=0.03)
    assert torch.allclose(motion(x), torch.full((2,), 0.05 * 2**0.5), rtol=0.03)


def test_a_mouth_given_as_a_mask_is_left_out_wherever_it_moves() -> None:
    x, mask = torch.zeros(1, 3, 12, 32, 32), torch.zeros(1, 12, 32, 32)
    for t in range(12):
        x[:, :, t, 4:8, t : t + 6] = 1
        mask[:, t, 4:8, t : t + 6] = 1
    assert motion(x, mask) == 0 < motion(x)


def test_the_keys_of_a_duo_and_of_a_network() -> None:
    opening = speech(2, 40)
    x = torch.cat([drawn(opening), drawn(torch.full_like(opening, 0.3))], -1)
    regions, turns = side_by_side(32, 64), torch.tensor([[[1.0], [0.0]]]).expand(1, 2, 40)
    vectors = Rng(0).normal("v", (2, 36, 8))
    left, right = regions[:, 0], regions[:, 1]
    truth = Truth(opening, left, (regions, turns), lambda x: torch.zeros(len(x)), lambda x: (vectors, vectors))
    found = talking_scores(x, truth)
    assert set(found) == KEYS | {"net_d", "net_c", "net_offset"}
    assert found["crosstalk"] < 1e-8 and found["net_d"] == found["net_offset"] == 0
    swapped = talking_scores(x, replace(truth, mouth=right, turns=(regions, turns.flip(1))))
    assert swapped["crosstalk"] > 1e6 and abs(swapped["sync_pcc"]) < 0.3 < 0.9 < found["sync_pcc"]


def test_colour_that_walks_away_has_its_speed() -> None:
    x = torch.zeros(1, 3, 50, 8, 8) + 2 * 0.01 * (torch.arange(50) / 25).view(1, 1, -1, 1, 1)
    assert torch.allclose(colour_slope(x), torch.tensor([0.01 * 3**0.5]), rtol=1e-4)


def test_the_jerk_of_a_cubic_is_six() -> None:
    t = (torch.arange(30) / 25.0).view(1, -1, 1)
    assert torch.allclose(jerk(t**3), torch.tensor([[6.0]]), rtol=2e-2)
    assert jerk(3 * t**2 + t).max() < 0.2


def test_curves_show_when_sync_and_colour_are_lost() -> None:
    opening = speech(3, 350)
    x = drawn(opening)
    gone = torch.cat([x[:, :, :200], 0.7 * late(x, 5)[:, :, 200:]], 2)
    rows = seconds(gone, Truth(opening))
    assert [r["second"] for r in rows] == [2.0 * n for n in range(7)]
    assert [r["offset"] for r in rows[:4]] == [0] * 4 and rows[6]["offset"] == 5
    assert rows[0]["colour"] < 1e-3 < 0.1 < rows[6]["colour"]
    both = ends(rows)
    assert both["offset_largest"] == 5
    assert both["sync_pcc_last"] < 0.6 < 0.9 < both["sync_pcc_first"]
    assert both["colour_first"] < both["colour_last"]


def test_clips_and_openings_of_different_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="with openings"):
        talking_scores(torch.zeros(1, 3, 9, 32, 32), Truth(torch.zeros(1, 8)))
