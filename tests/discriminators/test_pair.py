"""The judge of steps: what it is shown, what it can tell that a judge of points cannot, and its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import shapes_source, tiny_family

from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.losses.gan import student_loss, watch_loss
from vdistill.core.rng import Rng
from vdistill.core.schedule import Kind, Schedule
from vdistill.discriminators.augment import AUGMENTS, in_turn
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.latent import LatentJudge, full_steps
from vdistill.discriminators.look import Taps, Whole
from vdistill.discriminators.pair import Later, Pair
from vdistill.discriminators.penalties import Probe

T, S, NONE = torch.tensor([0.9, 0.5]), torch.tensor([0.6, 0.0]), Cond()


def points() -> Sequence[Tensor]:
    return torch.randn(3, 2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)


def latent(before: bool = True, **more: object) -> Pair:
    torch.manual_seed(0)
    judge = LatentJudge(8 if before else 4, full_steps(8), 8, times=2 if before else 1)
    return Pair(Whole(), judge, before=before, **more)  # type: ignore[arg-type]


class Apart(nn.Module):
    """0.1 - |x_s - (s / t) x_t|^2: positive near where a flow of samples that are all 0 goes, and nowhere else."""

    def forward(self, seen: Sequence[Tensor], times: Tensor, cond: Cond) -> Tensor:
        before, after = seen[0].chunk(2, 1)
        ratio = (times[:, 1] / times[:, 0]).view(-1, 1, 1, 1, 1)
        return 0.1 - (after - ratio * before).square().flatten(1).mean(1, keepdim=True)


def test_it_tells_a_step_of_another_trajectory_from_the_right_one_though_the_points_are_the_same() -> None:
    xt, _, _ = points()
    right = xt * (S / T).view(-1, 1, 1, 1, 1)
    wrong = right.roll(1, 0)  # the same two points, each after the other's
    pair = Pair(Whole(), Apart())
    said = pair.watch(xt, wrong, right, T, S, NONE, Rng(0)).parts
    assert said["logit_gap"] > 0.1 and said["told_apart"] == 1
    assert pair.watch(xt, right, right, T, S, NONE, Rng(0)).parts["logit_gap"] == 0
    alone = latent(before=False).watch(xt, wrong[:1].expand_as(xt), right[:1].expand_as(xt), T, S, NONE, Rng(0))
    other = latent(before=False).watch(xt.flip(0), wrong[:1].expand_as(xt), right[:1].expand_as(xt), T, S, NONE, Rng(0))
    assert torch.equal(alone.total, other.total)  # x_t does not count


@pytest.mark.parametrize("kind", ["ns", "hinge", "relativistic"])
def test_the_losses_are_those_of_the_game_on_the_stacked_points(kind: str) -> None:
    xt, fake, real = points()
    pair, times = latent(kind=kind, weight=0.5, watch_weight=2.0), torch.stack([T, S], 1)
    told, said = (pair.judge([torch.cat([xt, xs], 1)], times, NONE) for xs in (real, fake))
    weight = torch.tensor([1.0, 3.0])
    want = 0.5 * (student_loss(said, told, kind) * weight).sum() / 4  # type: ignore[arg-type]
    assert pair.student(xt, fake, real, T, S, NONE, Rng(0), weight).total.item() == pytest.approx(want.item(), rel=1e-6)
    want = 2 * watch_loss(told, said, kind).mean()  # type: ignore[arg-type]
    assert pair.watch(xt, fake, real, T, S, NONE, Rng(0)).total.item() == pytest.approx(want.item(), rel=1e-6)


def test_both_times_count() -> None:
    xt, fake, real = points()
    pair = latent()
    found = {pair.student(xt, fake, real, t, s, NONE, Rng(0)).total.item() for t, s in ((T, S), (T, S / 2), (S + 1, S))}
    assert len(found) == 3


def test_a_gradient_reaches_the_students_point_alone_and_the_judge_in_its_turn() -> None:
    xt, fake, real = (x.clone().requires_grad_() for x in points())
    pair = latent(kind="relativistic", penalties=(Probe(1.0, 0.1, "real"), Probe(1.0, 0.1, "fake")))
    slopes = torch.autograd.grad(
        pair.student(xt, fake, real, T, S, NONE, Rng(0)).total, (xt, fake, real), allow_unused=True
    )
    assert slopes[1] is not None and (slopes[1] != 0).any() and slopes[0] is None and slopes[2] is None
    pair.watch(xt, fake, real, T, S, NONE, Rng(0)).total.backward()
    assert fake.grad is None and xt.grad is None and all(p.grad is not None for p in pair.module.parameters())


def test_both_points_are_changed_alike() -> None:
    xt, fake, real = points()
    changed = in_turn([AUGMENTS["shift"], AUGMENTS["gain"]])
    plain, moved = latent(), latent(augment=changed)
    want = plain.watch(*(changed(x, Rng(4)) for x in (xt, fake, real)), T, S, NONE, Rng(4))
    assert torch.equal(moved.watch(xt, fake, real, T, S, NONE, Rng(4)).total, want.total)


@pytest.mark.parametrize("frozen", [True, False])
def test_features_of_both_points_side_by_side(frozen: bool) -> None:
    family = tiny_family()
    net, batch = family.net.requires_grad_(not frozen), shapes_source(family)(0, 0)
    torch.manual_seed(0)
    pair = Pair(Taps(net, (0, 1), frozen), TokenHeads([32, 32], 8), axis=-1)
    xt = net.schedule.noise(batch.x, torch.randn_like(batch.x), T)
    fake = (batch.x + 0.3).requires_grad_()
    loss = pair.student(xt, fake, batch.x, T, S, batch.cond, Rng(0))
    assert (torch.autograd.grad(loss.total, fake)[0] != 0).any()
    seen = [torch.cat([a, b], -1) for a, b in zip(net.taps(xt, T, batch.cond, (0, 1)),
                                                 net.taps(fake, S, batch.cond, (0, 1)), strict=True)]  # fmt: skip
    want = student_loss(pair.judge(seen, T, batch.cond)).mean()
    assert loss.total.item() == pytest.approx(want.item(), rel=1e-5)
    pair.watch(xt, fake, batch.x, T, S, batch.cond, Rng(0)).total.backward()
    assert any(p.grad is not None for p in net.parameters()) != frozen


def test_another_clips_text_is_a_fake_step() -> None:
    """Cost with mismatched pairs: the mean of that of the fakes and that of real steps under the other's text."""
    xt, fake, real = points()
    cond = Cond({"text": torch.randn(2, 5, 6), "ref": torch.randn(2, 3)})
    torch.manual_seed(0)
    judge = LatentJudge(8, full_steps(8), 8, 6, times=2)
    nn.init.normal_(judge.agree.told.weight)  # type: ignore[union-attr,arg-type]
    plain, pair = Pair(Whole(), judge), Pair(Whole(), judge, mismatched=True, penalties=(Probe(1.0, 0.1),))
    times, swapped = torch.stack([T, S], 1), Cond({"text": cond.fields["text"].flip(0)})
    told, wrong = (judge([torch.cat([xt, real], 1)], times, each) for each in (cond, swapped))
    want = (plain.watch(xt, fake, real, T, S, cond, Rng(0)).total + watch_loss(told, wrong).mean()) / 2
    bare = replace(pair, penalties=())
    assert bare.watch(xt, fake, real, T, S, cond, Rng(0)).total.item() == pytest.approx(want.item(), rel=1e-6)
    assert pair.watch(xt, fake, real, T, S, cond, Rng(0)).total > want  # a penalty counts whole
    kept = replace(bare, swapped=("ref",))  # which this judge does not see
    same = (plain.watch(xt, fake, real, T, S, cond, Rng(0)).total + watch_loss(told, told).mean()) / 2
    assert kept.watch(xt, fake, real, T, S, cond, Rng(0)).total.item() == pytest.approx(same.item(), rel=1e-6)
    with pytest.raises(UserError, match=r"judge.mismatched.*one clip has no other"):
        bare.watch(xt[:1], fake[:1], real[:1], T[:1], S[:1], cond.select(torch.tensor([0])), Rng(0))


@pytest.mark.parametrize("kind", ["rf", "vp", "edm", "trig"])
def test_an_end_noised_on_has_the_law_of_its_later_time(kind: Kind) -> None:
    path, s, u = Schedule(kind), torch.tensor([0.0, 0.3, 0.6]).double(), torch.tensor([0.4, 0.5, 0.6]).double()
    x0, later = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64), Later(path)
    none, one = torch.zeros_like(x0), torch.ones_like(x0)
    assert torch.allclose(later(path.noise(x0, none, s), s, u, none), path.noise(x0, none, u))  # the mean
    old, new = later(path.noise(none, one, s), s, u, none), later(none, s, u, one)  # what each noise becomes
    assert torch.allclose(old.square() + new.square(), path.noise(none, one, u).square())
    assert torch.equal(later(x0[2:], s[2:], u[2:], one[2:]), x0[2:])
    drawn = torch.stack([later.time(s, "u", Rng(i)) for i in range(200)])
    assert (drawn >= s).all() and (drawn < 0.75).all() and (drawn.mean(0) - (s + 0.75) / 2).abs().max() < 0.05
    assert torch.equal(Later(path, 0.3).time(s, "u", Rng(0))[1:], s[1:])


@pytest.mark.parametrize("before", [True, False])
def test_both_ends_are_noised_on_alike_and_the_beginning_is_not(before: bool) -> None:
    xt, fake, real = points()
    s, later = S.double(), Later(Schedule("rf"))
    pair = latent(before, later=later)
    u, eps = later.time(s, "pair/later", Rng(7)), Rng(7).normal("pair/eps", fake.shape)
    assert (u > s).all()
    plain = replace(pair, later=None)
    want = plain.watch(xt, later(fake, s, u, eps), later(real, s, u, eps), T, u, NONE, Rng(7))
    assert torch.equal(pair.watch(xt, fake, real, T, s, NONE, Rng(7)).total, want.total)
    assert pair.watch(xt, real, real, T, s, NONE, Rng(7)).parts["logit_gap"] == 0
    leaf = fake.clone().requires_grad_()
    assert (torch.autograd.grad(pair.student(xt, leaf, real, T, s, NONE, Rng(7)).total, leaf)[0] != 0).any()
