"""What turns pixels into latents and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """pixels [B, 3, T, H, W] in [-1, 1]; latents [B, C, T', H', W'], normalised as the teacher expects them.

    temporal, spatial: pixels along the sequence axis and along an edge for one latent position.
    """

    temporal: int
    spatial: int

    def encode(self, pixels: Tensor) -> Tensor: ...

    def encoded(self, pixels: Tensor) -> Tensor:
        """As `encode`, and a gradient goes through."""

    def decode(self, latents: Tensor) -> Tensor: ...

    def unclipped(self, latents: Tensor) -> Tensor:
        """As `decode`, not clipped to [-1, 1], and a gradient goes through."""

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T', H', W'] of the latents of such a clip; raises UserError for sizes it cannot hold."""

    def stream(self) -> Callable[[Tensor], Tensor]:
        """A decoder with memory: feed latent chunks in order, get the pixels of each. One that can be saved in the
        middle has `state() -> tensors by name` and `restore(state)`; one that gives frames out later than their chunk
        has `finish() -> pixels | None`, the frames that still wait at the end."""
