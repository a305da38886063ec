"""The perceptual distance: zero at equality, alike in both directions, what it sees, whom it teaches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import shapes_source, tiny_family

from vdistill.core.cond import Cond
from vdistill.core.rng import Rng
from vdistill.discriminators.augment import AUGMENTS, in_turn
from vdistill.discriminators.look import Taps
from vdistill.discriminators.perceptual import Perceptual, RandomFeatures, feature_distance

NONE = Cond()


def pair(size: int = 8, frames: int = 2) -> tuple[Tensor, Tensor]:
    draw = torch.randn(2, 3, 4, frames, size, size, generator=torch.Generator().manual_seed(0))
    return draw[0], draw[1]


@pytest.mark.parametrize("name", [*AUGMENTS, "all"])
def test_equal_samples_are_at_distance_0_and_the_distance_is_symmetric(name: str) -> None:
    x, y = pair()
    change = in_turn([AUGMENTS[name]] if name in AUGMENTS else [*AUGMENTS.values()])
    far = Perceptual(RandomFeatures(4, 8), augment=change, draws=2)
    assert torch.equal(far(x, x.clone(), NONE, Rng(0)), torch.zeros(3))
    assert torch.equal(far(x, y, NONE, Rng(0)), far(y, x, NONE, Rng(0)))
    assert (far(x, y, NONE, Rng(0)) > 1e-2).all() and not torch.equal(far(x, y, NONE, Rng(0)), far(x, y, NONE, Rng(1)))


def test_the_distance_is_the_formula() -> None:
    a, b = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[[4.0, 3.0], [0.0, -7.0]]])
    want = ((0.2**2 + 0.2**2) + 4) / 2
    assert feature_distance([a], [b]).item() == pytest.approx(want, rel=1e-6)
    assert feature_distance([a, a], [b, a]).item() == pytest.approx(want / 2, rel=1e-6)


def test_draws_are_averaged_and_each_changes_both_samples_alike() -> None:
    x, y = pair()
    look = RandomFeatures(4, 8)
    far = Perceptual(look, draws=3)
    each = []
    for i in range(3):
        at = Rng(5, turn=f"/perceptual{i}")
        shown = [look(far.augment(z, at), torch.zeros(3), NONE) for z in (x, y)]
        each.append(feature_distance(*shown))
    assert torch.equal(far(x, y, NONE, Rng(5)), torch.stack(each).mean(0))


def test_only_the_sample_gets_a_gradient_and_nothing_of_it_at_equality() -> None:
    x, y = (z.requires_grad_() for z in pair())
    far = Perceptual(RandomFeatures(4, 8))
    far(x, y, NONE, Rng(0)).sum().backward()
    assert x.grad is not None and (x.grad != 0).any() and y.grad is None
    assert not [*far.look.parameters()] and not far.look.state_dict()  # type: ignore[attr-defined]
    same = y.detach().clone().requires_grad_()
    assert not torch.autograd.grad(far(same, y, NONE, Rng(0)).sum(), same)[0].any()


def test_scale_and_offset_count_though_features_are_of_length_1() -> None:
    x, _ = pair()
    far = Perceptual(RandomFeatures(4, 8), augment=in_turn(()))
    near, wide = (far(by * x, x, NONE, Rng(0)) for by in (1.1, 1.5))
    assert (near > 1e-4).all() and (wide > 3 * near).all() and (far(x + 0.5, x, NONE, Rng(0)) > 1e-2).all()


def test_descending_it_leads_to_the_target() -> None:
    x, y = (z[:, :, :1] for z in pair(6))
    far, start = Perceptual(RandomFeatures(4, 8), augment=in_turn(())), None
    x = x.clone().requires_grad_()
    optim = torch.optim.Adam([x], 0.05)
    for _ in range(300):
        cost = far(x, y, NONE, Rng(0)).mean()
        start = start or cost.item()
        optim.zero_grad()
        cost.backward()
        optim.step()
    assert start and cost.item() < 0.02 * start and (x - y).square().mean() < 0.15 * y.square().mean()


def test_random_features_are_a_function_of_their_seed_alone() -> None:
    x, _ = pair()
    torch.manual_seed(1)
    one = RandomFeatures(4, 8)(x, torch.zeros(3), NONE)
    torch.manual_seed(2)
    two, other = (RandomFeatures(4, 8, seed)(x, torch.zeros(3), NONE) for seed in (0, 1))
    assert all(map(torch.equal, one, two)) and not any(map(torch.equal, one, other))
    assert [f.shape for f in one] == [(3, 2 * 64, 8), (3, 2 * 16, 16), (3, 2 * 4, 32)]
    assert all(0.3 < f.square().mean().sqrt() < 3 for f in one)


def test_a_frozen_teacher_sees_both_at_one_noise_level_and_learns_nothing() -> None:
    family = tiny_family()
    net, batch = family.net.requires_grad_(True), shapes_source(family)(0, 0)
    far = Perceptual(Taps(net, (0, 1), True), net.schedule, 0.1)
    assert torch.equal(far(batch.x, batch.x.clone(), batch.cond, Rng(0)), torch.zeros(2))
    x = (batch.x + 0.1).requires_grad_()
    (slope,) = torch.autograd.grad(far(x, batch.x, batch.cond, Rng(0)).sum(), x)
    assert slope.isfinite().all() and (slope != 0).any()
