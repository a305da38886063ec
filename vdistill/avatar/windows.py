"""Which frames of sound a latent position hears: its own frames and a few around them.

A codec of stride 4 makes position 0 of frame 0 alone and position j of frames 4j - 3 ... 4j. With two frames either
side that is 3 + 2 + 3 = 8 frames for each position (two before and the first, two in the middle, the last and two
after) and 5 for position 0, whose earliest frame is repeated so that all have 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError

AROUND = 4  # frames heard beside a position's own


@dataclass(frozen=True)
class Windows:
    """stride: frames of a latent position; ahead: how many of the 4 frames around lie after it, 2 as published models
    have it, 0 for a causal window (all 4 before)."""

    stride: int = 4
    ahead: int = 2

    def __post_init__(self) -> None:
        if self.stride < 1 or not 0 <= self.ahead <= AROUND:
            what = f"stride {self.stride}, ahead {self.ahead}"
            raise UserError(what, "audio windows", f"stride at least 1, ahead 0 (causal) to {AROUND}")

    @property
    def size(self) -> int:
        """Frames of a window, S."""
        return self.stride + AROUND

    def positions(self, frames: int) -> int:
        """Latent positions of so many frames. UserError unless frames = stride * k + 1."""
        if frames < 1 or (frames - 1) % self.stride:
            raise UserError(f"{frames} frames", "audio windows", f"a clip has {self.stride} k + 1 frames")
        return (frames - 1) // self.stride + 1

    def frames(self, position: int) -> range:
        """Frames of the clip that a position hears, before they are held to what there is."""
        end = self.stride * position + self.ahead + 1
        return range(end - (self.size if position else AROUND + 1), end)

    def index(self, positions: int) -> Tensor:
        """[T', S] frame numbers; position 0 repeats its earliest."""
        each = [[*self.frames(j)] for j in range(positions)]
        return torch.tensor([[w[0]] * (self.size - len(w)) + w for w in each])

    def __call__(self, features: Tensor, positions: int | None = None, start: int = 0) -> Tensor:
        """features [B, frames, F] -> [B, T', S, F].

        start: which of the features belongs to the clip's frame 0, so that those before it are heard as its past;
        positions: T', otherwise all that the frames from there on make. Frames that are not there are those at the end.
        """
        count = positions or self.positions(features.shape[1] - start)
        index = (self.index(count) + start).clamp(0, features.shape[1] - 1)
        return features[:, index.to(features.device)]
