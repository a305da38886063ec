"""Distribution matching: move the student's samples along the difference of two scores (DMD, Yin et al. 2023).

With p the law of the noised student and q the noised teacher's, the gradient of KL(p || q) in x0 form is (fake - real),
here over n = mean |x - real|; a weight makes it that of another divergence (divergence.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..schedule import spread
from .regression import per_sample


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


def matching(x: Tensor, real: Tensor, fake: Tensor, *, weight: Tensor | None = None, normalize: bool = True) -> Tensor:
    """The distribution-matching loss [B]. x carries the student's graph; weight: h(r) at x_t [B], 1 without it."""
    return along(x, direction(x, real, fake, weight, normalize))
