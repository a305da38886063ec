"""A loss with judges beside it: who learns what, how losses add up; regression to the end of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from methods.bed import G1, RF, affine, batch_of, doubled, train
from torch import Tensor, nn

from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.inputs import Noised, Simulated, StudentInput
from vdistill.core.losses.regression import l2
from vdistill.core.rng import Rng
from vdistill.core.solvers import solve
from vdistill.core.step import Batch
from vdistill.core.times import Grid, Uniform
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.balance import GradientRatio
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.look import Taps, Whole
from vdistill.discriminators.pair import Pair
from vdistill.families.analytic_nets import mlp
from vdistill.methods.judged import Judged, own_end
from vdistill.methods.towards import Solved, Towards

CLEAN = Towards(own_end, lambda x, goal, cond, rng: l2(x, goal))


def term(name: str = "gan", seed: int = 1) -> Adversarial:
    critic = mlp((1, 1), RF, seed=seed).requires_grad_(False)
    return Adversarial(Taps(critic, (1,), True), RF, TokenHeads([64]), 1.0, 1.0, name=name)


def test_the_losses_are_the_aims_and_the_judges_and_each_trains_its_own() -> None:
    student, one, two = affine(1.0, scale=0.3), term(), term("second", 2)
    method = Judged(student, {"student": student}, Noised(Uniform()), CLEAN, (one, two), each=3)
    batch, rng = batch_of(G1, 8), Rng(0)
    found, x = method._made(batch, rng)
    parts = [method.aim(student, found, x, batch, rng), *(t.student(x, batch, rng) for t in (one, two))]  # type: ignore[misc]
    loss = method.loss("student", batch, rng)
    assert loss.total.item() == pytest.approx(sum(part.total.item() for part in parts), rel=1e-6)
    watched = method.loss("critic", batch, rng).total
    assert watched.item() == pytest.approx(sum(t.watch(x, batch, rng).total.item() for t in (one, two)), rel=1e-6)
    watched.backward()
    assert all(p.grad is None for p in student.parameters())
    assert all(p.grad is not None for p in method.learners["critic"].parameters())
    assert [method.turn(step) for step in (0, 1)] == [("student", "critic"), ("critic",)]


def test_without_judges_the_student_learns_alone() -> None:
    student = affine(1.0)
    method = Judged(student, {"student": student}, Noised(Uniform()), CLEAN)
    assert list(method.learners) == ["student"] and {method.turn(step) for step in range(3)} == {("student",)}
    with pytest.raises(ValueError, match="an aim or a judge"):
        Judged(student, {"student": student}, Noised(Uniform()), None)


def test_the_first_term_leads_where_there_is_no_aim_and_the_next_gets_its_share_of_that_ones_pull() -> None:
    student, one, two = affine(1.0, scale=0.3), term(), term("second", 2)
    modules = {"student": student}
    method = Judged(student, modules, Noised(Uniform()), None, (one, two), GradientRatio(0.25))
    assert method.loss("student", batch_of(G1, 8), Rng(0)).parts["pull"].item() == pytest.approx(0.25, rel=1e-5)


# -- regression -------------------------------------------------------------------------------------------------------


def paired(n: int = 512) -> Batch:
    """Noise as the condition, and the end of its trajectory."""
    z = Rng(5).normal("z", (n, 1, 1)).double()
    end = G1.ode_map(z, torch.ones(n).double(), torch.zeros(n).double())
    return Batch(end, Cond({"noise": z}))


def pairs(student: object, batch: Batch, rng: Rng) -> StudentInput:
    return StudentInput(batch.cond.fields["noise"], torch.ones(len(batch)).double(), batch.cond, target=batch.x)


def test_the_ode_map_alone_has_no_loss_on_its_pairs_and_its_mirror_image_has() -> None:
    """Both are samplers of the same law; pairs tell them apart: 4 s^2 z^2."""
    batch = paired()
    z2 = batch.cond.fields["noise"].square().mean().item()
    for slope, want in ((0.5, 0.0), (-0.5, z2)):
        net = affine(1.0, scale=slope, shift=0.7).double()
        loss = Judged(net, {"student": net}, pairs, CLEAN).loss("student", batch, Rng(0)).total.item()
        assert loss == pytest.approx(want, abs=1e-8)


def test_on_pairs_training_finds_the_ode_map() -> None:
    net = affine(1.0, scale=-0.5)
    batch = paired(256)
    plain = Batch(batch.x.float(), Cond({"noise": batch.cond.fields["noise"].float()}))
    method = Judged(net, {"student": net}, lambda student, _, rng: pairs(student, plain, rng), CLEAN)
    train(method, G1, 300, {"student": 0.05})
    assert net.net.a.item() == pytest.approx(0.5, abs=1e-3) and net.net.b.item() == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 3])
def test_solved_ends_are_the_solvers(steps: int) -> None:
    batch = doubled(batch_of(G1, 6))
    found = Noised(Grid((0.6,)))(affine(0.6), batch, Rng(0))
    grid = torch.linspace(0.6, 0, steps + 1, dtype=torch.float64)
    assert torch.allclose(Solved(G1, steps)(found), solve(G1, found.x, grid, Cond()), rtol=1e-12)


def test_inputs_without_an_end_are_refused() -> None:
    net = affine(1.0)
    method = Judged(net, {"student": net}, Simulated((1.0,)), CLEAN)
    with pytest.raises(UserError, match="no clean end"):
        method.loss("student", batch_of(G1, 2), Rng(0))


def test_weights_of_the_batch_count() -> None:
    net = affine(1.0, scale=0.3).double()
    method, batch = Judged(net, {"student": net}, Noised(Uniform()), CLEAN), doubled(batch_of(G1, 4))

    def under(weight: Tensor | None) -> Tensor:
        return method.loss("student", replace(batch, weight=weight), Rng(0)).total

    each = torch.stack([under(row) for row in torch.eye(4).double()])
    w = torch.tensor([1.0, 0.0, 2.0, 5.0]).double()
    assert torch.allclose(under(None), each.mean()) and torch.allclose(under(w), (w * each).sum() / w.sum())


# -- the conditional judge --------------------------------------------------------------------------------------------


class OnPairs(nn.Module):
    """-|x_0 - (0.7 + 0.5 x_1)|: how far an end is from that of its own noise."""

    def forward(self, seen: Sequence[Tensor], times: Tensor, cond: Cond) -> Tensor:
        z, end = seen[0].unbind(1)
        return -(end - (0.7 + 0.5 * z)).abs()


def test_a_judge_of_the_whole_way_tells_a_sampler_of_the_right_law_from_the_ode_map() -> None:
    batch = paired(64)
    gaps = []
    for slope in (0.5, -0.5):
        net = affine(1.0, scale=slope, shift=0.7).double()
        pair = Pair(Whole(), OnPairs(), kind="wgan")
        method = Judged(net, {"student": net}, pairs, CLEAN, pair=pair)
        gaps.append(method.loss("critic", batch, Rng(0)).parts["logit_gap"].item())
        both = method.loss("student", batch, Rng(0))
        assert both.total.item() == pytest.approx((both.parts["far"] + both.parts["gan"]).item(), abs=1e-9)
    assert gaps[0] == pytest.approx(0, abs=1e-6) and gaps[1] > 0.5
