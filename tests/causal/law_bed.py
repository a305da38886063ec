"""A sequence whose causal teacher is known exactly: x_k given the clean x_{k-1} is N(rho x_{k-1}, 1 - rho^2)."""

from __future__ import annotations

import torch
from torch import Tensor

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule, spread
from vdistill.core.step import Batch
from vdistill.families.analytic import ar1

RHO, LENGTH = 0.8, 4
RF = Schedule("rf")
LAW = ar1(RF, LENGTH, RHO)


def batch(n: int = 64, seed: int = 0) -> Batch:
    return Batch(LAW.sample(n, Rng(seed, turn="data")).double(), Cond())


def before(clean: Tensor) -> Tensor:
    """What each position is expected to be, [B, 1, T]: rho times the one before it."""
    return RHO * torch.cat([torch.zeros_like(clean[:, :, :1]), clean[:, :, :-1]], 2)


def deviation(like: Tensor) -> Tensor:
    """Of each position around it."""
    own = torch.full((LENGTH,), (1 - RHO**2) ** 0.5, dtype=torch.float64)
    own[0] = 1.0
    return own.expand_as(like)


class AfterExact:
    """Answers a pass over [clean | noisy], as `AfterClean` makes it: the posterior mean, or (jump) the consistency map,
    where the exact trajectory ends; `off` is added to what it says."""

    schedule = RF

    def __init__(self, jump: bool = False, off: float = 0.0) -> None:
        self.jump, self.off, self.asked = jump, off, 0

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        self.asked += 1
        half = x.shape[2] // 2
        clean, noisy = x[:, :, :half], x[:, :, half:]
        assert not t[:, :half].any()
        alpha, sigma = (spread(v, noisy) for v in RF.alpha_sigma(t[:, half:]))
        m, s = before(clean), deviation(clean)
        spread_t = torch.sqrt(alpha**2 * s**2 + sigma**2)
        slope = s / spread_t if self.jump else alpha * s**2 / spread_t**2
        return torch.cat([clean, m + slope * (noisy - alpha * m) + self.off], 2)
