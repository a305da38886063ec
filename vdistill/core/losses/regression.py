"""Distances between two tensors, per sample, and the weights that turn an x0 error into an error of another prediction.

Every distance is a mean over all but the batch axis, so its size does not depend on resolution or length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import UserError
from ..schedule import Predicts, Schedule, spread

Metric = Callable[[Tensor, Tensor], Tensor]
"""(a, b), both [B, ...] -> distance [B]."""
Weighting = Literal["uniform", "snr", "v", "flow"]
WEIGHTED_AS: dict[Weighting, Predicts] = {"uniform": "x0", "snr": "eps", "v": "v", "flow": "flow"}


def per_sample(values: Tensor) -> Tensor:
    """Mean over all but the first axis: [B, ...] -> [B]."""
    return values.flatten(1).mean(1)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference [B]."""
    return per_sample((a - b).square())


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference [B]."""
    return per_sample((a - b).abs())


def pseudo_huber(c: float = 1e-3) -> Metric:
    """mean sqrt(d^2 + c^2) - c, element by element (LCM, Luo et al. 2023): |d| far out, d^2 / 2c within c."""
    if not c > 0:
        raise UserError(f"c must be > 0, found {c}", "pseudo_huber", "use l1 for none")

    def metric(a: Tensor, b: Tensor) -> Tensor:
        d2 = (a - b).square()
        return per_sample(d2 / ((d2 + c**2).sqrt() + c))  # the same without the cancellation at small d

    return metric


def x0_weight(schedule: Schedule, t: Tensor, weighting: Weighting, floor: float = 0.05) -> Tensor:
    """w(t) for which w |x0_hat - x0|^2 is the squared error of another prediction; float64, shaped as t.

    uniform: 1 (of x0); snr: (alpha / sigma)^2 (of eps); v: ((alpha^2 + sigma^2) / sigma)^2; flow: ((alpha + sigma) /
    sigma)^2, which is 1 / t^2 on rf. Each is 1 / r^2 with r = |d x0 / d prediction|, and `floor` is the smallest r
    used: the noiseless end would weigh without bound.
    """
    if weighting not in WEIGHTED_AS:
        raise UserError(f"weighting {weighting!r}; known: {', '.join(get_args(Weighting))}", "weighting")
    predicts = WEIGHTED_AS[weighting]
    alpha, sigma = schedule.alpha_sigma(t)
    if predicts == "x0":
        return torch.ones_like(alpha)
    gain = {"eps": alpha, "v": alpha**2 + sigma**2, "flow": alpha + sigma}[predicts]
    return (gain / torch.maximum(sigma, floor * gain)).square()


def weighted_x0(
    x0_hat: Tensor,
    x0: Tensor,
    t: Tensor,
    schedule: Schedule,
    weighting: Weighting = "flow",
    floor: float = 0.05,
    where: Tensor | None = None,
) -> Tensor:
    """mean w(t) |x0_hat - x0|^2 [B]; t: [B] or [B, T]. See `x0_weight`. where: weights [B, 1, T, ...] of positions."""
    weight = spread(x0_weight(schedule, t, weighting, floor), x0).to(x0_hat.dtype)
    if where is not None:
        weight = weight * where.to(x0_hat.dtype)
    return per_sample(weight * (x0_hat - x0).square())


def position_weights(regions: Mapping[str, Tensor], gains: Mapping[str, float]) -> Tensor | None:
    """1 + sum_k g_k M_k of regions M_k [B, 1, T, ...], brought to mean 1 in each sample; None without gains.

    UserError for a region that is not there.
    """
    if not gains:
        return None
    if missing := sorted(gains.keys() - regions.keys()):
        raise UserError(f"this data has no region {missing[0]!r}", "regions", f"it has {', '.join(regions) or 'none'}")
    extra = torch.stack([gain * regions[name] for name, gain in gains.items()]).sum(0)
    return (1 + extra) / spread(1 + per_sample(extra), extra)
