"""Noise schedules x_t = alpha(t) x0 + sigma(t) eps with t in [0, 1], t = 1 noise, and conversions of predictions.

Paths and conversions: Ho et al. 2020 (vp), Karras et al. 2022 (edm), Liu et al. 2022 (rf), Lu & Song 2024 (trig);
zero terminal SNR: Lin et al. 2023. Time and coefficients are float64; results come back in the dtype of x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["vp", "edm", "rf", "trig"]
Predicts = Literal["x0", "eps", "v", "flow"]
Betas = Literal["linear", "scaled_linear", "cosine"]


def spread(value: Tensor, x: Tensor) -> Tensor:
    """View a per-sample [B] or per-position [B, T] or [B, 1] value so that it broadcasts against x [B, C, T, ...].

    Raises ValueError for any other shape; a value that already has the rank of x passes through.
    """
    if value.ndim == x.ndim:
        return value
    if value.ndim == 0 or (value.ndim == 1 and len(value) in (1, len(x))):
        return value.view(-1, *[1] * (x.ndim - 1))
    if value.ndim == 2 and x.ndim >= 3 and value.shape[1] in (1, x.shape[2]):
        return value.view(value.shape[0], 1, value.shape[1], *[1] * (x.ndim - 3))
    raise ValueError(f"t must be [B] or [B, T] for x {tuple(x.shape)}, got {tuple(value.shape)}")


@lru_cache(maxsize=32)
def _vp_table(betas: Betas, start: float, end: float, steps: int, zero_snr: bool, snr_shift: float) -> Tensor:
    """sqrt(alpha_bar) at t = 0, 1/steps, ..., 1 (float64, steps + 1 entries, the first is 1)."""
    if betas == "cosine":
        u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        bar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    elif betas == "scaled_linear":
        beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    else:
        beta = torch.linspace(start, end, steps, dtype=torch.float64)
    bar = torch.cumprod(1 - beta, 0)
    root = (bar / (snr_shift + (1 - snr_shift) * bar)).sqrt()  # signal-to-noise ratio over snr_shift
    if zero_snr:  # shift so that the last is 0, scale so that the first stays (Lin et al. 2023, algorithm 1)
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return torch.cat([torch.ones(1, dtype=torch.float64), root])


@dataclass(frozen=True)
class Schedule:
    """kind: the path; shift: time shift k of grids, t -> k t / (1 + (k - 1) t), for resolution (SD3, Wan).

    vp: betas, beta_start, beta_end, train_steps, zero_snr as in the DDPM family; step index i sits at t = (i + 1) / N;
    snr_shift divides every signal-to-noise ratio (CogVideoX), before the rescaling to zero.
    edm: alpha = 1 and sigma from sigma_min to sigma_max on the rho grid of Karras et al.; rf: alpha = 1 - t, sigma = t;
    trig: cos and sin of t pi / 2. `t` is always the noise level itself: shift acts on grids and samplers, never here.
    """

    kind: Kind = "rf"
    shift: float = 1.0
    betas: Betas = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    train_steps: int = 1000
    zero_snr: bool = False
    snr_shift: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def _table(self) -> Tensor:
        return _vp_table(self.betas, self.beta_start, self.beta_end, self.train_steps, self.zero_snr, self.snr_shift)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t of any shape, float64."""
        t = t.to(torch.float64)
        if self.kind == "rf":
            return 1 - t, t
        if self.kind == "trig":
            return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)
        if self.kind == "edm":
            low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
            return torch.ones_like(t), (low + t * (high - low)) ** self.rho
        table = self._table().to(t.device)
        place = t.clamp(0, 1) * self.train_steps
        left = place.floor().long().clamp(max=self.train_steps - 1)
        alpha = torch.lerp(table[left], table[left + 1], place - left)
        return alpha, (1 - alpha**2).clamp_min(0).sqrt()

    def _at(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(t)
        return spread(alpha, x), spread(sigma, x)

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps."""
        alpha, sigma = self._at(t, x0)
        return (alpha * x0 + sigma * eps).to(x0.dtype)

    def x0(self, pred: Tensor, xt: Tensor, t: Tensor, predicts: Predicts) -> Tensor:
        """The clean sample a prediction means. v = alpha eps - sigma x0; flow = eps - x0.

        eps has no answer where alpha = 0 (zero terminal SNR): that is +-inf here, not hidden.
        """
        if predicts == "x0":
            return pred
        alpha, sigma = self._at(t, xt)
        if predicts == "eps":
            return ((xt - sigma * pred) / alpha).to(xt.dtype)
        if predicts == "flow":
            return ((xt - sigma * pred) / (alpha + sigma)).to(xt.dtype)
        return ((alpha * xt - sigma * pred) / (alpha**2 + sigma**2)).to(xt.dtype)

    def eps(self, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """The noise that, with x0, makes x_t (t > 0)."""
        alpha, sigma = self._at(t, xt)
        return ((xt - alpha * x0) / sigma).to(xt.dtype)

    def prediction(self, x0: Tensor, xt: Tensor, t: Tensor, predicts: Predicts) -> Tensor:
        """What a network of type `predicts` would have to say to mean x0; inverse of `x0`. Needs t > 0."""
        if predicts == "x0":
            return x0
        eps = self.eps(x0, xt, t)
        if predicts == "eps":
            return eps
        if predicts == "flow":
            return eps - x0
        alpha, sigma = self._at(t, xt)
        return (alpha * eps - sigma * x0).to(xt.dtype)

    def score(self, x0: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x_t) = (alpha x0_hat - x_t) / sigma^2 (Tweedie)."""
        alpha, sigma = self._at(t, xt)
        return ((alpha * x0 - xt) / sigma**2).to(xt.dtype)

    def step(self, x0: Tensor, xt: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """Deterministic move t -> u with a frozen prediction (DDIM): alpha_u x0 + sigma_u eps."""
        a, s = self._at(t, xt)
        b, r = self._at(u, xt)
        return (b * x0 + r * (xt - a * x0) / s).to(xt.dtype)

    def warp(self, t: Tensor) -> Tensor:
        """Apply the time shift, float64."""
        t = t.to(torch.float64)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def grid(self, steps: int) -> Tensor:
        """steps + 1 shifted times from 1 to 0, float64."""
        return self.warp(torch.linspace(1, 0, steps + 1, dtype=torch.float64))

    def time_at(self, log_ratio: Tensor) -> Tensor:
        """The t whose log(sigma / alpha) is `log_ratio`, float64 (inverse of the path)."""
        ratio = log_ratio.to(torch.float64).exp()
        if self.kind == "rf":
            return ratio / (1 + ratio)
        if self.kind == "trig":
            return torch.atan(ratio) * 2 / math.pi
        if self.kind == "edm":
            low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
            return (ratio ** (1 / self.rho) - low) / (high - low)
        alpha = 1 / torch.sqrt(1 + ratio**2)
        table = self._table().to(alpha.device)
        rising = table.flip(0).contiguous()
        right = torch.searchsorted(rising, alpha.contiguous()).clamp(1, self.train_steps)
        low_a, high_a = rising[right - 1], rising[right]
        place = (right - 1) + (alpha - low_a) / (high_a - low_a)
        return 1 - place / self.train_steps

    def match(self, xt: Tensor, t: Tensor, other: Schedule) -> tuple[Tensor, Tensor]:
        """The same point on another path: (rescaled x, its t) at equal signal-to-noise ratio."""
        alpha, sigma = self.alpha_sigma(t)
        u = other.time_at(torch.log(sigma) - torch.log(alpha))
        norm, other_norm = torch.hypot(alpha, sigma), torch.hypot(*other.alpha_sigma(u))
        return (spread(other_norm / norm, xt) * xt).to(xt.dtype), u
