"""Distribution matching: move the student's samples along the difference of two scores (DMD, Yin et al. 2023).

With p the law of the noised student, q the noised teacher's and r = q / p, the gradient of an f-divergence D_f(q || p)
is -E[h(r) (score_q - score_p) dx_t], h(r) = r^2 f''(r). In x0 form: g = h(r) (fake - real) / n, n = mean |x - real|.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..schedule import spread
from .regression import per_sample

Divergence = Callable[[Tensor], Tensor]
"""h as a function of log r [B] -> [B]. Of the logarithm, because that is what a discriminator's logit estimates."""


def reverse_kl(log_ratio: Tensor) -> Tensor:
    """KL(p || q): h = 1."""
    return torch.ones_like(log_ratio)


def distance(x: Tensor, real: Tensor, floor: float = 1e-5) -> Tensor:
    """n = mean |x - real| per sample [B], at least `floor`; float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return per_sample((x.to(dtype) - real.to(dtype)).abs()).clamp_min(floor)


def direction(x: Tensor, real: Tensor, fake: Tensor, weight: Tensor | None = None, normalize: bool = True) -> Tensor:
    """g = weight (fake - real) / n, shaped as x, without a graph: a step along -g makes x likelier under the teacher.

    real, fake: clean estimates [B, ...] of x_t by teacher and critic; weight: h [B], 1 without it.
    """
    with torch.no_grad():
        gap = fake - real
        if normalize:
            gap = gap / spread(distance(x, real), x)
        if weight is not None:
            gap = spread(weight, x) * gap
        return gap.to(x.dtype)


def along(x: Tensor, grad: Tensor) -> Tensor:
    """1/2 mean |x - sg(x - g)|^2 [B]: a value of 1/2 mean g^2 whose gradient in x is g / numel of a sample.

    Written so that x and g are never subtracted: in low precision that would round g to the grid of x.
    """
    grad = grad.detach()
    return per_sample(0.5 * grad.square() + (x - x.detach()) * grad)


def matching(
    x: Tensor,
    real: Tensor,
    fake: Tensor,
    *,
    h: Divergence = reverse_kl,
    log_ratio: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """The distribution-matching loss [B]. x carries the student's graph; log_ratio: log q / p at x_t [B].

    Raises ValueError for an h other than reverse_kl without the ratio it needs.
    """
    if log_ratio is None and h is not reverse_kl:
        raise ValueError("this divergence weighs by the density ratio: give log_ratio")
    weight = None if log_ratio is None else h(log_ratio.detach())
    return along(x, direction(x, real, fake, weight, normalize))
