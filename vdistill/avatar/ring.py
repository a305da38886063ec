"""The last seconds of sound, for encoders that know no streams: heard again for each block of frames.

A block is always heard with the same number of seconds before it, silence before the beginning, so what it says depends
on where it lies and not on how the sound came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from .encoders import Encoder, Stream
from .pieces import Pieces
from .rates import FPS, SAMPLES, whole_frames


@dataclass(frozen=True)
class Ringed:
    """An encoder that hears each block of frames at the end of a ring buffer. As live, so in training.

    seconds: of the ring; block: frames that are read at once; later: frames heard after them (latency).
    """

    encoder: Encoder
    seconds: float = 8.0
    block: int = 4
    later: int = 0

    def __post_init__(self) -> None:
        if self.block < 1 or self.later < 0 or self.held < self.block + self.later:
            what = f"a ring of {self.seconds:g} s for {self.block} frames and {self.later} after them"
            raise UserError(what, "audio ring", "8 s, 4 and 0 are usual")

    @property
    def held(self) -> int:
        """Frames of the ring."""
        return round(self.seconds * FPS)

    @property
    def width(self) -> int:
        return self.encoder.width

    @property
    def ahead(self) -> int:
        """Of a block's first frame, in samples."""
        return SAMPLES * (self.block - 1 + self.later)

    def features(self, sound: Tensor) -> Tensor:
        """sound [B, samples] -> [B, T, F]: what its stream says."""
        whole_frames(sound.shape[-1])
        return torch.stack([self._whole(one) for one in sound])

    def stream(self) -> Stream:
        return RingStream(self)

    def _whole(self, sound: Tensor) -> Tensor:
        stream = self.stream()
        return torch.cat([stream.push(sound), stream.flush()])

    def last(self, ring: Tensor) -> Tensor:
        """[held * 640 samples] -> [block, F] of the block that ends `later` frames before its end."""
        end = self.held - self.later
        return self.encoder.features(ring[None])[0, end - self.block : end]


class RingStream:
    """Sound in pieces of any size -> features of the blocks they complete."""

    def __init__(self, ringed: Ringed) -> None:
        self.ringed, self.frames = ringed, 0
        before = ringed.held - ringed.block - ringed.later
        self._pieces = Pieces(SAMPLES * ringed.held, SAMPLES * ringed.block, SAMPLES * before)

    def push(self, pcm: Tensor) -> Tensor:
        return self._said(self._pieces.push(pcm))

    def flush(self) -> Tensor:
        """The last whole frames, with silence after the end."""
        total = self._pieces.samples // SAMPLES
        return self._said(self._pieces.flush(-(-total // self.ringed.block)))[: max(0, total - self._before)]

    def state(self) -> dict[str, Tensor]:
        return {"frames": torch.tensor([self.frames]), **self._pieces.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.frames = int(state["frames"])
        self._pieces.restore(state)

    def _said(self, rings: list[Tensor]) -> Tensor:
        self._before = self.frames
        self.frames += len(rings) * self.ringed.block
        made = [self.ringed.last(ring) for ring in rings]
        return torch.cat(made) if made else torch.zeros(0, self.ringed.width)
