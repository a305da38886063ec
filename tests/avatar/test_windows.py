"""Which frames of sound a latent position hears."""

from __future__ import annotations

import pytest
import torch

from vdistill.avatar.windows import Windows
from vdistill.core.errors import UserError


def test_positions_hear_three_two_three_frames_and_the_first_five() -> None:
    index = Windows().index(4)
    assert index[0].tolist() == [-2, -2, -2, -2, -1, 0, 1, 2]  # a window of five, its earliest repeated
    assert index[1].tolist() == [-1, 0, 1] + [2, 3] + [4, 5, 6]  # of frames 1 2 3 4: two before, two after
    assert index[3].tolist() == [*range(7, 15)]


def test_a_causal_window_ends_with_its_position() -> None:
    index = Windows(ahead=0).index(3)
    assert index.max(-1).values.tolist() == [0, 4, 8]
    assert index[2].tolist() == [*range(1, 9)]


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_an_impulse_at_frame_k_moves_only_the_positions_whose_window_holds_it(ahead: int) -> None:
    windows, frames = Windows(ahead=ahead), 17
    silent = torch.zeros(1, frames, 3)
    for k in range(frames):
        struck = silent.clone()
        struck[:, k] = 1
        moved = {int(j) for j in (windows(struck) != windows(silent)).flatten(2).any(-1)[0].nonzero()}
        assert moved == {j for j in range(5) if k in windows.frames(j)} | ({0} if k == 0 else set())


def test_ends_repeat_and_a_past_is_heard_where_there_is_one() -> None:
    features = torch.arange(30.0)[None, :, None]
    assert Windows()(features[:, :9])[0, :, :, 0].tolist() == [
        [0, 0, 0, 0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3, 4, 5, 6],
        [3, 4, 5, 6, 7, 8, 8, 8],
    ]
    later = Windows()(features, positions=3, start=10)[0, :, :, 0]
    assert later.tolist() == (Windows().index(3) + 10).tolist()


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_every_stride_hears_its_own_frames_and_four_around(stride: int) -> None:
    windows = Windows(stride)
    assert windows(torch.zeros(2, 2 * stride + 1, 5)).shape == (2, 3, stride + 4, 5)
    for j in (1, 2):
        assert set(range(stride * (j - 1) + 1, stride * j + 1)) <= set(windows.frames(j))


def test_lengths_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"8 frames.*4 k \+ 1"):
        Windows()(torch.zeros(1, 8, 3))
    with pytest.raises(UserError, match="ahead 5"):
        Windows(ahead=5)
