"""Progressive distillation: one step of the student for several of its teacher (Salimans & Ho 2022)."""

from __future__ import annotations

from torch import Tensor

from ..schedule import Schedule, spread


def implied_x0(schedule: Schedule, xt: Tensor, xs: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The clean estimate with which one DDIM step leads from x_t to x_s, 0 <= s < t (equation 8 of the paper):

    x0 = (x_s - (sigma_s / sigma_t) x_t) / (alpha_s - (sigma_s / sigma_t) alpha_t).
    """
    a, r = (spread(value, xt) for value in schedule.alpha_sigma(t))
    b, q = (spread(value, xt) for value in schedule.alpha_sigma(s))
    share = q / r
    return ((xs - share * xt) / (b - share * a)).to(xt.dtype)
