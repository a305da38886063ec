"""Laws whose noised versions are known in closed form: teachers with an exact x0, score, density and ODE map.

Every one is a Denoiser on any Schedule. Samples are [B, *shape], shape = (C, T, ...): a point in D dimensions is
[B, D, 1], a scalar sequence [B, 1, T]. Computed in float64, returned in the dtype of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.rng import Rng
from ..core.schedule import Schedule, spread

LABEL = "label"


def wide(value: Tensor, x: Tensor) -> Tensor:
    """A law's constant in float64, where x is."""
    return value.to(device=x.device, dtype=torch.float64)


class Exact(Protocol):
    """A Denoiser that also knows everything else."""

    @property
    def schedule(self) -> Schedule: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def x0(self, x: Tensor, t: Tensor, cond: Cond = Cond(), *, attend: Attend = full) -> Tensor: ...

    def score(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """grad log p_t(x), shaped as x."""

    def log_prob(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        """log p_t(x) [B], float64; differentiable in x."""

    def ode_map(self, x: Tensor, t: Tensor, u: Tensor, cond: Cond = Cond()) -> Tensor:
        """Where the probability-flow ODE takes x from t to u, both [B], either way."""

    def sample(self, n: int, rng: Rng, cond: Cond = Cond()) -> Tensor:
        """n clean samples, float32 [n, *shape]; named draws, so the same rng gives the same samples."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x0 ~ N(mean, cov). mean: [*shape]; cov: [N, N] over the flattened sample, or [*shape], a diagonal."""

    schedule: Schedule
    mean: Tensor
    cov: Tensor

    def __post_init__(self) -> None:
        n = self.mean.numel()
        if self.mean.ndim < 2 or self.cov.shape not in (self.mean.shape, (n, n)):
            raise ValueError(f"mean {tuple(self.mean.shape)} must be (C, T, ...), cov {tuple(self.cov.shape)} fit it")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    @cached_property
    def full_cov(self) -> Tensor:
        """Sigma [N, N], float64."""
        cov = self.cov.to(torch.float64)
        return cov.flatten().diag() if self.cov.shape == self.mean.shape else cov

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """(variances [N], axes [N, N]) with Sigma = axes diag(variances) axes^T."""
        if self.cov.shape == self.mean.shape:
            return self.cov.to(torch.float64).flatten(), torch.eye(self.mean.numel(), dtype=torch.float64)
        variances, axes = torch.linalg.eigh(self.full_cov)
        return variances.clamp_min(0), axes

    def _centred(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x - alpha mean [B, N], alpha, sigma), the last two [B, N], float64."""
        alpha, sigma = (spread(v, x).expand(x.shape).flatten(1) for v in self.schedule.alpha_sigma(t))
        return x.to(torch.float64).flatten(1) - alpha * wide(self.mean, x).flatten(), alpha, sigma

    def _whitened(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """([A Sigma A + D]^-1 (x - A mean) [B, N], A's diagonal [B, N], log det of the covariance [B])."""
        gap, alpha, sigma = self._centred(x, t)
        if t.ndim < 2:
            variances, axes = (wide(v, x) for v in self._spectrum)
            total = alpha**2 * variances + sigma**2
            return (gap @ axes / total) @ axes.T, alpha, total.log().sum(1)
        total = alpha[:, :, None] * wide(self.full_cov, x) * alpha[:, None, :] + torch.diag_embed(sigma**2)
        return torch.linalg.solve(total, gap), alpha, torch.linalg.slogdet(total)[1]

    def x0(self, x: Tensor, t: Tensor, cond: Cond = Cond(), *, attend: Attend = full) -> Tensor:
        """mean + Sigma A (A Sigma A + D)^-1 (x - A mean); A, D: alpha and sigma^2 of each position, t [B] or [B, T]."""
        white, alpha, _ = self._whitened(x, t)
        estimate = wide(self.mean, x).flatten() + (alpha * white) @ wide(self.full_cov, x)
        return estimate.view(x.shape).to(x.dtype)

    def score(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        return -self._whitened(x, t)[0].view(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        white, _, log_det = self._whitened(x, t)
        gap = self._centred(x, t)[0]
        return -0.5 * ((gap * white).sum(1) + log_det + gap.shape[1] * math.log(2 * math.pi))

    def ode_map(self, x: Tensor, t: Tensor, u: Tensor, cond: Cond = Cond()) -> Tensor:
        """alpha_u mean + [S_u / S_t]^1/2 (x - alpha_t mean), S = alpha^2 Sigma + sigma^2 I."""
        variances, axes = (wide(v, x) for v in self._spectrum)
        gap, alpha, sigma = self._centred(x, t)
        _, alpha_u, sigma_u = self._centred(x, u)
        ratio = ((alpha_u**2 * variances + sigma_u**2) / (alpha**2 * variances + sigma**2)).sqrt()
        moved = alpha_u * wide(self.mean, x).flatten() + (gap @ axes * ratio) @ axes.T
        return moved.view(x.shape).to(x.dtype)

    def sample(self, n: int, rng: Rng, cond: Cond = Cond()) -> Tensor:
        variances, axes = self._spectrum
        z = rng.normal("sample", (n, self.mean.numel())).to(torch.float64)
        flat = self.mean.to(torch.float64).flatten() + (z * variances.sqrt()) @ axes.T
        return flat.view(n, *self.shape).to(torch.float32)


def gaussian(schedule: Schedule, mean: float | list[float] = 0.7, std: float | list[float] = 0.5) -> Gaussian:
    """Independent normals as points [B, D, 1]; the default is G1 of the test bed: N(0.7, 0.5^2)."""
    centre = torch.as_tensor(mean, dtype=torch.float64).reshape(-1, 1)
    return Gaussian(schedule, centre, torch.as_tensor(std, dtype=torch.float64).reshape(-1, 1).expand_as(centre) ** 2)


def ar1(schedule: Schedule, length: int, rho: float = 0.8, shape: tuple[int, ...] | None = None) -> Gaussian:
    """The smallest "video": a sequence with Sigma_ij = rho^|i - j|, so x_k given the past is N(rho x_{k-1}, 1 - rho^2).

    Samples [B, 1, T]; shape: another with T at index 1 and ones elsewhere, as (1, T, 1, 1).
    """
    place = torch.arange(length, dtype=torch.float64)
    cov = rho ** (place[:, None] - place).abs()
    return Gaussian(schedule, torch.zeros(shape or (1, length), dtype=torch.float64), cov)


@dataclass(frozen=True, eq=False)
class Classes:
    """One Gaussian per class, all of one isotropic std, and one more for "no class": guidance is then exact.

    Guided by scale s, class c becomes N(mu_u + s (mu_c - mu_u), std^2) at every t. means: [K + 1, *shape], the last for
    no class, so that the null of the condition "label" is K.
    """

    schedule: Schedule
    means: Tensor
    std: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.means.shape[1:])

    def cond(self, labels: Tensor) -> Cond:
        """The condition for labels [B] in 0..K - 1, droppable."""
        return Cond({LABEL: labels}, null={LABEL: torch.tensor([len(self.means) - 1])})

    def guided(self, label: int, scale: float = 1.0) -> Gaussian:
        """The law of a class under guidance; scale 1 is the class itself, 0 no class."""
        none = self.means[-1]
        mean = none + scale * (self.means[label] - none)
        return Gaussian(self.schedule, mean, torch.full_like(mean, self.std**2))

    def _of(self, cond: Cond, x: Tensor) -> Tensor:
        means = wide(self.means, x)
        return means[cond.fields[LABEL]] if LABEL in cond.fields else means[-1].expand(x.shape)

    def _around_zero(self, ask: Callable[[Gaussian, Tensor], Tensor], x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """What the law says at x is what N(0, std^2) says at x - alpha mean."""
        alpha = spread(self.schedule.alpha_sigma(t)[0], x)
        zero = torch.zeros(self.shape, dtype=torch.float64, device=x.device)
        law = Gaussian(self.schedule, zero, torch.full_like(zero, self.std**2))
        return ask(law, x.to(torch.float64) - alpha * self._of(cond, x))

    def x0(self, x: Tensor, t: Tensor, cond: Cond = Cond(), *, attend: Attend = full) -> Tensor:
        return (self._of(cond, x) + self._around_zero(lambda law, gap: law.x0(gap, t), x, t, cond)).to(x.dtype)

    def score(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        return self._around_zero(lambda law, gap: law.score(gap, t), x, t, cond).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor, cond: Cond = Cond()) -> Tensor:
        return self._around_zero(lambda law, gap: law.log_prob(gap, t), x, t, cond)

    def ode_map(self, x: Tensor, t: Tensor, u: Tensor, cond: Cond = Cond()) -> Tensor:
        alpha_u = spread(self.schedule.alpha_sigma(u)[0], x)
        moved = self._around_zero(lambda law, gap: law.ode_map(gap, t, u), x, t, cond)
        return (alpha_u * self._of(cond, x) + moved).to(x.dtype)

    def sample(self, n: int, rng: Rng, cond: Cond = Cond()) -> Tensor:
        z = rng.normal("sample", (n, *self.shape)).to(torch.float64)
        return (self._of(cond, z) + self.std * z).to(torch.float32)
