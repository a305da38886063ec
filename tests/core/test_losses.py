"""Losses against closed forms: divergences of Gaussians, optimal discriminators, textbook formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import sigmoid

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.losses.consistency import Boundary, target
from vdistill.core.losses.divergence import Divergence
from vdistill.core.losses.gan import GAMES, Kind, approximate_r1, student_loss, watch_loss
from vdistill.core.losses.matching import along, direction, distance, matching
from vdistill.core.losses.regression import WEIGHTED_AS, Weighting, l1, l2, pseudo_huber, weighted_x0, x0_weight
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.families.analytic import Gaussian, gaussian
from vdistill.families.analytic_mixture import Mixture, mixture

SCHEDULES = [Schedule("rf"), Schedule("vp"), Schedule("edm"), Schedule("trig")]
RF, G1 = Schedule("rf"), gaussian(Schedule("rf"))


def kind_of(schedule: Schedule) -> str:
    return schedule.kind


# -- regression ---------------------------------------------------------------------------------------------------


def test_distances_are_per_sample_means() -> None:
    a, b = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[1.0, 5.0]], [[0.0, -1.0]]])
    assert l2(a, b).tolist() == [4.5, 0.5]
    assert l1(a, b).tolist() == [1.5, 0.5]


def test_pseudo_huber_is_quadratic_near_and_linear_far() -> None:
    metric, zero = pseudo_huber(1e-3), torch.zeros(1, 1)
    d = torch.tensor([[0.3]], dtype=torch.float64)
    assert metric(d, 0 * d).item() == pytest.approx(math.sqrt(0.09 + 1e-6) - 1e-3, rel=1e-12)
    assert metric(zero + 1e3, zero).item() == pytest.approx(1e3, rel=1e-4)
    near = metric(zero.double() + 1e-7, zero.double()).item()
    assert near == pytest.approx(1e-14 / 2e-3, rel=1e-6)
    assert metric(zero, zero).item() == 0
    with pytest.raises(UserError, match="c must be > 0"):
        pseudo_huber(0.0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind_of)
@pytest.mark.parametrize("weighting", WEIGHTED_AS)
def test_weighted_x0_error_is_the_error_of_the_prediction(weighting: Weighting, schedule: Schedule) -> None:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x0, guess, eps = torch.randn(3, 3, 2, 4, dtype=torch.float64)
    xt = schedule.noise(x0, eps, t)
    said, right = (schedule.prediction(x, xt, t, WEIGHTED_AS[weighting]) for x in (guess, x0))
    assert torch.allclose(weighted_x0(guess, x0, t, schedule, weighting, floor=0.0), l2(said, right), rtol=1e-9)


def test_flow_weight_on_rf_is_one_over_floored_time_squared() -> None:
    t = torch.tensor([[0.0, 0.01], [0.1, 1.0]], dtype=torch.float64)
    weight = x0_weight(RF, t, "flow", floor=0.05)
    assert torch.allclose(weight, 1 / t.clamp_min(0.05) ** 2, rtol=1e-12)
    x0_hat, x0 = torch.ones(2, 3, 2, dtype=torch.float64), torch.zeros(2, 3, 2, dtype=torch.float64)
    assert torch.allclose(weighted_x0(x0_hat, x0, t, RF), weight.mean(1))  # [B, T]: a weight for each position
    with pytest.raises(UserError, match="uniform, snr, v, flow"):
        x0_weight(RF, t, "edm")  # type: ignore[arg-type]


# -- consistency --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jump:
    """A law's own consistency map as a denoiser; at t = 0, where it is never asked, not finite."""

    law: Gaussian
    schedule: Schedule = RF

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return self.law.ode_map(x, t, torch.zeros_like(t)) / (t > 0).view(-1, 1, 1)


def test_boundary_is_the_identity_at_zero_and_the_network_elsewhere() -> None:
    boundary, x, x0 = Boundary(), torch.randn(3, 2, 1), torch.randn(3, 2, 1)
    t = torch.tensor([0.0, 0.02, 1.0])
    out = boundary(x0, x, t)
    assert torch.equal(out[0], x[0]) and torch.allclose(out[2], x0[2], atol=1e-6)
    skip, factor = boundary.skip_out(torch.tensor([0.02]))  # the published form: 20 of 1000, scaled by 10
    assert skip.item() == pytest.approx(0.25 / (200**2 + 0.25), rel=1e-6)
    assert factor.item() == pytest.approx(200 / math.sqrt(200**2 + 0.25), rel=1e-6)


def test_exact_consistency_map_meets_its_own_target() -> None:
    jump, boundary = Jump(G1), Boundary()
    t, u = torch.tensor([1.0, 0.5, 0.2]).double(), torch.tensor([0.9, 0.2, 0.0]).double()
    xt = torch.randn(3, 1, 1, dtype=torch.float64, requires_grad=True)
    xu = G1.ode_map(xt, t, u)
    aim = target(jump, boundary, xu, u, Cond())
    assert not aim.requires_grad
    assert torch.equal(aim[2], xu[2])  # at the end the target is the point itself
    assert torch.allclose(boundary(jump.x0(xt, t, Cond()), xt, t), aim, atol=1e-5)


# -- distribution matching ----------------------------------------------------------------------------------------


def student_sample(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """G(z) = a z + b and eps on four points with exactly the first two moments of a normal pair: no sampling error in
    whatever is quadratic."""
    z, eps = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0])).double().T
    return (a * z + b).view(-1, 1, 1), eps.view(-1, 1, 1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind_of)
def test_matching_gradient_is_the_closed_form_of_the_reverse_kl(schedule: Schedule) -> None:
    """On G1: d_b KL = alpha^2 (b - mu) / S^2, d_a KL = alpha^2 a (1 / S^2 - 1 / A^2); x0: without (alpha/sigma)^2."""
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.9, -0.3))
    teacher, critic = gaussian(schedule), gaussian(schedule, b.item(), a.item())
    t = torch.full((4,), 0.6, dtype=torch.float64)
    x, eps = student_sample(a, b)
    xt = schedule.noise(x, eps, t)
    matching(x, teacher.x0(xt, t), critic.x0(xt, t), normalize=False).mean().backward()
    alpha, sigma = (v[0] for v in schedule.alpha_sigma(t))
    s2, a2 = alpha**2 * 0.25 + sigma**2, alpha**2 * 0.81 + sigma**2
    assert a.grad is not None and b.grad is not None
    assert a.grad.item() == pytest.approx((sigma**2 * 0.9 * (1 / s2 - 1 / a2)).item(), rel=1e-8)
    assert b.grad.item() == pytest.approx((sigma**2 * -1.0 / s2).item(), rel=1e-8)


def test_matching_gradient_is_the_derivative_of_the_divergence() -> None:
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.9, -0.3))
    t = torch.full((4,), 0.6, dtype=torch.float64)
    x, eps = student_sample(a, b)
    xt = RF.noise(x, eps, t)
    critic = gaussian(RF, b.item(), a.item())
    ours = torch.autograd.grad(matching(x, G1.x0(xt, t), critic.x0(xt, t), normalize=False).mean(), (a, b))
    law = torch.distributions.Normal(0.4 * b, (0.16 * a**2 + 0.36).sqrt())
    wanted = torch.distributions.Normal(
        torch.tensor(0.4 * 0.7).double(), torch.tensor(0.16 * 0.25 + 0.36).double().sqrt()
    )
    exact = torch.autograd.grad(torch.distributions.kl_divergence(law, wanted), (a, b))
    for found, right in zip(ours, exact, strict=True):
        assert found.item() / (0.6 / 0.4) ** 2 == pytest.approx(right.item(), rel=1e-6)


def test_linear_student_with_the_exact_critic_becomes_the_teacher() -> None:
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.6, -0.9))
    for step in range(300):
        t = torch.full((4,), (0.2, 0.5, 0.8)[step % 3], dtype=torch.float64)
        x, eps = student_sample(a, b)
        xt = RF.noise(x, eps, t)
        critic = gaussian(RF, b.item(), a.item())
        loss = matching(x, G1.x0(xt, t), critic.x0(xt, t), normalize=False).mean()
        with torch.no_grad():
            for value, slope in zip((a, b), torch.autograd.grad(loss, (a, b)), strict=True):
                value -= 0.3 * slope
    assert abs(a.item() - 0.5) < 1e-3 and abs(b.item() - 0.7) < 1e-3


def test_matched_student_has_no_gradient_and_a_normaliser_moves_no_zero() -> None:
    x = torch.randn(4, 2, 1, requires_grad=True)
    real, other = torch.randn(4, 2, 1), torch.randn(4, 2, 1)
    assert matching(x, real, real).abs().max() == 0
    plain, scaled = direction(x, real, other, normalize=False), direction(x, real, other)
    n = (x - real).abs().mean((1, 2))
    assert torch.allclose(scaled * n.view(-1, 1, 1), plain, atol=1e-6)
    assert not scaled.requires_grad
    assert distance(real, real).tolist() == [pytest.approx(1e-5)] * 4


def test_along_is_the_textbook_form() -> None:
    x, g = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, 5, dtype=torch.float64)
    book = 0.5 * (x - (x - g).detach()).square().flatten(1).mean(1)
    assert torch.allclose(along(x, g), book)
    ours, theirs = (torch.autograd.grad(loss.sum(), x)[0] for loss in (along(x, g), book))
    assert torch.allclose(ours, theirs)


def test_along_keeps_a_small_gradient_in_low_precision() -> None:
    x = torch.full((1, 4), 3.0, dtype=torch.bfloat16, requires_grad=True)
    g = torch.full((1, 4), 1e-3, dtype=torch.bfloat16)
    (slope,) = torch.autograd.grad(along(x, g).sum(), x)
    assert torch.equal(slope * 4, g)
    assert (x - (x - g)).abs().max() == 0  # the textbook form would have lost it


# -- adversarial --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind_of)
@pytest.mark.parametrize(
    ("kind", "h"), [("ns", lambda log_r: sigmoid(-log_r)), ("minimax", sigmoid), ("wgan", torch.ones_like)]
)
@pytest.mark.parametrize("teacher", ["gaussian", "mixture"])
def test_optimal_discriminator_gives_a_weighted_matching_gradient(
    teacher: str, kind: Kind, h: Divergence, schedule: Schedule
) -> None:
    """Identity 2: with logit log q / p, ns is h = 1 / (1 + r), minimax r / (1 + r), -D is 1; up to (alpha/sigma)^2."""
    law: Gaussian | Mixture = gaussian(schedule, [0.7, 0.1]) if teacher == "gaussian" else mixture(schedule)
    critic = gaussian(schedule, [0.2, -0.4], 0.8)
    t = torch.linspace(0.2, 0.9, 6, dtype=torch.float64)
    x = critic.sample(6, Rng(0)).double().requires_grad_()
    xt = schedule.noise(x, torch.randn(6, 2, 1, dtype=torch.float64), t)
    log_r = law.log_prob(xt, t) - critic.log_prob(xt, t)
    (by_game,) = torch.autograd.grad(student_loss(log_r[:, None], kind=kind).sum(), x, retain_graph=True)
    loss = matching(x, law.x0(xt, t), critic.x0(xt, t), weight=h(log_r), normalize=False)
    (by_scores,) = torch.autograd.grad(loss.sum() * 2, x)  # 2: the elements of a sample
    alpha, sigma = (v.view(-1, 1, 1) for v in schedule.alpha_sigma(t))
    assert torch.allclose(by_game, by_scores * (alpha / sigma) ** 2, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", ["ns", "minimax"])
def test_the_log_ratio_is_the_optimal_logit(kind: Kind) -> None:
    """Expected discriminator loss q softplus(-D) + p softplus(D) is stationary in D at log q / p."""
    q, p = torch.tensor([0.7, 0.1]).double(), torch.tensor([0.2, 0.4]).double()
    logit = (q / p).log().requires_grad_()
    far = torch.full_like(logit, 40.0)  # softplus of the other half vanishes there
    real, fake = watch_loss(logit[:, None], -far[:, None], kind), watch_loss(far[:, None], logit[:, None], kind)
    (slope,) = torch.autograd.grad((q * real + p * fake).sum(), logit)
    assert slope.abs().max() < 1e-12


def test_games_at_known_logits() -> None:
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-0.5, 0.0]])
    student = {kind: student_loss(fake, real, kind).item() for kind in GAMES}
    watch = {kind: watch_loss(real, fake, kind).item() for kind in GAMES}

    def soft(v: float) -> float:
        return math.log1p(math.exp(v))

    def sig(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    assert student == pytest.approx(
        {
            "ns": (soft(0.5) + soft(0)) / 2,
            "minimax": -(soft(-0.5) + soft(0)) / 2,
            "hinge": 0.25,
            "lsgan": ((sig(-0.5) - 1) ** 2 + 0.25) / 2,
            "wgan": 0.25,
            "relativistic": (soft(2.5) + soft(0.5)) / 2,
        }
    )
    logistic = (soft(-0.5) + soft(-2) + soft(0) + soft(-0.5)) / 2
    assert watch == pytest.approx(
        {
            "ns": logistic,
            "minimax": logistic,
            "hinge": (0 + 0.5 + 0.5 + 1) / 2,
            "lsgan": ((sig(2) - 1) ** 2 + (sig(0.5) - 1) ** 2 + sig(-0.5) ** 2 + 0.25) / 4,
            "wgan": (-2.5 - 0.5) / 2,
            "relativistic": (soft(-2.5) + soft(-0.5)) / 2,
        }
    )


@pytest.mark.parametrize("kind", GAMES)
def test_a_fake_that_looks_more_real_costs_the_student_less(kind: Kind) -> None:
    fake, real = torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1)
    assert torch.autograd.grad(student_loss(fake, real, kind).sum(), fake)[0].item() < 0
    assert torch.autograd.grad(watch_loss(real, fake, kind).sum(), fake)[0].item() > 0


def test_heads_count_equally_whatever_their_number_of_positions() -> None:
    one, two = torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0]])
    assert student_loss([one, two], kind="wgan").tolist() == [-(2 + 4) / 2]


def test_what_a_game_cannot_do_is_said() -> None:
    logits = torch.zeros(1, 1)
    with pytest.raises(UserError, match="known: ns, minimax, hinge"):
        student_loss(logits, kind="nsgan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="real logits"):
        student_loss(logits, kind="relativistic")


def test_approximate_r1_of_a_linear_discriminator_is_its_squared_gradient() -> None:
    w, sigma = torch.tensor([0.3, -2.0, 0.7]).double(), 0.1
    x, basis = torch.randn(3, dtype=torch.float64), math.sqrt(3) * torch.eye(3).double()  # covariance exactly I
    clean, disturbed = (x @ w).expand(3, 1), ((x + sigma * basis) @ w)[:, None]
    assert approximate_r1(clean, disturbed).mean().item() == pytest.approx(sigma**2 * w.square().sum().item(), rel=1e-9)
