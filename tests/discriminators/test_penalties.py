"""R1 and R2 against closed forms: a linear judge, a cubic one, and the same through real attention."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from methods.bed import RF
from torch import Tensor, nn
from toys import shapes_source, tiny_family

from vdistill.core.cond import Cond
from vdistill.core.losses.gan import exact_r1, lecam, watch_loss
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.core.times import Grid
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.anchor import Anchor
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.look import Taps, Whole
from vdistill.discriminators.penalties import Penalty, Probe, Slope

W = torch.randn(2, 3, 1, 1, 1, generator=torch.Generator().manual_seed(0))[0].double()


class Linear(nn.Module):
    """w x_t."""

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        return (seen[0] * W).flatten(1).sum(1, keepdim=True)


def extra(penalty: Penalty, n: int, t: float) -> float:
    """What a penalty adds to the loss of the linear judge."""
    batch, x = Batch(torch.randn(n, 3, 1, 1, 1).double(), Cond()), torch.randn(n, 3, 1, 1, 1).double()
    costs = [
        Adversarial(Whole(), RF, Linear(), watch_weight=1.0, times=Grid((t,)), penalties=some).watch(x, batch, Rng(1))
        for some in ((), (penalty,))
    ]
    return float(costs[1].total - costs[0].total)


@pytest.mark.parametrize("of", ["real", "fake"])
@pytest.mark.parametrize("t", [0.2, 0.9])
def test_the_probe_of_a_linear_judge_is_its_squared_slope_at_every_time(t: float, of: str) -> None:
    """lambda sigma^2 alpha_t^2 |w|^2: both sides are noised alike, so the level's own noise is not in it."""
    want = 100 * 0.1**2 * (1 - t) ** 2 * float(W.square().sum())
    assert extra(Probe(100.0, 0.1, of), 100_000, t) == pytest.approx(want, rel=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("of", ["real", "fake"])
def test_the_slope_of_a_linear_judge_is_exact(of: str) -> None:
    want = 3.0 / 2 * 0.75**2 * float(W.square().sum())
    assert extra(Slope(3.0, of), 5, 0.25) == pytest.approx(want, rel=1e-6)  # type: ignore[arg-type]


def test_the_gradient_of_the_slope_is_the_closed_form() -> None:
    """D = a sum x^3: |grad D|^2 = 9 a^2 sum x^4, whose derivative in a is 18 a sum x^4."""
    a, x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), torch.randn(4, 5).double().requires_grad_()
    cost = exact_r1((a * x**3).sum(1, keepdim=True).double(), x)
    quartic = x.detach().pow(4).sum(1)
    assert torch.allclose(cost, 9 * 0.49 * quartic, rtol=1e-6)
    (slope,) = torch.autograd.grad(cost.sum(), a)
    assert slope.item() == pytest.approx(float(18 * 0.7 * quartic.sum()), rel=1e-6)


def test_the_slope_goes_through_attention_and_is_that_of_finite_differences() -> None:
    family = tiny_family()
    batch, taps = shapes_source(family)(0, 0), Taps(family.net.requires_grad_(False), (0,), True)
    torch.manual_seed(0)
    heads = TokenHeads([16], 8)
    term = Adversarial(taps, family.net.schedule, heads, watch_weight=1.0, penalties=(Slope(2.0),))
    term.watch(batch.x, batch, Rng(0)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())
    level = next(term._levels(batch.x, Rng(0)))
    x = batch.x.clone().requires_grad_()
    cost = exact_r1(level.ask(x, batch.cond), x).detach()
    (slope,) = torch.autograd.grad(level.ask(x, batch.cond).mean(1).sum(), x)
    with torch.no_grad():
        way = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        ends = [level.ask(batch.x + h * way, batch.cond).mean(1) for h in (1e-2, -1e-2)]
    assert torch.allclose(((ends[0] - ends[1]) / 2e-2).square(), cost, rtol=1e-2)


# -- the anchor -------------------------------------------------------------------------------------------------------


def test_the_anchor_is_nothing_at_first_and_then_the_formula() -> None:
    anchor, real, fake = Anchor(0.5, 0.9), torch.full((2, 3), 2.0), torch.full((2, 3), -1.0)
    assert anchor(real, fake).tolist() == [0, 0]
    assert torch.allclose(anchor(real, fake), torch.full((2,), 0.5 * (9 + 9)))  # usual: 2 and -1, made up for its youth
    usual = (torch.tensor(0.3), torch.tensor(-0.2))
    want = (2 + 0.2) ** 2 + (-1 - 0.3) ** 2
    assert lecam(real, fake, *usual).tolist() == pytest.approx([want, want], rel=1e-6)


def test_the_anchor_is_saved_with_its_judge_and_leaves_the_game_alone_at_first() -> None:
    term = Adversarial(Whole(), RF, Linear(), watch_weight=1.0, anchor=Anchor())
    x, batch = torch.randn(2, 3, 1, 1, 1).double(), Batch(torch.randn(2, 3, 1, 1, 1).double(), Cond())
    loss = term.watch(x, batch, Rng(0))
    level = next(term._levels(x, Rng(0)))
    want = watch_loss(level.ask(batch.x, Cond()), level.ask(x, Cond())).mean()
    assert float(loss.total) == pytest.approx(float(want), rel=1e-6)
    assert {"anchor.real", "anchor.fake", "anchor.seen"} == set(term.module.state_dict())
