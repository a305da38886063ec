"""Do picture and sound go together? Correlation at the given time, and the SyncNet recipe (Chung and Zisserman 2016).

Signals are [B, T] and features [B, T, F], one a frame, of any picture and any sound that should agree.

An **offset** is positive where the picture comes late: at offset k, frame t shows what sounded at frame t - k.
Distances search over offsets, so they forgive a constant delay; `pearson` does not. Report the three together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError

WINDOW = 5  # frames
REACH = 15  # frames, to either side


@dataclass(frozen=True)
class Sync:
    """Each [B]. distance: the smallest over offsets (LSE-D); confidence: their median minus it (LSE-C);
    offset: where it is, frames, positive where the picture is late."""

    distance: Tensor
    confidence: Tensor
    offset: Tensor

    def means(self, prefix: str = "") -> dict[str, float]:
        """ "d", "c": means over clips; "offset": the median, as one lost clip says nothing of the others."""
        middle = self.offset.flatten().float().quantile(0.5)
        values = {"d": self.distance.mean(), "c": self.confidence.mean(), "offset": middle}
        return {prefix + name: float(value) for name, value in values.items()}


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation over time of [B, T] with [B, T], [B] in [-1, 1]; 0 where either does not change at all."""
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] < 2:
        raise UserError(f"expected two signals [B, T >= 2], found {list(a.shape)} and {list(b.shape)}", "sync")
    return (z_score(a[..., None]) * z_score(b[..., None])).mean((1, 2))


def z_score(x: Tensor) -> Tensor:
    """[B, T, F] with mean 0 and variance 1 over time, float32; a feature that does not change becomes 0."""
    x = x.float()
    centred = x - x.mean(1, keepdim=True)
    size = centred.square().mean(1, keepdim=True).sqrt()
    still = size <= 1e-6 * x.abs().amax(1, keepdim=True)
    return torch.where(still, torch.zeros_like(centred), centred / torch.where(still, torch.ones_like(size), size))


def windowed(x: Tensor, length: int = WINDOW) -> Tensor:
    """[B, T, F] -> [B, T - length + 1, length F]: every run of frames as one vector."""
    if x.shape[1] < length:
        raise UserError(f"a clip of {x.shape[1]} frames has no window of {length}", "sync")
    return x.unfold(1, length, 1).flatten(2)


def distances(picture: Tensor, sound: Tensor, reach: int = REACH) -> Tensor:
    """Mean L2 distance of vectors [B, N, D] at every offset -r..r, [B, 2 r + 1]; r = min(reach, N // 2).

    Only positions where both exist count. (SyncNet pads the sound with zeros, which favours or punishes large offsets
    by how long its vectors happen to be.)
    """
    if picture.shape != sound.shape or picture.ndim != 3:
        raise UserError(f"expected equal [B, N, D], found {list(picture.shape)} and {list(sound.shape)}", "sync")
    n = picture.shape[1]
    r = min(reach, n // 2)
    found = []
    for late in range(-r, r + 1):
        p = picture[:, max(late, 0) : n + min(late, 0)]
        s = sound[:, max(-late, 0) : n - max(late, 0)]
        found.append((p - s).norm(dim=-1).mean(1))
    return torch.stack(found, 1)


def best(of_offsets: Tensor) -> Sync:
    """What [B, 2 r + 1] distances say."""
    distance, place = of_offsets.min(1)
    return Sync(distance, of_offsets.median(1).values - distance, place - of_offsets.shape[1] // 2)


def sync(picture: Tensor, sound: Tensor, reach: int = REACH, window: int = WINDOW) -> Sync:
    """D*, C* and offset of signals [B, T, F] that mean the same (aperture of the pixels, opening asked for).

    Both are z-scored over the clip, so D* knows no scale: two unrelated signals are about sqrt(2 window F) apart.
    """
    return best(distances(windowed(z_score(picture), window), windowed(z_score(sound), window), reach))


def by_second(picture: Tensor, sound: Tensor, fps: float = 25.0, seconds: float = 2.0, reach: int = 10) -> Sync:
    """`sync` of signals [B, T, F] piece by piece, each [B, pieces]: pieces of `seconds`, next to each other.

    They are z-scored over the whole clip, as in a piece nothing may happen. A rest shorter than a piece is left out.
    """
    length = round(seconds * fps)
    count = picture.shape[1] // length
    if not count:
        raise UserError(f"{picture.shape[1]} frames are less than one piece of {length}", "sync by second")

    def pieces(x: Tensor) -> Tensor:
        return windowed(z_score(x)[:, : count * length].unflatten(1, (count, length)).flatten(0, 1))

    found = best(distances(pieces(picture), pieces(sound), reach))
    b = len(picture)
    return Sync(*(v.unflatten(0, (b, count)) for v in (found.distance, found.confidence, found.offset)))
