"""Consistency: a map to the clean end that agrees with itself one solver step further on (Song et al. 2023, LCM).

f(x_t, t) = c_skip(t) x_t + c_out(t) x0_hat(x_t, t),  L = d(f(x_t, t), sg f(x_u, u)),  x_u one teacher step below x_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser
from ..errors import UserError
from ..schedule import spread


@dataclass(frozen=True)
class Boundary:
    """c_skip = d^2 / ((k t)^2 + d^2), c_out = k t / sqrt((k t)^2 + d^2): f(x, 0) = x whatever the network says.

    sigma_data: d; scaling: k for t in [0, 1]. Luo et al. 2023 scale a time in [0, 1000] by 10, hence 10,000.
    """

    sigma_data: float = 0.5
    scaling: float = 10_000.0

    def __post_init__(self) -> None:
        if not (self.sigma_data > 0 and self.scaling > 0):
            raise UserError(f"sigma_data and scaling must be > 0, found {self.sigma_data}, {self.scaling}", "boundary")

    def skip_out(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out) shaped as t, float64."""
        time = self.scaling * t.to(torch.float64)
        total = time**2 + self.sigma_data**2
        return self.sigma_data**2 / total, time / total.sqrt()

    def __call__(self, x0_hat: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        """f(x_t, t) from the network's clean estimate; t: [B] or [B, T]."""
        skip, out = (spread(c, xt) for c in self.skip_out(t))
        return (skip * xt + out * x0_hat).to(xt.dtype)


@torch.no_grad()
def target(student: Denoiser, boundary: Boundary, xu: Tensor, u: Tensor, cond: Cond) -> Tensor:
    """sg f(x_u, u): where the student, one solver step further on, says the trajectory ends. At u = 0 it is x_u."""
    at_end = spread(u == 0, xu)
    return torch.where(at_end, xu, boundary(student.x0(xu, u, cond), xu, u))
