"""Changes of latents that a judge must not learn to see; drawn once and done to real and generated alike.

Differentiable augmentation (Zhao et al. 2020) on the clean sample, before it is noised. All positions of a clip are
changed in the same way, so motion stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

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


def zoom(x: Tensor, rng: Rng) -> Tensor:
    """Scale each sample about its centre by 0.8 to 1.25, bilinearly; zeros come in."""
    scale = 1.25 ** rng.uniform("augment/zoom", (len(x),), -1.0, 1.0, like=x).float()
    place = torch.zeros(len(x), 2, 3, device=x.device)
    place[:, 0, 0] = place[:, 1, 1] = 1 / scale
    flat = x.float().flatten(1, -3)  # [B, ..., H, W]
    grid = affine_grid(place, [*flat.shape], align_corners=False)
    return grid_sample(flat, grid, align_corners=False).view_as(x).to(x.dtype)


def gain(x: Tensor, rng: Rng) -> Tensor:
    """Scale each channel of [B, C, ...] by about 0.8 to 1.25; of latents what a change of colours is of pixels."""
    by = (0.2 * rng.normal("augment/gain", x.shape[:2], like=x)).exp()
    return x * by.view(*x.shape[:2], *[1] * (x.ndim - 2))


AUGMENTS: Mapping[str, Augment] = {"flip": flip, "shift": shift, "cutout": cutout, "zoom": zoom, "gain": gain}


def in_turn(parts: Sequence[Augment]) -> Augment:
    """Several, one after the other; none leaves x as it is."""

    def augment(x: Tensor, rng: Rng) -> Tensor:
        for part in parts:
            x = part(x, rng)
        return x

    return augment
