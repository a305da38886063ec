"""A mixture of Gaussians as an exact teacher, the ODE of any exact law step by step, and metrics of point clouds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.rng import Rng
from ..core.schedule import Schedule, spread
from .analytic import Exact, wide


@dataclass(frozen=True, eq=False)
class Mixture:
    """x0 ~ sum_k weights_k N(means_k, stds_k^2 I). means: [K, *shape]; weights (summing to 1) and stds: [K]."""

    schedule: Schedule
    means: Tensor
    weights: Tensor
    stds: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    def _parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x - alpha mean_k [B, K, N], variance of part k at x_t [B, K], log(weight_k density_k) [B, K]; float64."""
        if alpha.ndim != 1:
            raise ValueError("a mixture takes one time per sample [B]: its parts do not factor over positions")
        alpha, sigma = alpha.view(-1, 1), sigma.view(-1, 1)
        gap = x.to(torch.float64).flatten(1)[:, None] - alpha[..., None] * wide(self.means, x).flatten(1)
        var = (alpha * wide(self.stds, x)) ** 2 + sigma**2
        size = gap.shape[-1]
        log = wide(self.weights, x).log() - 0.5 * (gap.square().sum(-1) / var + size * (2 * math.pi * var).log())
        return gap, var, log

    def posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """Probability of each part given x_t [B, K], float64."""
        return self._parts(x, *self.schedule.alpha_sigma(t))[2].softmax(1)

    def x0(self, x: Tensor, t: Tensor, cond: Cond = Cond(), *, attend: Attend = full) -> Tensor:
        """sum_k P(k | x_t) [mean_k + alpha std_k^2 / var_k (x - alpha mean_k)]."""
        alpha, sigma = self.schedule.alpha_sigma(t)
        gap, var, log = self._parts(x, alpha, sigma)
        shrink = alpha.view(-1, 1) * wide(self.stds, x) ** 2 / var
        each = wide(self.means, x).flatten(1) + shrink[..., None] * gap
        return (log.softmax(1)[..., None] * each).sum(1).view(x.shape).to(x.dtype)

    def score(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        gap, var, log = self._parts(x, *self.schedule.alpha_sigma(t))
        return -(log.softmax(1)[..., None] * gap / var[..., None]).sum(1).view(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        return self._parts(x, *self.schedule.alpha_sigma(t))[2].logsumexp(1)

    def ode_map(self, x: Tensor, t: Tensor, u: Tensor, cond: Cond = Cond()) -> Tensor:
        """By `follow`, 500 steps."""
        return follow(self, x, t, u, cond)

    def sample(self, n: int, rng: Rng, cond: Cond = Cond()) -> Tensor:
        edges = self.weights.to(torch.float64).cumsum(0)[:-1].contiguous()
        part = torch.searchsorted(edges, rng.uniform("sample/part", (n,)), right=True)
        z = rng.normal("sample", (n, *self.shape)).to(torch.float64)
        return (self.means.to(torch.float64)[part] + spread(self.stds.to(torch.float64)[part], z) * z).to(torch.float32)


NAN = torch.tensor(math.nan, dtype=torch.float64)


def mixture(schedule: Schedule) -> Mixture:
    """The default test bed: three modes in the plane, points [B, 2, 1]."""
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], dtype=torch.float64)[..., None]
    return Mixture(schedule, means, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.full((3,), 0.35).double())


def follow(law: Exact, x: Tensor, t: Tensor, u: Tensor, cond: Cond = Cond(), steps: int = 500) -> Tensor:
    """The probability-flow ODE from t to u [B] by Runge-Kutta 4, from the law's own x0 and score.

    Walks the angle of the trigonometric path, x = r (cos a x0 + sin a eps) with tan a = sigma / alpha, where
    dx/da = r (cos a eps - sin a x0) and eps = -sigma score: bounded on every schedule, and no derivative of alpha.
    """
    path = law.schedule
    angle, end = (torch.atan2(sigma, alpha) for alpha, sigma in (path.alpha_sigma(t), path.alpha_sigma(u)))
    h = (end - angle) / steps
    y = x.to(torch.float64) / spread(torch.hypot(*path.alpha_sigma(t)), x)

    def speed(angle: Tensor, y: Tensor) -> Tensor:
        angle = angle.clamp(0, math.pi / 2)  # the last step may round past the end
        time = path.time_at(angle.tan().log())
        alpha, sigma = (spread(v, y) for v in path.alpha_sigma(time))
        point = torch.hypot(alpha, sigma) * y
        return -spread(angle.cos(), y) * sigma * law.score(point, time, cond) - spread(angle.sin(), y) * law.x0(
            point, time, cond
        )

    for step in range(steps):
        now, width = angle + step * h, spread(h, y)
        k1 = speed(now, y)
        k2 = speed(now + h / 2, y + width / 2 * k1)
        k3 = speed(now + h / 2, y + width / 2 * k2)
        k4 = speed(now + h, y + width * k3)
        y = y + width / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return (spread(torch.hypot(*path.alpha_sigma(u)), x) * y).to(x.dtype)


@torch.no_grad()
def sw2(a: Tensor, b: Tensor, projections: int = 64, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance of two equally large sets [n, ...]: root mean square over fixed random lines."""
    if a.shape != b.shape:
        raise ValueError(f"sets must be of one shape, found {tuple(a.shape)} and {tuple(b.shape)}")
    a, b = a.flatten(1).to(torch.float64), b.flatten(1).to(torch.float64)
    lines = Rng(seed).normal("sw2", (a.shape[1], projections)).to(torch.float64)
    lines = lines / lines.norm(dim=0)
    return float(((a @ lines).sort(0).values - (b @ lines).sort(0).values).square().mean().sqrt())


@torch.no_grad()
def mode_tv(x: Tensor, law: Mixture) -> float:
    """Total variation between the weights of the modes and the share of samples [n, ...] nearest to each, in [0, 1]."""
    nearest = torch.cdist(x.flatten(1).to(torch.float64), law.means.to(torch.float64).flatten(1)).argmin(1)
    share = nearest.bincount(minlength=len(law.means)).to(torch.float64) / len(x)
    return float((share - law.weights.to(share)).abs().sum() / 2)


def mode_stds(x: Tensor, law: Mixture) -> Tensor:
    """Per-mode standard deviation [K] of samples about their own mean; nan for a mode with fewer than two."""
    flat = x.flatten(1).to(torch.float64)
    nearest = torch.cdist(flat, law.means.to(torch.float64).flatten(1)).argmin(1)
    found = [flat[nearest == k] for k in range(len(law.means))]
    return torch.stack([part.var(0, correction=0).mean().sqrt() if len(part) > 1 else NAN for part in found])
