"""Frechet distance between Gaussians fitted to features: FID (Heusel et al. 2017, eq. 6) and FVD with any features.

    d^2 = |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)

With S = L L^T the last trace is the sum of the singular values of L1^T L2, so no square root of rounding noise is ever
taken and rank-deficient covariances (fewer samples than features) are exact too. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError

Features = Callable[[Tensor], Tensor]  # clips [B, ...] -> [B, D]


@dataclass(frozen=True)
class Gaussian:
    """mean [D] and covariance [D, D], float64; count: samples it was fitted to."""

    mean: Tensor
    covariance: Tensor
    count: int

    def factor(self) -> Tensor:
        """L [D, D] with L L^T = covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return vectors * values.clamp(min=0).sqrt()


def gaussian(features: Tensor) -> Gaussian:
    """Fit features [N, D], N >= 2, with the unbiased covariance."""
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"expected features [N >= 2, D], found {list(features.shape)}", "frechet", "use more clips")
    if not torch.isfinite(features).all():
        raise UserError("non-finite features", "frechet", "look at the clips or the feature network")
    x = features.detach().double()
    mean = x.mean(0)
    centred = x - mean
    return Gaussian(mean, centred.T @ centred / (len(x) - 1), len(x))


def distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, in squared feature units; 0 only for equal ones.

    Estimated from few samples it is biased upwards by about tr(S) (1 / n + D / (4 n)): compare at equal counts.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {len(a.mean)} and {len(b.mean)} dimensions", "frechet", "use the same features")
    shift = (a.mean - b.mean).square().sum()
    cross = torch.linalg.svdvals(a.factor().T @ b.factor()).sum()
    return float((shift + a.covariance.trace() + b.covariance.trace() - 2 * cross).clamp(min=0))


def frechet(x: Tensor, y: Tensor, features: Features | None = None, batch: int = 64) -> float:
    """Distance between two sets of clips [N, ...] under `features`, or between two feature sets [N, D] without it."""
    if features is not None:
        x, y = (torch.cat([features(part) for part in s.split(batch)]) for s in (x, y))
    return distance(gaussian(x), gaussian(y))
