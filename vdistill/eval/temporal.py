"""How a clip changes in time, from pixels or latents alone: x is [B, C, T, H, W], every answer is [B] in float32.

Values in the units of x (pixels: half the range [-1, 1] is 1), time in frames. No absolute number is good or bad:
smooth motion of sharp edges has some of each. Compare a model with its teacher or with true clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import UserError


def motion_energy(x: Tensor) -> Tensor:
    """mean (x[t+1] - x[t])^2, squared units per frame^2; 0 for a still image. Needs 2 frames."""
    return _step(x, 1).square().flatten(1).mean(1)


def flicker(x: Tensor) -> Tensor:
    """sqrt(mean (x[t+1] - 2 x[t] + x[t-1])^2 / 6), units of x; needs 3 frames.

    Scaled so that independent noise of standard deviation s in every frame measures s; 0 for still images and for
    values that change linearly in time.
    """
    return (_step(x, 2).square().flatten(1).mean(1) / 6).sqrt()


def jitter(x: Tensor) -> Tensor:
    """Energy of second over energy of first differences, in [0, ~4], no unit: how much change goes back and forth.

    0 for linear change, 2 - 2 cos w for an oscillation of w radians per frame, 3 for independent noise, 4 for values
    that alternate; 0 for a still image. Needs 3 frames.
    """
    change = _step(x, 1).square().flatten(1).mean(1)
    bend = _step(x, 2).square().flatten(1).mean(1)
    return torch.where(change > 0, bend / change.clamp(min=torch.finfo(torch.float32).tiny), torch.zeros_like(change))


def pulse(x: Tensor) -> Tensor:
    """`flicker` of each frame's channel means, units of x: exposure and colour pumping, blind to moving objects."""
    return flicker(x.float().mean((-1, -2), keepdim=True))


def stability(x: Tensor) -> Tensor:
    """Mean correlation between neighbouring frames, in [-1, 1]; 1 for a still image. Needs 2 frames.

    Each frame is centred by its own channel means. A frame without contrast correlates 1 with another such and 0 with
    the rest.
    """
    _frames(x, 2)
    y = x.float()
    y = (y - y.mean((-1, -2), keepdim=True)).transpose(1, 2).flatten(2)  # [B, T, C H W]
    a, b = y[:, :-1], y[:, 1:]
    both = a.square().sum(-1) * b.square().sum(-1)
    flat = (a.square().sum(-1) == 0) & (b.square().sum(-1) == 0)
    unit = (a * b).sum(-1) / both.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    return torch.where(flat, torch.ones_like(unit), unit).mean(1)


def _step(x: Tensor, order: int) -> Tensor:
    """The first or second difference along time."""
    _frames(x, order + 1)
    return torch.diff(x.float(), n=order, dim=2)


def _frames(x: Tensor, least: int) -> None:
    if x.ndim != 5 or x.shape[2] < least:
        raise UserError(f"expected [B, C, T >= {least}, H, W], found {list(x.shape)}", "temporal measures")
