"""A live session: the same frames whatever the pieces; each block hears what the whole clip's positions hear."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vdistill.avatar.mel import Mel
from vdistill.avatar.rates import RATE, SAMPLES
from vdistill.avatar.session import Chunk, Heard, Session
from vdistill.avatar.windows import Windows
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng

MEL, WINDOWS = Mel(20), Windows()


class Echo:
    """Frames that show what was heard: its own positions' windows, one row a frame."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    def __call__(self, heard: Heard) -> Tensor:
        self.heard.append(heard)
        own = heard.audio[0, heard.back :].flatten(1)  # [n, S F]
        frames = own.repeat_interleave(WINDOWS.stride, 0)
        frames = frames if heard.start else frames[WINDOWS.stride - 1 :]
        return frames.T[None, :, :, None].permute(0, 2, 1, 3).expand(3, -1, -1, 1)


def sound(seconds: float = 2.0, level: float = 0.1) -> Tensor:
    return level * Rng(0).normal("sound", (int(seconds * RATE),))


def session(**how: int) -> tuple[Session, Echo]:
    echo = Echo()
    return Session(echo, MEL, WINDOWS, **{"first": 3, "block": 2, "back": 2, **how}), echo


def frames_of(chunks: Sequence[Chunk]) -> Tensor:
    return torch.cat([chunk.frames for chunk in chunks], 1)


@pytest.mark.parametrize("pieces", [[1, 7, 641], [SAMPLES], [50_000], [333]])
def test_the_same_frames_whatever_the_pieces(pieces: list[int]) -> None:
    heard = sound()
    whole, _ = session()
    expected = frames_of(whole.push(heard) + whole.finish())
    live, _ = session()
    made, at, i = [], 0, 0
    while at < len(heard):
        made += live.push(heard[at : at + pieces[i % len(pieces)]])
        at, i = at + pieces[i % len(pieces)], i + 1
    assert torch.equal(frames_of(made + live.finish()), expected)
    assert [chunk.start for chunk in made] == [0] + [9 + 8 * k for k in range(len(made) - 1)]


def test_positions_hear_what_those_of_the_whole_clip_hear() -> None:
    """But position 0 of a block with a past: its window is that of a clip's beginning, with what was before it."""
    heard = sound()[: 49 * SAMPLES]
    live, echo = session()
    live.push(heard)
    live.finish()
    whole = WINDOWS(MEL.features(heard[None]))
    for block in echo.heard:
        own = block.audio[:, block.back :]
        assert torch.equal(own, whole[:, block.start : block.start + own.shape[1]])
        if block.back > 1:
            assert torch.equal(block.audio[:, 1 : block.back], whole[:, block.start - block.back + 1 : block.start])


def test_as_many_frames_as_sound_and_no_more() -> None:
    for count in (1, 5, 9, 10, 24, 49):
        live, _ = session()
        made = live.push(sound(3)[: count * SAMPLES + 11]) + live.finish()
        assert frames_of(made).shape[1] == count == live.meter.frames


def test_a_block_waits_for_the_sound_it_hears_and_for_no_more() -> None:
    """Of the first block, 9 frames and 2 after them, and 40 samples that the mel window sees."""
    live, _ = session()
    needed = 11 * SAMPLES + 40
    assert live.push(sound()[: needed - 1]) == []
    assert len(live.push(sound()[needed - 1 : needed])) == 1
    assert live.meter.wait == pytest.approx((4 * 2 + 2) / 25 + 40 / RATE)


def test_an_endless_session_keeps_little() -> None:
    live, _ = session()
    for _ in range(30):
        live.push(sound(1.0))
    assert len(live._features) < 40 and len(live._sound) < 40 * SAMPLES


def test_it_speaks_listens_and_idles() -> None:
    live, _ = session(first=1, block=1, back=1)
    states = [c.state for c in live.push(torch.cat([sound(1.0), torch.zeros(4 * RATE)]))]
    order = [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s]
    assert order == ["speaks", "listens", "idles"]
    assert abs(states.count("listens") * 4 / 25 - 2.0) < 0.17


def test_the_meter_says_how_far_ahead_it_is() -> None:
    ticks = iter(range(100))
    live = Session(Echo(), MEL, WINDOWS, first=3, block=2, back=2, clock=lambda: next(ticks) / 10)
    live.push(sound()[: 9 * SAMPLES + 2 * SAMPLES + 40])
    assert live.meter.spent == [pytest.approx(0.1)] and live.meter.realtime_factor == pytest.approx(3.6)
    assert live.meter.said()["compute_p95_ms"] == pytest.approx(100)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="no more past"):
        Session(Echo(), first=1, block=1, back=2)
    live, _ = session()
    with pytest.raises(UserError, match="not finite"):
        live.push(torch.tensor([float("nan")]))
    live.push(sound())
    live.finish()
    with pytest.raises(UserError, match="is finished"):
        live.push(sound())
