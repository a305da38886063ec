"""How a long clip changes from beginning to end: simple measures of every window of it, from pixels alone.

x is [B, C, T, H, W] in [-1, 1], every answer [B, windows] in float32; frames after the last whole window are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..core.errors import UserError
from .temporal import flicker, motion_energy


def windows(x: Tensor, length: int) -> Tensor:
    """[B, windows, C, length, H, W]. UserError for a clip shorter than one window."""
    if length < 3 or x.shape[2] < length:
        raise UserError(
            f"a clip of {x.shape[2]} frames has no window of {length}", "drift", "windows of 3 frames or more"
        )
    count = x.shape[2] // length
    return x[:, :, : count * length].unflatten(2, (count, length)).transpose(1, 2)


def drift(x: Tensor, length: int) -> Mapping[str, Tensor]:
    """brightness: mean; contrast: standard deviation; sharpness: mean size of neighbouring pixels' difference;
    motion_energy: mean squared change between frames; flicker: see temporal.py; identity: cosine of each window's
    histogram of colours with that of the first, 1 for a clip that keeps them."""
    parts = windows(x, length)
    b, count = parts.shape[:2]
    flat = parts.flatten(0, 1).float()

    def each(values: Tensor) -> Tensor:
        return values.unflatten(0, (b, count))

    edges = (flat.diff(dim=-1).abs().flatten(1).mean(1) + flat.diff(dim=-2).abs().flatten(1).mean(1)) / 2
    colours = each(histogram(flat))
    return {
        "brightness": each(flat.flatten(1).mean(1)),
        "contrast": each(flat.flatten(1).std(1)),
        "sharpness": each(edges),
        "motion_energy": each(motion_energy(flat)),
        "flicker": each(flicker(flat)),
        "identity": cosine_similarity(colours, colours[:, :1], dim=-1),
    }


def histogram(x: Tensor, bins: int = 8) -> Tensor:
    """Shares of the colours of [B, C, T, H, W] on a grid of `bins` values a channel, [B, bins ** C], as square roots:
    their dot product is the Bhattacharyya coefficient."""
    level = ((x + 1) / 2 * bins).long().clamp(0, bins - 1)
    place = torch.zeros_like(level[:, 0])
    for channel in level.unbind(1):
        place = place * bins + channel
    found = torch.zeros(len(x), bins ** x.shape[1], device=x.device)
    ones = torch.ones_like(place, dtype=found.dtype).flatten(1)
    return found.scatter_add_(1, place.flatten(1), ones).div(ones.shape[1]).sqrt()
