"""Consistency of views of a clip: its fixed point, what each view does not see, and mixed trajectories."""

from __future__ import annotations

import pytest
import torch
from gaussian import Exact
from methods.bed import G1, RF, affine, batch_of, doubled
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.inputs import Mixed, Noised
from vdistill.core.losses.consistency import Boundary
from vdistill.core.losses.regression import l2
from vdistill.core.rng import Rng
from vdistill.core.solvers import solve
from vdistill.core.step import Batch
from vdistill.core.times import Grid
from vdistill.families.analytic import ar1
from vdistill.methods.judged import Judged
from vdistill.methods.motion import VIEWS, OwnNoised, coarse, differences, fine
from vdistill.methods.seen_consistency import SeenConsistency, View

N = 4
GRID = tuple(RF.grid(N).tolist())
NONE = Cond()


@pytest.mark.parametrize("solves", [1, 3])
def test_the_loss_is_zero_where_the_composed_solver_is(solves: int) -> None:
    """A teacher of `solves` steps between two times of the grid composes to one on the finer grid."""
    net, boundary, ends = affine(*GRID[:-1]).double(), Boundary(), torch.tensor([0.0, 1.0]).double().view(2, 1, 1)
    for place in range(N):
        way = RF.grid(N * solves)[place * solves :]
        low, high = (value.item() for value in solve(G1, ends, way, NONE))
        on_x, on_net = boundary.skip_out(torch.tensor(GRID[place]))
        with torch.no_grad():
            net.net.a[place], net.net.b[place] = (high - low - on_x) / on_net, low / on_net
    batch, inputs = doubled(batch_of(G1, 128)), Noised(Grid(GRID[:-1]))
    right, other = (
        Judged(net, {"student": net}, inputs, SeenConsistency(G1, GRID, 1, k)).loss("student", batch, Rng(0)).total
        for k in (solves, 2)
    )
    assert right.item() < 1e-10 < 1e-4 < other.item()


def test_skipping_never_passes_the_end_of_the_grid() -> None:
    t = torch.tensor([1.0, 0.75, 0.5, 0.25]).double()
    assert SeenConsistency(G1, GRID, 2).next(t).tolist() == [0.5, 0.25, 0.0, 0.0]


# -- views ------------------------------------------------------------------------------------------------------------


def clip(seed: int = 0) -> Tensor:
    return Rng(seed).normal("clip", (2, 3, 5, 6, 7)).double()


def sequence_loss(view: View, added: Tensor) -> float:
    """Of a student of sequences that is off by what is `added` to each of its estimates."""
    law, student = ar1(RF, 5, 0.8), Exact()
    inner = student.x0
    student.x0 = lambda x, t, cond, *, attend=None: inner(x, t, cond) + added.to(x)  # type: ignore[method-assign]
    batch = Batch(law.sample(8, Rng(3)).double(), NONE)
    found = Noised(Grid(GRID[:-2]))(student, batch, Rng(0))
    aim = SeenConsistency(law, GRID, view=view, metric=l2)
    x = student.x0(found.x, found.t, NONE)
    return aim(student, found, x, batch, Rng(0)).total.item()


def test_a_constant_along_the_sequence_changes_nothing_that_is_seen_of_motion() -> None:
    shift, drift = torch.full((1, 1, 5), 3.0), torch.arange(5.0).view(1, 1, 5)
    assert sequence_loss(differences, shift) == pytest.approx(sequence_loss(differences, 0 * shift), rel=1e-9)
    one, two = (clip() + still for still in (torch.zeros(1).double(), clip(1)[:, :, :1]))
    assert torch.allclose(differences(one), differences(two), atol=1e-12)
    assert not torch.allclose(differences(one + drift[..., None, None]), differences(one))
    pushed = clip().requires_grad_()
    (slope,) = torch.autograd.grad(l2(differences(pushed), differences(clip(1))).sum(), pushed)
    assert slope.sum(2).abs().max() < 1e-12 < slope.abs().max()


def test_coarse_and_fine_make_up_the_clip_and_fine_is_blind_to_a_tint() -> None:
    x = clip()[..., :6]
    back = torch.nn.functional.interpolate(coarse(x).flatten(1, 2), scale_factor=2.0).view(x.shape)
    assert torch.allclose(back + fine(x), x, atol=1e-12) and coarse(fine(x)).abs().max() < 1e-12
    assert torch.allclose(fine(x + 2.5), fine(x), atol=1e-12)
    assert coarse(clip()[..., :1]).shape == (2, 3, 5, 3, 1)


@pytest.mark.parametrize("name", VIEWS)
def test_equal_clips_look_equal_and_others_do_not(name: str) -> None:
    view = VIEWS[name]
    assert torch.equal(view(clip()), view(clip())) and not torch.allclose(view(clip()), view(clip(1)))


# -- mixed trajectories -----------------------------------------------------------------------------------------------


def test_a_perfect_students_own_clips_are_noised_to_the_law_of_noised_data() -> None:
    student, t = Exact(), torch.full((20000,), 0.5)
    batch = Batch(torch.zeros(20000, 1, 1).double(), NONE)
    found = OwnNoised(Grid((0.5,)))(student, batch, Rng(0))
    assert torch.equal(found.t, t.double()) and found.target is not None and not found.x.requires_grad
    assert found.x.mean().item() == pytest.approx(0.5 * 0.7, abs=0.02)
    assert found.x.std().item() == pytest.approx((0.5**2 * 0.5**2 + 0.5**2) ** 0.5, abs=0.02)
    eps = Rng(0).normal("input/eps", batch.x.shape).double()
    assert torch.allclose(RF.noise(found.target, eps, found.t), found.x)


def test_mixed_trajectories_come_as_often_as_asked() -> None:
    mixed = Mixed((OwnNoised(Grid((0.5,))), Noised(Grid((0.5,)))), (0.3, 0.7))
    own = sum(mixed.chosen(Rng(0, step)) == 0 for step in range(3000))
    assert own / 3000 == pytest.approx(0.3, abs=0.03)
