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
from vdistill.discriminators.heads import CrossHeads, TokenHeads
from vdistill.discriminators.look import Taps, Whole
from vdistill.discriminators.penalties import HeadSlope, Probe, Slope
from vdistill.discriminators.rounds import Penalty

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
    level = next(term._levels(batch.x, batch.cond, Rng(0)))
    x = batch.x.clone().requires_grad_()
    cost = exact_r1(level.ask(x).logits, x).detach()
    (slope,) = torch.autograd.grad(level.ask(x).logits.mean(1).sum(), x)
    with torch.no_grad():
        way = slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        ends = [level.ask(batch.x + h * way).logits.mean(1) for h in (1e-2, -1e-2)]
    assert torch.allclose(((ends[0] - ends[1]) / 2e-2).square(), cost, rtol=1e-2)


class MeanHead(nn.Module):
    """v f of each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(width, generator=torch.Generator().manual_seed(0)))

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        return torch.cat([f.float() @ self.v for f in seen], 1)


@pytest.mark.parametrize("of", ["real", "fake"])
def test_the_slope_at_the_heads_is_that_of_the_heads_whatever_the_network_before_them(of: str) -> None:
    """Two layers of N tokens each: weight / 2 * 2 N (|v| / 2 N)^2; the network, though it learns, is left alone."""
    family = tiny_family()
    batch, head = shapes_source(family)(0, 0), MeanHead(16)
    costs = []
    for some in ((), (HeadSlope(3.0, of),)):  # type: ignore[arg-type]
        taps = Taps(family.net.requires_grad_(True), (0, 1))
        term = Adversarial(taps, family.net.schedule, head, watch_weight=1.0, penalties=some)
        costs.append(term.watch(batch.x + 1, batch, Rng(1)).total)
    tokens = next(term._levels(batch.x, batch.cond, Rng(1))).ask(batch.x).logits.shape[1]
    extra = costs[1] - costs[0]
    want = 3.0 / 2 * float(head.v.detach().square().sum()) / tokens
    assert extra.item() == pytest.approx(want, rel=1e-3) and want > 0.01
    level = next(term._levels(batch.x, batch.cond, Rng(1)))
    HeadSlope(3.0)(level, level.ask(batch.x), Rng(1)).sum().backward()
    assert torch.allclose(head.v.grad, 2 * 3 * head.v.detach() / tokens, rtol=1e-4)  # type: ignore[arg-type]
    assert all(p.grad is None for p in family.net.parameters())


def test_heads_that_read_by_attention_have_a_slope_too() -> None:
    torch.manual_seed(0)
    heads, f = CrossHeads([6], 8), torch.randn(2, 5, 6)
    term = Adversarial(lambda xt, t, cond: [f], RF, heads)
    level = next(term._levels(torch.randn(2, 3, 1, 1, 1), Cond(), Rng(0)))
    leaf = f.clone().requires_grad_()
    (slope,) = torch.autograd.grad(heads([leaf], level.t, Cond()).sum(), leaf)
    cost = HeadSlope(2.0)(level, level.ask(torch.randn(2, 3, 1, 1, 1)), Rng(0))
    assert torch.allclose(cost, slope.square().flatten(1).sum(1), rtol=1e-4)
    cost.sum().backward()
    assert all(p.grad is not None for name, p in heads.named_parameters() if "readers" in name and "think" in name)


# -- the anchor -------------------------------------------------------------------------------------------------------


def test_the_anchor_is_nothing_at_first_and_then_the_formula() -> None:
    anchor, real, fake = Anchor(0.5, 0.9), torch.full((2, 3), 2.0), torch.full((2, 3), -1.0)
    assert anchor(real, fake, 0).tolist() == [0, 0]
    # usual: 2 and -1, made up for its youth
    assert torch.allclose(anchor(real, fake, 1), torch.full((2,), 0.5 * (9 + 9)))
    usual = (torch.tensor(0.3), torch.tensor(-0.2))
    want = (2 + 0.2) ** 2 + (-1 - 0.3) ** 2
    assert lecam(real, fake, *usual).tolist() == pytest.approx([want, want], rel=1e-6)


def test_the_anchor_is_saved_with_its_judge_and_leaves_the_game_alone_at_first() -> None:
    term = Adversarial(Whole(), RF, Linear(), watch_weight=1.0, anchor=Anchor())
    x, batch = torch.randn(2, 3, 1, 1, 1).double(), Batch(torch.randn(2, 3, 1, 1, 1).double(), Cond())
    loss = term.watch(x, batch, Rng(0))
    level = next(term._levels(x, Cond(), Rng(0)))
    want = watch_loss(level.ask(batch.x).logits, level.ask(x).logits).mean()
    assert float(loss.total) == pytest.approx(float(want), rel=1e-6)
    assert {f"anchor.{name}" for name in ("usual", "seen", "coming", "step")} == set(term.module.state_dict())


def test_micro_batches_of_a_step_move_the_anchor_together() -> None:
    logits = torch.randn(3, 2, 4, 5)  # steps, real and generated, samples
    whole, parts = Anchor(0.5, 0.9), Anchor(0.5, 0.9)
    for step, (real, fake) in enumerate(logits):
        want = whole(real, fake, step)
        found = [parts(real[i : i + 2], fake[i : i + 2], step) for i in (0, 2)]
        assert torch.allclose(torch.cat(found), want, rtol=1e-5) and (want > 0).all() == (step > 0)
    again = Anchor(0.5, 0.9)
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again(*logits[0], 3), whole(*logits[0], 3))
