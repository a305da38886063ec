"""ADD's score distillation: its gradient in closed form, what it does alone, and what a judge beside it mends."""

from __future__ import annotations

import pytest
import torch
from methods.bed import G1, MU, RF, Asked, S, affine, batch_of, doubled, train
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.inputs import NoiseOnly, StudentInput
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.core.times import Uniform
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.look import Taps
from vdistill.discriminators.penalties import Probe
from vdistill.families.analytic_nets import mlp
from vdistill.methods.distilled_score import DistilledScore, Fading, fading
from vdistill.methods.judged import Judged

NOWHERE = StudentInput(torch.zeros(0), torch.zeros(0), Cond())
TIMES = Uniform(0.1, 0.9)


def slope(x: Tensor, kind: Fading = "exponential", rng: Rng = Rng(0)) -> Tensor:
    """The gradient at each sample of its own loss."""
    x = x.clone().requires_grad_()
    loss = DistilledScore(G1, TIMES, 1.0, kind)(affine(1.0), NOWHERE, x, Batch(x.detach(), Cond()), rng)
    return torch.autograd.grad(loss.total * len(x), x)[0]


@pytest.mark.parametrize("kind", ["exponential", "sds"])
def test_the_gradient_is_the_closed_form_on_a_gaussian(kind: Fading) -> None:
    """2 c(t) (x - x0_teacher), x0_teacher = mu + alpha s^2 / (alpha^2 s^2 + sigma^2) (x_t - alpha mu)."""
    x, rng = doubled(batch_of(G1, 64)).x, Rng(0)
    t = rng.uniform("distil/t", (64,), 0.1, 0.9)
    alpha, sigma = (1 - t).view(-1, 1, 1), t.view(-1, 1, 1)
    eps = rng.normal("distil/eps", x.shape).double()
    gap = sigma**2 * (x - MU) - alpha * S**2 * sigma * eps
    weight = alpha if kind == "exponential" else alpha * sigma / 2
    want = 2 * weight * gap / (alpha**2 * S**2 + sigma**2)
    assert torch.allclose(slope(x, kind), want, rtol=1e-9, atol=1e-12)


def test_with_sds_weights_it_is_score_distillation_sampling() -> None:
    x, rng = doubled(batch_of(G1, 64)).x, Rng(0)
    t, eps = rng.uniform("distil/t", (64,), 0.1, 0.9), rng.normal("distil/eps", x.shape).double()
    xt = RF.noise(x, eps, t)
    said = RF.eps(G1.x0(xt, t), xt, t)
    assert torch.allclose(slope(x, "sds"), t.view(-1, 1, 1) ** 2 * (said - eps), rtol=1e-9, atol=1e-12)
    assert fading(RF, t, "exponential").tolist() == (1 - t).tolist()


def test_the_teacher_keeps_no_graph() -> None:
    teacher, x = Asked(G1), batch_of(G1, 4).x.requires_grad_()
    DistilledScore(teacher)(affine(1.0), NOWHERE, x, Batch(x, Cond()), Rng(0)).total.backward()
    assert teacher.graphs == [False] and x.grad is not None


@pytest.mark.slow
def test_alone_it_collapses_to_the_mean_and_a_judge_keeps_the_spread() -> None:
    found = []
    for judged in (False, True):
        student = affine(1.0, scale=0.5, shift=0.2)
        critic = mlp((1, 1), RF)
        torch.manual_seed(0)
        term = Adversarial(
            Taps(critic, (1, 2)), RF, TokenHeads([64, 64]), 5.0, 1.0, times=TIMES, penalties=(Probe(1.0, 0.1),)
        )
        modules = {"student": student} | ({"critic": critic} if judged else {})
        aim = DistilledScore(G1, TIMES, 1.0)
        method = Judged(student, modules, NoiseOnly(), aim, (term,) if judged else ())
        train(method, G1, 300, {"student": 1e-2, "critic": 3e-3}, batch=128)
        assert student.net.b.item() == pytest.approx(MU, abs=0.15)
        found.append(abs(student.net.a.item()))
    assert found[0] < 0.1 and found[1] > 0.3
