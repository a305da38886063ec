"""What turns sound into features of frames: log-mel, or a speech network from a local folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Stream(Protocol):
    """Sound in pieces of any size -> features of the frames they complete; the same frames whatever the sizes."""

    def push(self, pcm: Tensor) -> Tensor:
        """pcm [samples] in [-1, 1] at 16 kHz -> [frames, F]."""

    def flush(self) -> Tensor:
        """The frames that waited for sound after them, as if silence followed: [frames, F]."""

    def state(self) -> dict[str, Tensor]:
        """What another stream of the same encoder needs to go on."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken of."""


class Encoder(Protocol):
    """width: F, features a frame; ahead: samples after a frame's end that its features see."""

    @property
    def width(self) -> int: ...

    @property
    def ahead(self) -> int: ...

    def features(self, sound: Tensor) -> Tensor:
        """sound [B, samples] in [-1, 1] at 16 kHz -> [B, T, F] at 25 a second."""

    def stream(self) -> Stream: ...
