"""How far mouths are open, from pixels alone: how much of the lower face has the colour of the inside of a mouth.

    a_t = mean over pixels of m exp(-|rgb - inner|^2 / s)

x is [B, 3, T, H, W] in [-1, 1]; colours and squared distances are in [0, 1] units. m is the region, one face each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import UserError

INNER = (0.20, 0.04, 0.05)  # rgb of the dark inside of a mouth
SPREAD = 0.1  # s, squared distance: wide, so that a soft, blurred mouth still counts (docs/log.md)


def lower_face(height: int, width: int) -> Tensor:
    """[1, 1, H, W]: 1 where the mouth of a centred face is, rows .60 to .86 and columns .35 to .65 of the picture."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    inside = ((rows > 0.60) & (rows < 0.86))[:, None] & ((columns > 0.35) & (columns < 0.65))
    return inside.float()[None, None]


def openness(x: Tensor, region: Tensor | None = None, inner: Sequence[float] = INNER) -> Tensor:
    """How much each pixel looks like the inside of a mouth, [B, T, H, W] in [0, 1]; differentiable.

    region: [B or 1, T or 1, H, W] in [0, 1], of one face; the default is that of one centred face.
    """
    if x.ndim != 5 or x.shape[1] != 3:
        raise UserError(f"expected [B, 3, T, H, W], found {list(x.shape)}", "aperture")
    region = lower_face(*x.shape[-2:]) if region is None else region
    if region.shape[-2:] != x.shape[-2:]:
        raise UserError(f"a region of {list(region.shape[-2:])} on frames of {list(x.shape[-2:])}", "aperture")
    colour = x.new_tensor(inner).view(1, 3, 1, 1, 1)
    far = ((x.float() + 1) / 2 - colour).square().sum(1)
    return torch.exp(-far / SPREAD) * region.to(far)


def aperture(x: Tensor, region: Tensor | None = None, inner: Sequence[float] = INNER) -> Tensor:
    """[B, T]: share of the picture's pixels that look like the inside of the mouth."""
    return openness(x, region, inner).mean((-1, -2))


def mouth_shape(x: Tensor, region: Tensor | None = None, inner: Sequence[float] = INNER) -> Tensor:
    """[B, T, 3]: aperture, width (deviation across, share of the picture), roundness (deviation down over across).

    Width and roundness are those of the pixels that count, so they say little while the mouth is shut.
    """
    m = openness(x, region, inner)
    h, w = m.shape[-2:]
    down = ((torch.arange(h, device=m.device) + 0.5) / h)[:, None]
    across = (torch.arange(w, device=m.device) + 0.5) / w
    total = m.sum((-1, -2)).clamp(min=1e-6)

    def deviation(place: Tensor) -> Tensor:
        middle = (m * place).sum((-1, -2)) / total
        return ((m * (place - middle[..., None, None]).square()).sum((-1, -2)) / total).clamp(min=1e-8).sqrt()

    width = deviation(across)
    return torch.stack([m.mean((-1, -2)), width, deviation(down) / width.clamp(min=1e-3)], -1)


def side_by_side(height: int, width: int, count: int = 2) -> Tensor:
    """Regions [1, count, 1, H, W] of the mouths of so many centred faces next to each other."""
    each, regions = width // count, torch.zeros(1, count, 1, height, width)
    for n in range(count):
        regions[0, n, 0, :, n * each : (n + 1) * each] = lower_face(height, each)[0, 0]
    return regions


def crosstalk(x: Tensor, regions: Tensor, active: Tensor, inner: Sequence[float] = INNER, rim: int = 3) -> Tensor:
    """[B]: aperture energy of faces while they should be silent over that while they speak; 0 is none, 1 all.

    regions: [B or 1, S, T or 1, H, W], of each of S faces; active: [B or 1, S, T], above 0.5 where it is its turn.
    Energy is the variance over time of a face's own frames of one kind, mean over the faces that have such frames;
    `rim` frames at each change of turns do not count, as mouths open before and close after. UserError where in a clip
    nobody ever speaks or nobody is ever silent.
    """
    open_ = torch.stack([aperture(x, region, inner) for region in regions.unbind(1)], 1)  # [B, S, T]
    speaks = (active > 0.5).to(open_).expand_as(open_)
    kinds = [_inside(speaks, rim), _inside(1 - speaks, rim)]
    if any((kind.sum((1, 2)) < 2).any() for kind in kinds):
        raise UserError("a clip in which nobody speaks, or nobody is silent", "crosstalk", "give the turns of speakers")
    loud, quiet = (_energy(open_, kind) for kind in kinds)
    return torch.where(quiet == 0, torch.zeros_like(quiet), quiet / loud)


def _inside(kind: Tensor, rim: int) -> Tensor:
    """[B, S, T] without the frames that have another kind within `rim`."""
    return -torch.nn.functional.max_pool1d(-kind, 2 * rim + 1, 1, rim)


def _energy(open_: Tensor, kind: Tensor) -> Tensor:
    """[B]: variance over the frames of a kind, mean over the faces that have them."""
    count = kind.sum(2)
    mean = (open_ * kind).sum(2) / count.clamp(min=1)
    each = ((open_ - mean[..., None]).square() * kind).sum(2) / count.clamp(min=1)
    return (each * (count > 0)).sum(1) / (count > 0).sum(1)
