"""Flow training: the gradient is that of the velocity error, the optimum is the law's own x0."""

from __future__ import annotations

import pytest
import torch
from methods.bed import CLASSES, G1, MU, Asked, S, affine, batch_of, bell, doubled, train
from torch import Tensor, nn

from vdistill.core.attention import Attend, full
from vdistill.core.begin import Begin
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.step import Batch
from vdistill.families.analytic import gaussian
from vdistill.methods.flow import Flow, FlowConfig


def test_gradient_is_that_of_the_squared_velocity_error() -> None:
    """v_hat = (x_t - x0_hat) / t against eps - x0, on the draws the method makes; for x0_hat = a x_t + b."""
    net, batch, rng = affine(1.0, scale=0.4, shift=-0.2).double(), doubled(batch_of(G1, 64)), Rng(3)
    Flow(FlowConfig(floor=1e-9), net, net).loss("student", batch, rng).total.backward()
    eps, x = rng.normal("eps", batch.x.shape).double(), batch.x
    t = torch.sigmoid(rng.normal("t", (64,)).double()).view(-1, 1, 1)
    xt = (1 - t) * x + t * eps
    error = (xt - 0.4 * xt + 0.2) / t - (eps - x)
    a, b = net.net.a.grad.item(), net.net.b.grad.item()
    assert a == pytest.approx((2 * error * -xt / t).mean().item(), rel=1e-6)
    assert b == pytest.approx((2 * error * -1 / t).mean().item(), rel=1e-6)


def test_time_shift_moves_the_times_trained_at() -> None:
    plain, shifted = (Asked(gaussian(Schedule("rf", shift=shift))) for shift in (1.0, 3.0))
    for net in (plain, shifted):
        Flow(FlowConfig(), net, nn.Linear(1, 1)).loss("student", batch_of(G1, 32), Rng(0))
    t, moved = plain.calls[0][1], shifted.calls[0][1]
    assert torch.allclose(moved, 3 * t / (1 + 2 * t), rtol=1e-12)


def test_trained_gaussian_is_the_law_of_the_data() -> None:
    net = bell()
    train(Flow(FlowConfig(), net, net), G1, 400, {"student": 0.02})
    assert abs(net.net.mean.item() - MU) < 2e-2 and abs(net.net.log_std.exp().item() - S) < 2e-2


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_named_share_of_conditions_is_dropped(share: float) -> None:
    net, batch = Asked(CLASSES), batch_of(CLASSES, 20000)
    Flow(FlowConfig(drop=share, name="label"), net, nn.Linear(1, 1)).loss("student", batch, Rng(0))
    before, after = batch.cond.fields["label"], net.calls[0][2].fields["label"]
    gone = after == 2
    assert abs(gone.double().mean().item() - share) < (0.01 if 0 < share < 1 else 1e-9)
    assert torch.equal(after[~gone], before[~gone])


def test_a_sample_without_conditions_trains_as_it_is() -> None:
    net = Asked(G1)
    Flow(FlowConfig(drop=1.0), net, nn.Linear(1, 1)).loss("student", batch_of(G1, 4), Rng(0))
    assert net.calls[0][2] == Cond()


def test_a_wrong_velocity_costs_more_than_the_right_one() -> None:
    """The law's own x0 leaves the posterior variance, and nothing leaves less."""
    batch = Batch(G1.sample(20000, Rng(0)), Cond())
    best, worse = (
        Flow(FlowConfig(), law, nn.Linear(1, 1)).loss("student", batch, Rng(1)).total.item()
        for law in (G1, affine(1.0, scale=0.5, shift=0.3))
    )
    assert best < worse


class Half:
    """Half of what it sees, at every position."""

    schedule = Schedule("rf")

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return x / 2


def test_known_beginnings_are_clean_and_cost_nothing() -> None:
    """And what follows costs what it would, per position left."""
    x = torch.randn(64, 2, 5, 1, 1)
    net = Asked(Half())
    begin = Begin(share=0.75, most=3)
    loss = Flow(FlowConfig(begin=begin), net, nn.Linear(1, 1)).loss("student", Batch(x, Cond()), Rng(0))
    xt, t, _ = net.calls[0]
    known = t == 0
    assert torch.equal(known, known.long().cumprod(1).bool()) and not known[:, 3:].any()
    many = known.sum(1)
    assert abs((many > 0).double().mean().item() - 0.75) < 0.15 and {*many.tolist()} == {0, 1, 2, 3}
    spots = known[:, None, :, None, None].expand_as(x)
    assert torch.equal(xt[spots], x[spots]) and not (xt[~spots] == x[~spots]).any()
    error = (xt / 2 - x).square() / t.clamp_min(0.05)[:, None, :, None, None] ** 2
    each = [e[:, ~k].mean() for e, k in zip(error, known, strict=True)]
    assert torch.allclose(loss.total.double(), torch.stack(each).mean(), rtol=1e-5)


def test_a_disturbed_beginning_is_told_to_be_clean() -> None:
    x = torch.zeros(256, 1, 2, 1, 1)
    net = Asked(Half())
    Flow(FlowConfig(begin=Begin(1.0, 1, 0.2)), net, nn.Linear(1, 1)).loss("student", Batch(x, Cond()), Rng(0))
    xt, t, _ = net.calls[0]
    assert (t[:, 0] == 0).all() and 0.05 < xt[:, 0, 0].std() < 0.2


def test_a_beginning_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="2 of 2 positions known.*leave one"):
        Flow(FlowConfig(begin=Begin(1.0, 2)), Half(), nn.Linear(1, 1)).loss(
            "student", Batch(torch.zeros(1, 1, 2, 1, 1), Cond()), Rng(0)
        )
