"""Latent consistency: the fixed point is the composed steps of the teacher's solver, and training gets there."""

from __future__ import annotations

import pytest
import torch
from methods.bed import CLASSES, G1, RF, Asked, affine, batch_of, close, doubled, train
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.losses.consistency import Boundary
from vdistill.core.rng import Rng
from vdistill.core.solvers import Solver, solve
from vdistill.core.step import Batch
from vdistill.families.analytic import Gaussian
from vdistill.families.analytic_nets import mlp
from vdistill.methods.lcm import Lcm, LcmConfig

N = 6
GRID = RF.grid(N)
UNGUIDED = LcmConfig(steps=N, low=1.0, high=1.0)


def composed(law: Denoiser, place: int, skip: int = 1, solver: Solver = "ddim") -> tuple[float, float]:
    """(slope, shift) of the solver from GRID[place] to 0, `skip` grid steps at once: identity 7's answer."""
    times = sorted({*GRID[place:-1:skip].tolist(), 0.0}, reverse=True)
    ends = solve(law, torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1), times, Cond(), solver)
    return (ends[1] - ends[0]).item(), ends[0].item()


def jump(net: Net, place: int, cond: Cond = Cond()) -> tuple[float, float]:
    """(slope, shift) of f at GRID[place]."""
    x, t = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1), GRID[place].expand(2)
    ends = Boundary()(net.x0(x, t, cond), x, t).detach()
    return (ends[1] - ends[0]).item(), ends[0].item()


def fixed_point(solver: Solver, skip: int) -> Net:
    """The student whose f is the composed solver at every time of the grid."""
    net, boundary = affine(*GRID[:-1].tolist()).double(), Boundary()
    for place in range(N):
        slope, shift = composed(G1, place, skip, solver)
        on_x, on_net = boundary.skip_out(GRID[place])
        with torch.no_grad():
            net.net.a[place] = (slope - on_x) / on_net
            net.net.b[place] = shift / on_net
    return net


@pytest.mark.parametrize("skip", [1, 2, 4])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_composed_solver_is_where_the_loss_is_zero(solver: Solver, skip: int) -> None:
    net, batch = fixed_point(solver, skip), doubled(batch_of(G1, 256))
    right, other = (
        Lcm(LcmConfig(steps=N, skip=k, low=1.0, high=1.0, solver=solver), G1, net, net).loss("student", batch, Rng(0))
        for k in (skip, 3)
    )
    assert right.total.item() < 1e-10 < 1e-4 < other.total.item()


def test_training_finds_the_composed_solver_and_not_the_ode() -> None:
    net = affine(*GRID[:-1].tolist())
    train(Lcm(UNGUIDED, G1, net, net), G1, 900, {"student": 0.03})
    for place in range(N):
        assert jump(net, place) == pytest.approx(composed(G1, place), abs=1e-3)
    assert jump(net, 0)[0] < 0.45  # the ODE says 0.5


@pytest.mark.slow
def test_training_finds_the_composed_heun_steps() -> None:
    net = affine(*GRID[:-1].tolist())
    train(Lcm(LcmConfig(steps=N, low=1.0, high=1.0, solver="heun", skip=2), G1, net, net), G1, 2000, {"student": 0.03})
    for place in range(N):
        assert jump(net, place) == pytest.approx(composed(G1, place, 2, "heun"), abs=1e-3)


def test_told_the_scale_it_becomes_the_guided_solver_linear_in_the_scale() -> None:
    times = RF.grid(2)[:-1].tolist()
    net = affine(*times, classes=3, guidance=True)
    train(
        Lcm(LcmConfig(2, low=1.0, high=4.0, embed=True, name="label"), CLASSES, net, net),
        CLASSES,
        900,
        {"student": 0.05},
    )
    x, t = torch.tensor([[[-1.0]], [[1.5]]]), torch.ones(2, dtype=torch.float64)

    def said(label: int, scale: float) -> Tensor:
        cond = CLASSES.cond(torch.full((2,), label)).with_field("guidance", torch.full((2,), scale))
        return net.x0(x, t, cond).detach()

    def right(label: int, scale: float) -> Tensor:
        law: Gaussian = CLASSES.guided(label, scale)
        return solve(law, x, RF.grid(2), Cond())

    for label in (0, 1):
        for scale in (1.0, 2.5, 4.0):
            close(said(label, scale), right(label, scale), 1e-3)
        close(said(label, 2.5), (said(label, 1.0) + said(label, 4.0)) / 2, 1e-3)


@pytest.mark.parametrize("net", [affine(1.0, scale=-3.0, shift=7.0), mlp((1, 1), RF)], ids=["affine", "mlp"])
def test_whatever_the_network_says_the_clean_end_stays(net: Net) -> None:
    lcm, x = Lcm(UNGUIDED, G1, net, net), torch.randn(5, 1, 1)
    zero = torch.zeros(5, dtype=torch.float64)
    assert torch.equal(lcm.boundary(net.x0(x, zero, Cond()), x, zero), x)


def test_the_target_carries_no_gradient() -> None:
    """With weight on the samples at t = 1 only, the row of t = 1/2, which makes their target, is not moved."""
    net, rng = affine(1.0, 0.5, scale=0.3), Rng(0)
    lcm, batch = Lcm(LcmConfig(2, low=1.0, high=1.0), G1, net, net), batch_of(G1, 64)
    first = (rng.integers("place", (64,), 2) == 0).float()
    lcm.loss("student", Batch(batch.x, batch.cond, first), rng).total.backward()
    assert net.net.a.grad[0].abs() > 0.01 and net.net.a.grad[1] == 0 == net.net.b.grad[1]


def test_gradient_is_that_of_the_distance_to_a_frozen_target() -> None:
    """One step to the clean end, where f(x_u, u) = x_u: d/da of pseudo-Huber(a x + b - DDIM(x)), written out."""
    net, batch, rng = affine(1.0, scale=0.3, shift=0.1).double(), doubled(batch_of(G1, 64)), Rng(5)
    Lcm(LcmConfig(1, low=1.0, high=1.0, huber=0.1), G1, net, net).loss("student", batch, rng).total.backward()
    xt = rng.normal("eps", batch.x.shape).double()  # t = 1 is pure noise, and DDIM from there lands on the mean
    on_x, on_net = (float(v) for v in Boundary().skip_out(torch.ones(())))
    gap = on_x * xt + on_net * (0.3 * xt + 0.1) - 0.7
    slope = gap / (gap.square() + 0.01).sqrt()
    assert net.net.a.grad.item() == pytest.approx((slope * on_net * xt).mean().item(), rel=1e-6)
    assert net.net.b.grad.item() == pytest.approx((slope * on_net).mean().item(), rel=1e-6)


@pytest.mark.parametrize(("solver", "calls"), [("ddim", 1), ("heun", 2)])
def test_teacher_is_asked_once_or_twice_and_keeps_no_graph(solver: Solver, calls: int) -> None:
    teacher, net = Asked(mlp((1, 1), RF, classes=3)), affine(1.0, classes=3)
    Lcm(LcmConfig(N, solver=solver, name="label"), teacher, net, net).loss("student", batch_of(CLASSES, 8), Rng(0))
    assert teacher.graphs == [False] * calls and [len(x) for x, _, _ in teacher.calls] == [16] * calls


def test_a_scale_of_one_asks_the_teacher_once_and_needs_no_condition() -> None:
    teacher, net = Asked(G1), affine(1.0)
    Lcm(UNGUIDED, teacher, net, net).loss("student", batch_of(G1, 8), Rng(0))
    assert [len(x) for x, _, _ in teacher.calls] == [8]


@pytest.mark.parametrize("embed", [True, False])
def test_only_a_student_with_the_input_is_told_the_scale(embed: bool) -> None:
    student = Asked(CLASSES)
    lcm = Lcm(LcmConfig(N, low=2.0, high=5.0, embed=embed, name="label"), CLASSES, student, torch.nn.Linear(1, 1))
    lcm.loss("student", batch_of(CLASSES, 1000), Rng(0))
    told = [call[2].fields.get("guidance") for call in student.calls]
    assert len(told) == 2  # the estimate and its target
    if embed:
        assert torch.equal(told[0], told[1]) and 2 <= told[0].min() < 2.1 and 4.9 < told[0].max() <= 5
    else:
        assert told == [None, None]
