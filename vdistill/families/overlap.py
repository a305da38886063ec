"""Decoding a stream with a VAE that has no memory: in tiles that overlap in time, and fade over into each other.

A VAE that decodes whole clips in such tiles itself (HunyuanVideo's) is streamed exactly: give its stride. For others
`seam` measures what it costs; more latent frames in front take time and bring it down, as far as the VAE forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Decode = Callable[[Tensor], Tensor]


class OverlapStream:
    """Latent chunks [B, C, n, H, W] to pixels in [-1, 1]; `finish` gives the frames that wait for another chunk.

    decode: latents to pixels, not clipped; n latent frames are 1 + (n - 1) r frames, ratios: (r, that of a side).
    before: latent frames in front of what is new that are decoded again and thrown away, 1 or more, as the first of a
    tile decodes to one frame only. blend: those at the end of a tile that are held back, to fade over into the next.
    stride: new latent frames of each tile, which wait until there are so many; None for a tile of every chunk.
    """

    def __init__(
        self, decode: Decode, ratios: tuple[int, int], before: int = 3, blend: int = 1, stride: int | None = None
    ) -> None:
        self.decode, (self.temporal, self.spatial) = decode, ratios
        self.before, self.blend, self.stride = before, blend, stride
        self.start = self.given = 0
        """Latent frames that have been forgotten, pixel frames that have been given out."""
        self.kept: Tensor | None = None
        self.held: Tensor | None = None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        self.kept = latents if self.kept is None else torch.cat([self.kept, latents], 2)
        around = self.before + self.blend
        if self.stride is None:
            pixels = self._tile(self.kept, self.blend)
            self._forget(max(self.kept.shape[2] - around, 0))
            return pixels
        out = []
        while self.kept.shape[2] >= around + self.stride:
            out.append(self._tile(self.kept[:, :, : around + self.stride], self.blend))
            self._forget(self.stride)
        return torch.cat(out, 2) if out else no_frames(latents, self.spatial)

    def _tile(self, z: Tensor, blend: int) -> Tensor:
        """Pixels of latent frames from number `start` on that are new and not held back."""
        pixels = self.decode(z)[:, :, self.given - self.start * self.temporal :]
        if self.held is not None:
            pixels = faded(self.held, pixels)
        ready = max(pixels.shape[2] - blend * self.temporal, 0)
        self.held = pixels[:, :, ready:]
        self.given += ready
        return pixels[:, :, :ready].clamp(-1, 1)

    def _forget(self, count: int) -> None:
        assert self.kept is not None
        self.kept, self.start = self.kept[:, :, count:], self.start + count

    @torch.no_grad()
    def finish(self) -> Tensor | None:
        """The frames that waited for another chunk; None where there are none. Nothing may follow."""
        if self.kept is None:
            return None
        rest = self.held.clamp(-1, 1) if self.stride is None and self.held is not None else self._tile(self.kept, 0)
        self.kept = self.held = None
        return rest

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        found = {"kept": self.kept, "held": self.held}
        places = {"start": torch.tensor(self.start), "given": torch.tensor(self.given)}
        return places | {name: value.clone() for name, value in found.items() if value is not None}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.start, self.given = int(state["start"]), int(state["given"])
        self.kept, self.held = state.get("kept"), state.get("held")


def no_frames(latents: Tensor, spatial: int) -> Tensor:
    """Pixels [B, 3, 0, H, W] of latents that wait for others."""
    count, _, _, high, wide = latents.shape
    return latents.new_zeros(count, 3, 0, high * spatial, wide * spatial, dtype=torch.float32)


def faded(old: Tensor, new: Tensor) -> Tensor:
    """new [.., T, H, W], its first frames from those of `old` to its own, in equal steps from `old` itself on."""
    count = min(old.shape[2], new.shape[2])
    share = torch.arange(count, device=new.device, dtype=new.dtype).view(-1, 1, 1) / max(count, 1)
    first = old[:, :, old.shape[2] - count :] * (1 - share) + new[:, :, :count] * share
    return torch.cat([first, new[:, :, count:]], 2)


@dataclass(frozen=True)
class Seam:
    """Of pixels in [-1, 1]. off: mean distance from decoding the whole; jump: by how much more than there a picture
    changes from the last frame of one chunk to the first of the next, mean."""

    off: float
    jump: float


def seam(decode: Decode, stream: Decode, latents: Tensor, chunks: Sequence[int]) -> Seam:
    """What a stream in these chunks of latent frames costs. latents: a whole clip."""
    whole, parts = decode(latents), [stream(part) for part in latents.split(list(chunks), 2)]
    finish = getattr(stream, "finish", None)
    rest = finish() if finish else None
    made = torch.cat(parts if rest is None else [*parts, rest], 2)
    ends = torch.tensor([part.shape[2] for part in parts]).cumsum(0)
    ends = ends[(ends > 0) & (ends < made.shape[2])]

    def change(clip: Tensor) -> Tensor:
        return (clip[:, :, ends] - clip[:, :, ends - 1]).abs().mean()

    return Seam(float((made - whole).abs().mean()), float(change(made) - change(whole)) if len(ends) else 0.0)
