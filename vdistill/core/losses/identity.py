"""Score identity distillation, SiD (Zhou et al. 2024): a loss whose gradient is that of the Fisher divergence.

With phi the teacher's and psi the critic's clean estimate of x_t: L = (phi - psi)^T [(phi - x) - alpha (phi - psi)].
Nothing is detached: the gradient goes through x_t into both networks, whose own weights stand still.
"""

from __future__ import annotations

from torch import Tensor

from .matching import distance
from .regression import per_sample


def score_identity(x: Tensor, real: Tensor, fake: Tensor, alpha: float = 1.0, normalize: bool = True) -> Tensor:
    """L / n per sample [B], n = mean |x - real|, which carries no graph. x: [B, ...] of the student; real, fake: phi
    and psi of x noised, with their graphs.

    2 L at alpha = 1/2 is |phi - x|^2 - |psi - x|^2, the Fisher divergence of the laws of x_t; at alpha = 1 its gradient
    is that of the same divergence under a frozen sampling law.
    """
    gap = real - fake
    loss = per_sample(gap * ((real - x) - alpha * gap))
    return loss / distance(x, real).detach().to(loss.dtype) if normalize else loss
