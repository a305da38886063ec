"""Score identity: its loss and gradients are those of the Fisher divergence, on laws where both are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdistill.core.losses.identity import score_identity
from vdistill.core.losses.regression import per_sample


def test_twice_the_loss_at_one_half_is_a_difference_of_squares() -> None:
    x, real, fake = torch.randn(3, 4, 5, 7, dtype=torch.float64).unbind(0)
    expected = per_sample((real - x).square()) - per_sample((fake - x).square())
    assert torch.allclose(2 * score_identity(x, real, fake, 0.5, normalize=False), expected, atol=1e-12)


def estimates(mean: Tensor, frozen: float, teacher: float, t: float, s: float) -> tuple[Tensor, Tensor, Tensor]:
    """x of a student N(mean, s^2), and the exact clean estimates of x_t by a teacher N(teacher, s^2) and a critic that
    knows N(frozen, s^2)."""
    z, eps = torch.randn(2, 64, 8, dtype=torch.float64).unbind(0)
    x = mean + s * z
    xt = (1 - t) * x + t * eps
    k = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
    real, fake = (m + k * (xt - (1 - t) * m) for m in (teacher, frozen))
    return x, real, fake


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_its_gradient_is_the_fisher_divergences(t: float, alpha: float) -> None:
    mean, teacher, s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), -0.4, 0.6
    x, real, fake = estimates(mean, 0.7, teacher, t, s)
    (2 * score_identity(x, real, fake, alpha, normalize=False).mean()).backward()
    k = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
    # F = (teacher - mean)^2 (1 - k (1 - t))^2: equal variances make the gap of the scores the same everywhere, so
    # a frozen sampling law (alpha 1) gives the same gradient
    expected = -2 * (teacher - 0.7) * (1 - k * (1 - t)) ** 2
    assert mean.grad is not None and float(mean.grad) == pytest.approx(expected, rel=1e-9)


def test_detached_estimates_would_be_another_gradient() -> None:
    mean = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x, real, fake = estimates(mean, 0.7, -0.4, 0.5, 0.6)
    whole, cut = (
        torch.autograd.grad(score_identity(x, a, b, 1.0, normalize=False).mean(), mean, retain_graph=True)[0]
        for a, b in ((real, fake), (real.detach(), fake.detach()))
    )
    assert abs(float(whole - cut)) > 0.1 * abs(float(whole))


def test_the_normaliser_carries_no_gradient() -> None:
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    real, fake = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    n = (x - real).abs().mean(1).detach()
    a = torch.autograd.grad((score_identity(x, real, fake, normalize=False) / n).sum(), x)[0]
    b = torch.autograd.grad(score_identity(x, real, fake).sum(), x)[0]
    assert torch.allclose(a, b)
