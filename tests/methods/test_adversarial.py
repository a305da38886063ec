"""The GAN term: with the optimal logit it is a weighted distribution matching; who gets which gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from methods.bed import G1, RF, affine, batch_of, doubled
from torch import Tensor, nn
from torch.nn.functional import sigmoid
from toys import same_tensors

from vdistill.core.cond import Cond
from vdistill.core.denoiser import Tapped
from vdistill.core.engine import Engine
from vdistill.core.inputs import Generated, NoiseOnly
from vdistill.core.losses.divergence import Divergence
from vdistill.core.losses.gan import Kind
from vdistill.core.losses.matching import matching
from vdistill.core.optim import OptimSpec
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.core.times import Uniform
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.look import Taps
from vdistill.families.analytic import Exact, Gaussian, gaussian
from vdistill.families.analytic_mixture import mixture
from vdistill.families.analytic_nets import mlp
from vdistill.methods.dmd2 import Dmd2, Dmd2Config


@dataclass(frozen=True)
class LogRatio:
    """Taps that hold the optimal logit itself, log q / p of two laws at x_t."""

    real: Exact
    fake: Exact

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        return [(self.real.log_prob(x, t) - self.fake.log_prob(x, t)).view(-1, 1, 1)]


class Read(nn.Module):
    """Features [B, 1, 1] as the logit [B, 1]."""

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        return seen[0][..., 0]


def gan(real: Exact, fake: Exact, kind: Kind = "ns", weight: float = 1.0) -> Adversarial:
    return Adversarial(Taps(LogRatio(real, fake), ()), RF, Read(), weight, kind=kind, times=Uniform(0.1, 0.9))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "h"), [("ns", lambda log_r: sigmoid(-log_r)), ("minimax", sigmoid)])
@pytest.mark.parametrize("real", [gaussian(RF, [0.7, 0.1]), mixture(RF)], ids=["gaussian", "mixture"])
def test_with_the_optimal_logit_it_is_the_matching_gradient(real: Exact, kind: Kind, h: Divergence) -> None:
    """Identity 2: ns is h = 1 / (1 + r), minimax r / (1 + r), up to (alpha / sigma)^2 of each sample."""
    fake, rng = gaussian(RF, [0.2, -0.4], 0.8), Rng(4)
    x = fake.sample(32, Rng(0)).double().requires_grad_()
    (by_gan,) = torch.autograd.grad(gan(real, fake, kind, 0.7).student(x, Batch(x, Cond()), rng).total, x)
    t = rng.uniform("gan/t", (32,), 0.1, 0.9)
    xt = RF.noise(x, rng.normal("gan/eps", x.shape).double(), t).detach()
    log_r = real.log_prob(xt, t) - fake.log_prob(xt, t)
    loss = matching(x, real.x0(xt, t), fake.x0(xt, t), weight=h(log_r), normalize=False)
    (by_scores,) = torch.autograd.grad(loss.mean() * 2, x)  # 2: the elements of a sample
    snr = ((1 - t) / t).square().view(-1, 1, 1)
    assert torch.allclose(by_gan, 0.7 * snr * by_scores, rtol=1e-7, atol=1e-12)


def test_the_optimal_logit_is_better_than_one_that_is_off() -> None:
    """The watcher's loss at log q / p is below that at twice and at half of it, and below chance, 2 log 2."""
    fake, n = gaussian(RF, 0.2, 0.8), 20000

    @dataclass(frozen=True)
    class Off:
        factor: float

        def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
            return [self.factor * LogRatio(G1, fake).taps(x, t, cond, layers)[0]]

    def cost(factor: float) -> float:
        term = Adversarial(Taps(Off(factor), ()), RF, Read(), watch_weight=1.0)  # type: ignore[arg-type]
        return term.watch(fake.sample(n, Rng(1)), batch_of(G1, n), Rng(2)).total.item()

    best = cost(1.0)
    assert best < min(cost(0.0), cost(0.5), cost(2.0)) and cost(0.0) == pytest.approx(1.3862944, rel=1e-6)
    assert cost(-1.0) > cost(0.0)


def test_equal_laws_cannot_be_told_apart_and_push_nowhere() -> None:
    x = G1.sample(16, Rng(0)).double().requires_grad_()
    loss = gan(G1, G1).student(x, Batch(x, Cond()), Rng(0))
    (push,) = torch.autograd.grad(loss.total, x)
    assert push.abs().max() < 1e-12 and loss.parts["gan"].item() == pytest.approx(0.69314718, rel=1e-6)


@pytest.mark.parametrize("kind", ["ns", "relativistic"])
def test_weights_of_the_batch_count(kind: Kind) -> None:
    term, batch = gan(G1, gaussian(RF, 0.2, 0.8), kind), doubled(batch_of(G1, 4))
    x = batch_of(G1, 4, seed=9).x.double()

    def of(weight: Tensor | None) -> Tensor:
        weighted = Batch(batch.x, batch.cond, weight)
        return torch.stack([term.student(x, weighted, Rng(0)).total, term.watch(x, weighted, Rng(0)).total])

    each = torch.stack([of(row) for row in torch.eye(4).double()])
    w = torch.tensor([1.0, 0.0, 2.0, 5.0]).double()
    assert torch.allclose(of(None), each.mean(0)) and torch.allclose(of(w), (w[:, None] * each).sum(0) / w.sum())


# -- who learns -------------------------------------------------------------------------------------------------------


def engine_with_gan(out: Path) -> tuple[Engine, TokenHeads]:
    student, critic = affine(1.0), mlp((1, 1), RF)
    assert isinstance(critic, Tapped)
    heads = TokenHeads([64, 64])
    term = Adversarial(Taps(critic, (1, 2)), RF, heads, weight=1.0, watch_weight=1.0)
    modules = {"student": student, "critic": critic}
    method = Dmd2(Dmd2Config(1), G1, student, critic, modules, Generated(NoiseOnly()), (term,))
    spec = {n: OptimSpec(lr=0.01) for n in method.learners}
    return Engine(method, lambda step, micro: batch_of(G1, 32, step), spec, out, steps=1), heads


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_heads_learn_in_the_critics_turn_and_only_there(tmp_path: Path) -> None:
    engine, heads = engine_with_gan(tmp_path)
    student, critic = (engine.method.learners[n] for n in ("student", "critic"))
    before = weights(student), weights(critic)
    engine._update("student", [0], [batch_of(G1, 32)])
    assert not same_tensors(before[0], weights(student)) and same_tensors(before[1], weights(critic))
    assert all(p.grad is None for p in critic.parameters())
    between = weights(student)
    engine._update("critic", [0], [batch_of(G1, 32)])
    assert same_tensors(between, weights(student))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads.parameters())
    assert not same_tensors(before[1], weights(critic))


def test_the_gradient_reaches_the_students_sample_through_the_frozen_critic() -> None:
    critic, heads = mlp((1, 1), RF).requires_grad_(False), TokenHeads([64]).requires_grad_(False)
    x = batch_of(G1, 8).x.requires_grad_()
    Adversarial(Taps(critic, (1,)), RF, heads).student(x, Batch(x.detach(), Cond()), Rng(0)).total.backward()
    assert x.grad is not None and (x.grad != 0).all()


def test_watching_leaves_the_student_alone() -> None:
    critic, heads = mlp((1, 1), RF), TokenHeads([64])
    x = batch_of(G1, 8).x.requires_grad_()
    Adversarial(Taps(critic, (1,)), RF, heads).watch(x, batch_of(G1, 8), Rng(0)).total.backward()
    assert x.grad is None and all(p.grad is not None for p in critic.net.hidden[:2].parameters())


@pytest.mark.parametrize("kind", ["ns", "hinge", "relativistic"])
def test_trained_heads_tell_two_laws_apart_and_push_fakes_towards_the_real(kind: Kind) -> None:
    """Real samples sit at 0.7, fakes at -1.3: a step against the student's gradient moves them up."""
    fake: Gaussian = gaussian(RF, -1.3)
    critic, heads = mlp((1, 1), RF), TokenHeads([64])
    term = Adversarial(Taps(critic, (1,)), RF, heads, 1.0, 1.0, kind)
    optim = torch.optim.Adam([*critic.parameters(), *heads.parameters()], 3e-3)
    for step in range(60):
        optim.zero_grad()
        loss = term.watch(fake.sample(128, Rng(1, step)), batch_of(G1, 128, step), Rng(0, step))
        loss.total.backward()
        optim.step()
    assert loss.parts["told_apart"] > 0.65
    x = fake.sample(128, Rng(5)).requires_grad_()
    (push,) = torch.autograd.grad(term.student(x, batch_of(G1, 128, 7), Rng(6)).total, x)
    assert push.mean() < 0
