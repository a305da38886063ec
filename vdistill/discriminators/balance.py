"""How hard a judge pulls at the student's sample, beside what it is already pulled by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.step import Loss


@dataclass(frozen=True)
class GradientRatio:
    """A `Balance`. share: the judge's gradient at the sample becomes this part of the other's (VQGAN's adaptive weight,
    Esser et al. 2021), whatever its weight, at most `most` times itself; without it weights stay, and the ratio is only
    reported.

    Both gradients are taken at the sample here and handed on, so nothing is computed twice and a judge's activations
    are gone before the student's backward pass.
    """

    share: float | None = None
    most: float = 1e4

    def __call__(self, x: Tensor, main: Loss, own: Loss) -> Loss:
        if not (x.requires_grad and torch.is_grad_enabled()):
            return main + own
        pulls = [torch.autograd.grad(loss.total, x)[0] for loss in (main, own)]
        sizes = [pull.float().norm() for pull in pulls]
        ratio = sizes[1] / sizes[0].clamp_min(1e-20)
        by = torch.ones_like(ratio)
        if self.share is not None:
            by = (self.share / ratio.clamp_min(1e-20)).clamp_max(self.most)
        total = handed_on(x, main.total, pulls[0]) + by * handed_on(x, own.total, pulls[1])
        return Loss(total, {**main.parts, **own.parts, "pull": ratio * by})


def handed_on(x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    """A loss of this value whose gradient at x is this, with no other graph."""
    reached = (x * gradient).sum()
    return value.detach() + reached - reached.detach()
