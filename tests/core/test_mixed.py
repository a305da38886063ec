"""Mixed supervision: every target and balance is the number its formula gives by hand."""

import math
from dataclasses import replace

import pytest
import torch

from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.losses.mixed import (
    ByQuality,
    Const,
    Disagreement,
    GradNorm,
    Region,
    Seen,
    Sync,
    anchored,
    at_ones,
    believed,
    low_pass,
    mixed,
    target,
)

PART = torch.tensor([1.0, 0.0]).view(1, 2, 1)  # the first of two channels


def seen(**fields: torch.Tensor) -> Seen:
    """Two samples [2, 2, 3]: data 1, guided 4, plain 2, guess 0."""
    one = torch.ones(2, 2, 3)
    return Seen(one, 0 * one, 4 * one, 2 * one, torch.tensor([0.1, 0.9]), Cond(fields), {"m": PART})


def test_targets_are_their_formulas() -> None:
    found = seen()
    assert [float(target(kind, found).mean()) for kind in ("raw", "unit", "delta")] == [1.0, 1.0, 3.0]
    with pytest.raises(UserError, match="raw, delta, unit"):
        target("soft", found)  # type: ignore[arg-type]


def test_delta_is_the_data_where_guidance_pushes_nothing() -> None:
    found = seen()
    assert torch.equal(target("delta", replace(found, guided=found.plain)), found.y)


def test_unit_lets_data_speak_only_where_every_scale_is_one() -> None:
    scales = {"a": torch.tensor([1.0, 1.0, 2.0]), "b": torch.tensor([1.0, 3.0, 1.0])}
    assert at_ones(scales).tolist() == [1.0, 0.0, 0.0]


def test_const_and_quality_are_numbers() -> None:
    found = seen(quality=torch.tensor([1.0, 0.5]))
    assert Const(0.3)(found).item() == pytest.approx(0.3)
    assert ByQuality(0.2)(found).flatten().tolist() == pytest.approx([1.0, 0.6])
    assert ByQuality(0.2)(seen()).flatten().tolist() == [1.0, 1.0]


def test_region_believes_clean_data_everywhere_and_damaged_data_outside_the_part() -> None:
    weight = Region("m")(seen(quality=torch.tensor([1.0, 0.0]))).expand(2, 2, 3)
    assert weight[0].unique().tolist() == [1.0] and weight[1, 0].unique().tolist() == [0.0]
    assert weight[1, 1].unique().tolist() == [1.0]


def test_sync_weighs_the_part_by_its_confidence() -> None:
    weight = Sync("m", 3.0, 0.5)(seen(sync=torch.tensor([3.0, 4.0]))).expand(2, 2, 3)
    assert weight[:, 0, 0].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    assert weight[:, 1].unique().tolist() == [1.0]


def test_disagreement_is_measured_against_what_is_usual_at_that_time() -> None:
    balance = Disagreement(kappa=0.5, low=0.01, bins=2, decay=0.5)
    found = seen()
    assert balance(found).flatten().tolist() == [1.0, 1.0]  # each alone in its bin: as usual
    worse = replace(found, y=found.y * torch.tensor([1.0, -1.0]).view(2, 1, 1))
    # |2 - 1|^2 = 1, |2 + 1|^2 = 9; the second bin moves to (1 + 9) / 2, so d = 9 / 5
    assert balance(worse).flatten().tolist() == pytest.approx([1.0, math.exp(-0.8 / 0.5)])
    assert balance.usual.tolist() == [1.0, 5.0] and balance.seen.tolist() == [2.0, 2.0]
    assert Disagreement(kappa=1e-3, low=0.1, bins=1)(worse).min().item() == pytest.approx(0.1)


def test_disagreement_may_look_at_a_region_only() -> None:
    balance = Disagreement(bins=1, region=Region("m"))
    balance(seen(quality=torch.tensor([0.0, 0.0])))
    assert balance.usual.item() == 0.5  # one of two channels, squared distance 1


def test_what_is_usual_goes_on_after_a_restart() -> None:
    whole, first = Disagreement(bins=2), Disagreement(bins=2)
    for balance in (whole, first):
        balance(seen())
    second = Disagreement(bins=2)
    second.restore({k: v.clone() for k, v in first.state().items()})
    for balance in (whole, second):
        balance(seen(quality=torch.zeros(2)))
    assert torch.equal(whole.usual, second.usual) and torch.equal(whole.seen, second.seen)
    second.restore({})
    assert second.usual.tolist() == [0.0, 0.0] == second.seen.tolist()


def test_balances_multiply() -> None:
    found = seen(quality=torch.tensor([1.0, 0.5]))
    weight = believed(found, [Const(2.0), ByQuality(0.0), Region("m")]).expand(2, 2, 3)
    assert weight[:, :, 0].tolist() == [[2.0, 2.0], [0.5, 1.0]]
    assert believed(found, []).item() == 1.0


def test_low_pass_keeps_a_constant_and_at_infinity_gives_the_mean() -> None:
    x = torch.randn(2, 3, 9, 2, 2, dtype=torch.float64)
    for width in (0.5, 2.0, math.inf):
        torch.testing.assert_close(low_pass(torch.ones_like(x), width), torch.ones_like(x))
    torch.testing.assert_close(low_pass(x, math.inf), x.mean(2, keepdim=True).expand_as(x))
    assert low_pass(x, 0) is x


def test_an_anchored_target_takes_the_rest_of_the_data_and_the_motion_of_the_teacher() -> None:
    y, guided = torch.randn(2, 3, 9, dtype=torch.float64), torch.randn(2, 3, 9, dtype=torch.float64)
    goal = anchored(y, guided, math.inf)
    torch.testing.assert_close(goal.mean(2), y.mean(2))
    torch.testing.assert_close(goal - goal.mean(2, keepdim=True), guided - guided.mean(2, keepdim=True))
    assert anchored(y, guided, 0) is y


def test_the_loss_is_both_squared_errors() -> None:
    found, one = seen(), torch.ones(2, 2, 3)
    teacher, data = mixed(found, 3 * one, torch.tensor(2.0), torch.tensor(0.5))
    assert teacher.tolist() == [32.0, 32.0] and data.tolist() == [9.0, 9.0]  # 2 * 4^2, 2 * .5 * 3^2
    teacher, _ = mixed(found, 3 * one, torch.tensor(2.0), torch.tensor(0.5), replaces=1.0)
    assert teacher.tolist() == [16.0, 16.0]


def test_gradients_are_brought_to_the_asked_ratio() -> None:
    guess = torch.zeros(2, 2, 3, requires_grad=True)
    found = replace(seen(), guess=guess)
    parts = mixed(found, torch.randn(2, 2, 3), torch.tensor(1.5), torch.tensor(0.3), ratio=GradNorm(0.25))
    pulls = [torch.autograd.grad(part.sum(), guess, retain_graph=True)[0].norm() for part in parts]
    assert (pulls[1] / pulls[0]).item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("balance", [Region("m"), Sync("m")])
def test_a_missing_region_or_confidence_is_one_line(balance: Region | Sync) -> None:
    found = seen()
    with pytest.raises(UserError, match="the (data|batch) has no"):
        balance(replace(found, regions={}))
