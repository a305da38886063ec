"""DMD2: the student's gradient is the closed form on G1, linear students become the teacher, the critic follows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from methods.bed import G1, G8, MU, RF, Asked, S, affine, batch_of, bell, doubled, train
from torch import Tensor, nn

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.inputs import Generated, NoiseOnly
from vdistill.core.rng import Rng
from vdistill.core.step import Batch, Loss, Term
from vdistill.core.times import Grid, Times, Uniform
from vdistill.families.analytic import Gaussian
from vdistill.families.analytic_nets import mlp
from vdistill.methods.dmd2 import Dmd2, Dmd2Config

ONE_STEP = Generated(NoiseOnly())


def ab(student: Net) -> tuple[Tensor, Tensor]:
    """(a, b) of the law G(z) = a z + b the student makes, each [size, 1]."""
    return student.net.a.detach()[0], student.net.b.detach()[0, 0]


def error(student: Net) -> float:
    """The largest |a - s| or |b - mu|."""
    a, b = ab(student)
    return max((a.abs() - S).abs().max().item(), (b - MU).abs().max().item())


@dataclass(frozen=True)
class ExactCritic:
    """What a critic that keeps up perfectly would say of an affine student."""

    student: Net
    schedule = RF

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        a, b = ab(self.student)
        return Gaussian(RF, b.double(), a.double() ** 2).x0(x, t)


def dmd2(
    student: Denoiser,
    critic: Denoiser,
    teacher: Denoiser = G1,
    each: int = 5,
    terms: tuple[Term, ...] = (),
    times: Times = Uniform(0.02, 0.98),
    sid: float | None = None,
) -> Dmd2:
    modules = {
        n: d if isinstance(d, nn.Module) else nn.Linear(1, 1) for n, d in (("student", student), ("critic", critic))
    }
    return Dmd2(Dmd2Config(each, sid=sid), teacher, student, critic, modules, ONE_STEP, terms, times)


def test_gradient_is_the_normalised_score_difference_along_the_sample() -> None:
    """mean of (psi - phi) / |x - phi| dx, psi and phi the posterior means of N(b, a^2) and N(0.7, 0.5^2)."""
    a, b, rng = 0.75, -0.25, Rng(2)
    net, batch = affine(1.0, scale=a, shift=b).double(), doubled(batch_of(G1, 64))
    dmd2(net, ExactCritic(net)).loss("student", batch, rng).total.backward()
    z, eps = (rng.normal(name, batch.x.shape).double() for name in ("input/eps", "eps"))
    t = rng.uniform("t", (64,), 0.02, 0.98).view(-1, 1, 1)
    x = a * z + b
    xt = (1 - t) * x + t * eps
    phi, psi = (
        mean + (1 - t) * var / ((1 - t) ** 2 * var + t**2) * (xt - (1 - t) * mean)
        for mean, var in ((MU, S**2), (b, a**2))
    )
    g = (psi - phi) / (x - phi).abs()
    assert net.net.a.grad.item() == pytest.approx((g * z).mean().item(), rel=1e-6)
    assert net.net.b.grad.item() == pytest.approx(g.mean().item(), rel=1e-6)


def test_gradient_in_expectation_is_the_slope_of_the_divergence() -> None:
    """d_b KL = alpha^2 (b - mu) / S^2, d_a KL = alpha^2 a (1 / S^2 - 1 / A^2), here without (alpha / sigma)^2.

    Weights |x - phi| take the normaliser out again.
    """
    a, b, t, n = 1.5, -0.25, 0.6, 400_000
    net, rng, batch = affine(1.0, scale=a, shift=b).double(), Rng(1), doubled(batch_of(G1, n))
    z, eps = (rng.normal(name, batch.x.shape).double() for name in ("input/eps", "eps"))
    x = a * z + b
    time = torch.full((n,), t, dtype=torch.float64)
    distance = (x - G1.x0(RF.noise(x, eps, time), time)).abs().flatten()
    method = dmd2(net, ExactCritic(net), times=Grid((t,)))
    method.loss("student", Batch(batch.x, batch.cond, distance), rng).total.backward()
    s2, a2 = (1 - t) ** 2 * S**2 + t**2, (1 - t) ** 2 * a**2 + t**2
    found = [v.grad.item() * distance.mean().item() for v in (net.net.a, net.net.b)]
    assert found[0] == pytest.approx(t**2 * a * (1 / s2 - 1 / a2), rel=1e-2)
    assert found[1] == pytest.approx(t**2 * (b - MU) / s2, rel=1e-2)


def test_the_teacher_as_its_own_student_does_not_move() -> None:
    net = affine(1.0, scale=S, shift=MU)
    dmd2(net, ExactCritic(net)).loss("student", batch_of(G1, 64), Rng(0)).total.backward()
    assert net.net.a.grad.abs() < 1e-5 and net.net.b.grad.abs() < 1e-5


def test_teacher_and_critic_keep_no_graph_when_the_student_learns() -> None:
    teacher, critic = Asked(mlp((1, 1), RF)), Asked(mlp((1, 1), RF))
    student = affine(1.0)
    dmd2(student, critic, teacher).loss("student", batch_of(G1, 8), Rng(0)).total.backward()
    for net in (teacher, critic):
        assert net.graphs == [False] and not net.calls[0][0].requires_grad
        assert all(p.grad is None for p in net.inner.parameters())
    assert student.net.a.grad is not None


def test_the_student_keeps_no_graph_when_the_critic_learns() -> None:
    """And the critic's gradient is that of its denoising error on what the student made."""
    student, critic, rng = Asked(affine(1.0).double()), bell().double(), Rng(0)
    batch = doubled(batch_of(G1, 64))
    dmd2(student, critic).loss("critic", batch, rng).total.backward()
    assert student.graphs == [False]
    z, eps = (rng.normal(name, batch.x.shape).double() for name in ("input/eps", "eps"))
    t = rng.uniform("t", (64,), 0.02, 0.98).view(-1, 1, 1)
    slope = (1 - t) / ((1 - t) ** 2 + t**2)  # of the standard normal the new critic knows
    error = slope * ((1 - t) * z + t * eps) - z
    by_mean = 1 - (1 - t) * slope
    right = (2 * error * by_mean / t.clamp_min(0.05) ** 2).mean().item()
    assert critic.net.mean.grad.item() == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("each", [1, 5])
def test_critic_learns_at_every_step_and_the_student_at_every_nth(each: int) -> None:
    method = dmd2(affine(1.0), bell(), each=each)
    turns = [method.turn(step) for step in range(11)]
    assert all("critic" in turn for turn in turns)
    assert [step for step, turn in enumerate(turns) if "student" in turn] == list(range(0, 11, each))
    assert turns[0] == ("student", "critic")


@pytest.mark.parametrize("sid", [None, 0.5, 1.0])
def test_with_the_exact_critic_a_linear_student_becomes_the_teacher(sid: float | None) -> None:
    student = affine(1.0, scale=1.4, shift=-0.5, size=8)
    method = dmd2(student, ExactCritic(student), G8, sid=sid)
    optim = torch.optim.Adam(student.parameters(), 0.03)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 250)
    for step in range(250):
        optim.zero_grad()
        method.loss("student", batch_of(G8, 64), Rng(0, step)).total.backward()
        optim.step()
        falling.step()
    assert error(student) < 1e-3


def test_score_identity_reaches_the_student_through_both_networks_and_trains_neither() -> None:
    student, critic = affine(1.0, scale=1.4, shift=-0.5, size=8), bell(8).requires_grad_(False)
    loss = dmd2(student, critic, G8, sid=1.0).loss("student", batch_of(G8, 8), Rng(0))
    loss.total.backward()
    plain = affine(1.0, scale=1.4, shift=-0.5, size=8)
    dmd2(plain, critic, G8).loss("student", batch_of(G8, 8), Rng(0)).total.backward()
    pairs = list(zip(student.parameters(), plain.parameters(), strict=True))
    assert all(a.grad is not None and b.grad is not None and not torch.allclose(a.grad, b.grad) for a, b in pairs)
    assert all(p.grad is None for p in critic.parameters()) and not loss.parts["gap"].requires_grad


def test_with_a_learned_critic_a_linear_student_becomes_the_teacher() -> None:
    student, critic = affine(1.0, size=8), bell(8)
    train(dmd2(student, critic, G8, each=3), G8, 600, {"student": 0.03, "critic": 0.05}, ema=0.9)
    assert error(student) < 2e-2


LAG_LRS = {"student": 0.5, "critic": 0.5}


def lag(each: int, student_updates: int = 40) -> float:
    """How far the critic's Gaussian is from the student's when the student learns from it, averaged over training."""
    student, critic = affine(1.0, size=8), bell(8)
    method, source = dmd2(student, critic, G8, each=each), batch_of(G8, 512)
    optim = {n: torch.optim.SGD(method.learners[n].parameters(), lr) for n, lr in LAG_LRS.items()}
    found = []
    for step in range(student_updates * each):
        for learner in method.turn(step):
            if learner == "student":
                (a, b), net = ab(student), critic.net
                found.append(((net.mean - b).abs() + (net.log_std.exp() - a.abs()).abs()).mean().item())
            optim[learner].zero_grad()
            method.loss(learner, source, Rng(0, step, turn=learner)).total.backward()
            optim[learner].step()
    return sum(found) / len(found)


def test_more_critic_updates_leave_the_critic_less_behind() -> None:
    assert lag(1) > 5 * lag(5)


# -- the door ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pull:
    """A term of one's own, with no module: samples should be near a place."""

    place: float
    weight: float = 1e3
    name: str = "pull"
    module: None = None

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        far = (x - self.place).square().mean()
        return Loss(self.weight * far, {"far": far.detach()})

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        return Loss(torch.zeros(()))


@dataclass(frozen=True)
class Scale:
    """A term with a module, which learns the scale of the student's samples."""

    module: nn.Module
    name: str = "scale"

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        return Loss(self.module(x.flatten(1)).mean())

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        return Loss((self.module(x.flatten(1)) - x.flatten(1).abs()).square().mean())


def test_a_term_of_ones_own_adds_to_the_students_loss_and_moves_it() -> None:
    student, batch = affine(1.0), batch_of(G1, 64)
    plain, pulled = (dmd2(student, bell(), terms=terms).loss("student", batch, Rng(0)) for terms in ((), (Pull(-2.0),)))
    assert pulled.total.item() == pytest.approx(plain.total.item() + 1e3 * pulled.parts["far"].item(), rel=1e-5)
    train(dmd2(student, bell(), each=1, terms=(Pull(-2.0),)), G1, 150, {"student": 0.1, "critic": 0.02})
    assert ab(student)[1] == pytest.approx(-2, abs=0.05)


def test_the_module_of_a_term_learns_with_the_critic() -> None:
    term = Scale(nn.Linear(1, 1))
    method = dmd2(affine(1.0), bell(), each=1, terms=(term,))
    assert set(method.learners["critic"].parameters()) >= set(term.module.parameters())
    before = term.module.weight.detach().clone()
    train(method, G1, 1, {"student": 0.0, "critic": 0.01}, batch=64)
    assert not torch.equal(before, term.module.weight)


def test_another_way_to_generate_is_a_callable() -> None:
    """Two passes with a graph through both: no class of ours, no change to the method."""
    student, calls = affine(1.0, 0.5, scale=0.5), []

    def twice(net: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        calls.append(torch.is_grad_enabled())
        z, high, low = rng.normal("z", batch.x.shape), torch.ones(len(batch)), torch.full((len(batch),), 0.5)
        return net.x0(net.x0(z, high, batch.cond), low, batch.cond)

    method = Dmd2(Dmd2Config(), G1, student, bell(), {"student": student, "critic": bell()}, twice)
    method.loss("critic", batch_of(G1, 8), Rng(0))
    method.loss("student", batch_of(G1, 8), Rng(0)).total.backward()
    assert calls == [False, True] and (student.net.a.grad != 0).all()
