"""f-distill's weights: h is r^2 f'', the weighted matching is the slope of the divergence, averages come back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.losses.divergence import DIVERGENCES, Weigh
from vdistill.core.losses.matching import matching
from vdistill.core.schedule import Schedule
from vdistill.families.analytic import gaussian

GENERATORS: dict[str, Callable[[Tensor], Tensor]] = {  # f of D_f(q || p) = E_p f(q / p)
    "reverse_kl": lambda r: -r.log(),
    "softened_reverse_kl": lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: (1 - r.sqrt()).square(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
}
RF = Schedule("rf")


def test_every_divergence_has_its_generator_here() -> None:
    assert set(GENERATORS) == set(DIVERGENCES)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_h_is_the_second_derivative_of_the_generator_times_the_square(name: str) -> None:
    log_r = torch.linspace(-3, 3, 13, dtype=torch.float64)
    r = log_r.exp().requires_grad_()
    (first,) = torch.autograd.grad(GENERATORS[name](r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    assert torch.allclose(DIVERGENCES[name](log_r), r.detach() ** 2 * second, rtol=1e-9)  # type: ignore[index]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_weighted_matching_is_the_slope_of_the_divergence(name: str) -> None:
    """Student z + b, at t = 0.6: d_b D_f by quadrature against E[h (fake - real)] (alpha / sigma)^2."""
    t, n = 0.6, 4001
    law = gaussian(RF, 0.7, 0.5)
    b = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    # x_t | b is N(0.4 b, 0.4^2 0.9^2 + 0.6^2); nodes of x_t that move with b, and the weight of each
    spread = math.sqrt(0.16 * 0.81 + 0.36)
    nodes = torch.linspace(-8, 8, n, dtype=torch.float64)
    share = torch.exp(-nodes.square() / 2) / torch.exp(-nodes.square() / 2).sum()
    at = torch.full((n,), t, dtype=torch.float64)

    def log_p(xt: Tensor, mean: Tensor) -> Tensor:
        return torch.distributions.Normal(0.4 * mean, spread).log_prob(xt)

    xt = (0.4 * b + spread * nodes).detach()
    log_q = torch.distributions.Normal(0.4 * 0.7, math.sqrt(0.16 * 0.25 + 0.36)).log_prob
    # D_f = E_p f(q / p), its p moving with b
    value = share * (log_p(xt, b) - log_p(xt, b).detach()).exp() * GENERATORS[name]((log_q(xt) - log_p(xt, b)).exp())
    (exact,) = torch.autograd.grad(value.sum(), b)
    x = (xt / 0.4).view(-1, 1, 1).requires_grad_()  # dx_t / dx is 0.4: any x will do, only its gradient is read
    critic = gaussian(RF, -0.3, 0.9)
    view = xt.view(-1, 1, 1)
    h = DIVERGENCES[name](log_q(xt) - log_p(xt, b).detach())  # type: ignore[index]
    loss = matching(x, law.x0(view, at), critic.x0(view, at), weight=h, normalize=False)
    (slope,) = torch.autograd.grad((share * loss).sum(), x)
    assert slope.sum().item() * (0.4 / 0.6) ** 2 == pytest.approx(exact.item(), rel=1e-6)


def fixed(value: float) -> Callable[[Tensor, Tensor, Cond], Tensor]:
    return lambda xt, t, cond: torch.full((len(xt),), value)


def test_a_ratio_that_is_always_the_same_weighs_nothing() -> None:
    weigh = Weigh(torch.exp, fixed(1.3))
    for _ in range(3):
        assert torch.allclose(weigh(torch.zeros(5, 1, 1), torch.rand(5), Cond()), torch.ones(5), atol=1e-4)


def test_each_part_of_time_has_its_own_usual_size_and_ratios_have_limits() -> None:
    low, high = torch.tensor([0.05, 0.05]), torch.tensor([0.95, 0.95])
    x = torch.zeros(2, 1, 1)
    weigh = Weigh(torch.exp, lambda xt, t, cond: torch.where(t < 0.5, -50.0, 50.0))
    assert weigh(x, low, Cond()).tolist() == pytest.approx([1, 1]) == weigh(x, high, Cond()).tolist()
    usual = weigh.usual / (1 - weigh.decay**weigh.seen).clamp_min(1e-8)
    assert usual[0].item() == pytest.approx(0.1, rel=1e-4) and usual[9].item() == pytest.approx(20, rel=1e-4)
    assert weigh.seen.tolist() == [1, *[0] * 8, 1]


def test_what_is_usual_is_saved() -> None:
    ours, again = Weigh(torch.exp, fixed(0.7)), Weigh(torch.exp, fixed(0.1))
    ours(torch.zeros(4, 1, 1), torch.rand(4), Cond())
    again.load_state_dict(ours.state_dict())
    assert torch.equal(ours.usual, again.usual) and ours.usual.sum() > 0
