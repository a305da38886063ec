"""Changes of latents that a judge must not learn to see; drawn once and done to real and generated alike.

Differentiable augmentation (Zhao et al. 2020) on the clean sample, before it is noised. All positions of a clip are
changed in the same way, so motion stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..core.rng import Rng

Augment = Callable[[Tensor, Rng], Tensor]
"""(x [B, ..., H, W], where its draws come from) -> the same shape; linear in x."""


def flip(x: Tensor, rng: Rng) -> Tensor:
    """Mirror every second sample, left to right."""
    mirrored = rng.uniform("augment/flip", (len(x),), like=x) < 0.5
    return torch.where(mirrored.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def shift(x: Tensor, rng: Rng) -> Tensor:
    """Move each sample by up to an eighth of its height and width; zeros come in."""
    for axis in (-2, -1):
        most = max(1, x.shape[axis] // 8)
        by = rng.integers(f"augment/shift{axis}", (len(x),), 2 * most + 1, like=x) - most
        place = torch.arange(x.shape[axis], device=x.device) - by[:, None]  # [B, size]
        inside = (place >= 0) & (place < x.shape[axis])
        shape = [len(x), *[1] * (x.ndim - 1)]
        shape[axis] = x.shape[axis]
        index = place.clamp(0, x.shape[axis] - 1).view(shape).expand_as(x)
        x = x.gather(x.ndim + axis, index) * inside.view(shape)
    return x


def cutout(x: Tensor, rng: Rng) -> Tensor:
    """Blank a rectangle of half the height and width."""
    hole = torch.ones(len(x), 1, 1, device=x.device, dtype=torch.bool)
    for axis, view in ((-2, (-1, 1)), (-1, (1, -1))):
        size = x.shape[axis]
        start = rng.integers(f"augment/cutout{axis}", (len(x), 1), size, like=x) - size // 4
        place = torch.arange(size, device=x.device)
        hole = hole & ((place >= start) & (place < start + max(1, size // 2))).view(len(x), *view)
    return x * ~hole.view(len(x), *[1] * (x.ndim - 3), *hole.shape[1:])


AUGMENTS: Mapping[str, Augment] = {"flip": flip, "shift": shift, "cutout": cutout}


def in_turn(parts: Sequence[Augment]) -> Augment:
    """Several, one after the other; none leaves x as it is."""

    def augment(x: Tensor, rng: Rng) -> Tensor:
        for part in parts:
            x = part(x, rng)
        return x

    return augment
