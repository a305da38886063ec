"""Encoders that know no streams, heard over a ring buffer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdistill.avatar.encoders import Encoder
from vdistill.avatar.mel import Mel
from vdistill.avatar.pieces import Pieces
from vdistill.avatar.ring import Ringed
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng

SOUND = 0.1 * Rng(0).normal("sound", (640 * 30 + 100,))


def pushed(ringed: Ringed, sizes: list[int]) -> Tensor:
    stream, at, parts = ringed.stream(), 0, []
    for size in [*sizes, len(SOUND)]:
        parts.append(stream.push(SOUND[at : at + size]))
        at += size
    return torch.cat([*parts, stream.flush()])


def test_an_encoder_of_short_sight_says_over_a_ring_what_it_says_of_the_whole() -> None:
    mel = Mel(40, causal=True)
    ringed = Ringed(mel, seconds=1.0, block=4)
    assert torch.equal(ringed.features(SOUND[None])[0], mel.features(SOUND[None])[0])
    assert (ringed.width, ringed.ahead) == (160, 640 * 3)
    seen = Ringed(Mel(40), seconds=1.0, block=2, later=1)  # not causal, but it hears a frame more
    assert torch.equal(seen.features(SOUND[None])[0, :-1], Mel(40).features(SOUND[None])[0, :-1])


@pytest.mark.parametrize("later", [0, 2])
def test_the_sizes_of_the_pieces_make_no_difference(later: int) -> None:
    ringed = Ringed(Mel(40), seconds=0.6, block=3, later=later)
    whole = ringed.features(SOUND[None])[0]
    assert len(whole) == 30
    for sizes in ([], [640] * 20, [1, 5, 10_000], [0, 1999, 1920, 1921]):
        assert torch.equal(pushed(ringed, sizes), whole)


def test_a_block_waits_for_its_last_frame_and_for_those_after_it() -> None:
    stream = Ringed(Mel(40), seconds=1.0, block=4, later=1).stream()
    assert len(stream.push(SOUND[: 640 * 5 - 1])) == 0
    assert len(stream.push(SOUND[:1])) == 4


def test_sound_older_than_the_ring_is_forgotten() -> None:
    class Mean:
        """Each frame says the mean of all that is heard."""

        width, ahead = 1, 0

        def features(self, sound: Tensor) -> Tensor:
            return sound.mean(-1)[:, None, None].expand(-1, sound.shape[-1] // 640, 1)

    ring = Ringed(Mean(), seconds=0.4, block=2)  # type: ignore[arg-type]
    loud = torch.zeros(1, 640 * 20)
    loud[:, :640] = 1
    said = ring.features(loud)[0, :, 0]
    assert said[:10].gt(0).all() and not said[10:].any()


def test_what_cannot_be_sound_is_refused() -> None:
    with pytest.raises(UserError, match=r"sound of shape \[2, 5\]"):
        Pieces(4, 2, 0).push(torch.zeros(2, 5))
    with pytest.raises(UserError, match="finite"):
        Mel().stream().push(torch.tensor([0.0, float("nan")]))
    with pytest.raises(UserError, match="a ring of 0.1 s for 4 frames"):
        Ringed(Mel(), seconds=0.1)


@pytest.mark.parametrize("encoder", [Mel(20), Ringed(Mel(20), 1.0, 4, 2)], ids=["mel", "ring"])
def test_a_stream_that_is_kept_goes_on_to_the_bit(encoder: Encoder) -> None:
    sound = Rng(0).normal("sound", (20_000,))
    first, other = encoder.stream(), encoder.stream()
    first.push(sound[:7777])
    other.push(sound[5:4000])
    other.restore(first.state())
    one, two = (torch.cat([s.push(sound[7777:]), s.flush()]) for s in (first, other))
    assert len(one) > 15 and torch.equal(one, two)
