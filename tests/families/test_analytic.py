"""The exact laws agree with autograd, with quadrature and with each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import solve
from vdistill.families.analytic import Classes, Exact, Gaussian, ar1, gaussian
from vdistill.families.analytic_mixture import Mixture, follow, mixture, mode_stds, mode_tv, sw2
from vdistill.families.analytic_nets import Affine, Bell, Mlp, mlp

SCHEDULES = [Schedule("rf"), Schedule("vp"), Schedule("vp", zero_snr=True), Schedule("edm"), Schedule("trig")]
RF = Schedule("rf")
LAWS = ["diagonal", "full", "ar1", "classes", "mixture"]


def full_gaussian(schedule: Schedule) -> Gaussian:
    root = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return Gaussian(schedule, torch.tensor([[0.3], [-1.0], [0.8]], dtype=torch.float64), root @ root.T)


def three_classes(schedule: Schedule) -> Classes:
    """Two classes and none, in the plane."""
    means = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.1, 0.1]], dtype=torch.float64)[..., None]
    return Classes(schedule, means, 0.5)


def law_of(name: str, schedule: Schedule) -> Exact:
    makers: dict[str, Callable[[], Exact]] = {
        "diagonal": lambda: gaussian(schedule, [0.7, -0.2], [0.5, 1.5]),
        "full": lambda: full_gaussian(schedule),
        "ar1": lambda: ar1(schedule, 4),
        "classes": lambda: three_classes(schedule),
        "mixture": lambda: mixture(schedule),
    }
    return makers[name]()


def cond_of(law: Exact, n: int) -> Cond:
    return law.cond(torch.arange(n) % 2) if isinstance(law, Classes) else Cond()


def points(law: Exact, n: int, t: Tensor) -> Tensor:
    eps = torch.randn(n, *law.shape, dtype=torch.float64)
    return law.schedule.noise(law.sample(n, Rng(0), cond_of(law, n)).double(), eps, t)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}{'0' * s.zero_snr}")
@pytest.mark.parametrize("name", LAWS)
def test_score_is_the_gradient_of_log_prob_and_x0_is_tweedie(name: str, schedule: Schedule) -> None:
    law = law_of(name, schedule)
    t = torch.tensor([0.05, 0.3, 0.6, 0.95, 1.0], dtype=torch.float64)
    cond = cond_of(law, 5)
    x = points(law, 5, t).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x, t, cond).sum(), x)
    assert torch.allclose(law.score(x, t, cond), slope, rtol=1e-10, atol=1e-10)
    assert torch.allclose(schedule.score(law.x0(x, t, cond), x, t), slope, rtol=1e-8, atol=1e-8)


def test_log_prob_integrates_to_one() -> None:
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    one = gaussian(RF).log_prob(grid[:, None, None], torch.full((4001,), 0.4)).exp()
    assert torch.trapezoid(one, grid).item() == pytest.approx(1, abs=1e-10)
    plane = torch.cartesian_prod(grid[::20], grid[::20])[..., None]
    two = mixture(RF).log_prob(plane, torch.full((len(plane),), 0.4)).exp()
    assert two.sum().item() * (grid[20] - grid[0]).item() ** 2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.kind}{'0' * s.zero_snr}")
@pytest.mark.parametrize("name", ["diagonal", "full", "ar1", "classes"])
def test_closed_ode_map_is_where_the_ode_goes(name: str, schedule: Schedule) -> None:
    law = law_of(name, schedule)
    t, u = torch.tensor([1.0, 0.9, 0.2], dtype=torch.float64), torch.tensor([0.0, 0.3, 0.8], dtype=torch.float64)
    x, cond = points(law, 3, t), cond_of(law, 3)
    exact, walked = law.ode_map(x, t, u, cond), follow(law, x, t, u, cond, steps=100)
    assert torch.allclose(exact, walked, rtol=1e-6, atol=1e-6)
    assert torch.allclose(law.ode_map(exact, u, t, cond), x, rtol=1e-9, atol=1e-9)


def test_mixture_ode_map_comes_back_and_keeps_the_law() -> None:
    """Density at the start = density at the end x |det of the map|."""
    law, n = mixture(RF), 4
    high, low = torch.ones(n), torch.zeros(n)
    noise = Rng(0).normal("z", (n, 2, 1)).double().requires_grad_()
    x = follow(law, noise, high, low, steps=150)
    rows = [torch.autograd.grad(x[:, k].sum(), noise, retain_graph=True)[0][..., 0] for k in range(2)]
    log_det = torch.linalg.slogdet(torch.stack(rows, 1))[1]
    assert torch.allclose(law.log_prob(noise, high), law.log_prob(x, low) + log_det, atol=1e-4)
    x = x.detach()[:1]
    assert torch.allclose(law.ode_map(x, low[:1], high[:1]), noise[:1], atol=1e-5)


def test_mixture_of_one_is_a_gaussian() -> None:
    one = Mixture(RF, torch.tensor([[[0.7]]]), torch.ones(1), torch.tensor([0.5]))
    law, t = gaussian(RF), torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    x = points(law, 3, t)
    for ask in ("x0", "score", "log_prob"):
        assert torch.allclose(getattr(one, ask)(x, t), getattr(law, ask)(x, t), atol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_samples_have_the_moments_of_the_law(name: str) -> None:
    law, n = law_of(name, RF), 20000
    cond = law.cond(torch.zeros(n, dtype=torch.long)) if isinstance(law, Classes) else Cond()
    x = law.sample(n, Rng(0), cond)
    assert torch.equal(x, law.sample(n, Rng(0), cond))
    flat = x.double().flatten(1)
    at_noise = law.x0(x.double(), torch.ones(n), cond)  # rf at t = 1 has forgotten x: this is the mean
    assert torch.allclose(flat.mean(0), at_noise[0].flatten(), atol=5 * flat.std().item() / math.sqrt(n))
    if isinstance(law, Gaussian):
        assert torch.allclose(flat.T.cov(), law.full_cov, atol=0.05 * law.full_cov.abs().max().item())


def test_times_per_position_agree_with_one_time_and_with_the_joint_density() -> None:
    law, t = ar1(RF, 5), torch.tensor([0.3, 0.7], dtype=torch.float64)
    x = points(law, 2, t)
    each = t[:, None].expand(2, 5)
    assert torch.allclose(law.x0(x, each), law.x0(x, t), atol=1e-12)
    assert torch.allclose(law.log_prob(x, each), law.log_prob(x, t), atol=1e-12)
    mixed = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.0]], dtype=torch.float64)
    y = x[:1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(y, mixed).sum(), y)
    assert torch.allclose(law.score(y, mixed), slope, atol=1e-9)
    assert law.x0(y, mixed)[0, 0, 0].item() == pytest.approx(y[0, 0, 0].item())  # t = 0: known exactly


def test_clean_past_predicts_the_next_position_as_the_recursion_says() -> None:
    rho, x = 0.8, torch.randn(3, 1, 4, dtype=torch.float64)
    t = torch.tensor([[0.0, 0.0, 0.0, 1.0]]).expand(3, 4)
    for law, y in ((ar1(RF, 4, rho), x), (ar1(RF, 4, rho, (1, 4, 1, 1)), x[..., None, None])):
        assert torch.allclose(law.x0(y, t).flatten(1)[:, 3], rho * x[:, 0, 2])


def test_causal_optimum_of_the_bidirectional_score_is_the_cholesky_factor() -> None:
    """Identity 9: reverse KL over lower-triangular students L z has its optimum at L L^T = Sigma, so no bias."""
    law = ar1(RF, 4)
    lower = torch.linalg.cholesky(law.full_cov).requires_grad_()
    z = torch.randn(200000, 4, dtype=torch.float64)
    x = (z @ lower.T)[:, None]
    score_gap = law.score(x, torch.zeros(len(x))) + torch.linalg.solve(law.full_cov, x[:, 0].T).T[:, None]
    assert score_gap.abs().max() < 1e-9
    entropy = lower.diagonal().log().sum()
    (slope,) = torch.autograd.grad(-law.log_prob(x, torch.zeros(len(x))).mean() - entropy, lower)
    assert slope.tril().abs().max() < 0.02


def test_guidance_on_classes_is_the_shifted_gaussian() -> None:
    law = three_classes(RF)
    t = torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    x, cond = points(law, 4, t), law.cond(torch.ones(4, dtype=torch.long))
    for scale in (0.0, 1.0, 4.5):
        teacher = Guided(law, cfg(scale, "label"))
        assert torch.allclose(teacher.x0(x, t, cond), law.guided(1, scale).x0(x, t), atol=1e-12)


def test_one_solver_step_has_the_closed_form_slope() -> None:
    """DDIM slope t -> u on G1: (a_u a_t s^2 + s_u s_t) / S_t^2."""
    law, x = gaussian(RF), torch.tensor([[[-1.0]], [[2.0]]], dtype=torch.float64)
    moved = solve(law, x, [0.9, 0.5], Cond())
    slope = ((moved[1] - moved[0]) / 3).item()
    assert slope == pytest.approx((0.5 * 0.1 * 0.25 + 0.5 * 0.9) / (0.01 * 0.25 + 0.81), rel=1e-12)


def test_many_solver_steps_reach_the_ode_map() -> None:
    law, x = gaussian(RF), torch.randn(5, 1, 1, dtype=torch.float64)
    walked = solve(law, x, torch.linspace(1, 0, 400), Cond(), "heun")
    assert torch.allclose(walked, law.ode_map(x, torch.ones(5), torch.zeros(5)), atol=1e-3)


def test_metrics_see_a_shift_a_lost_mode_and_a_wrong_spread() -> None:
    law = mixture(RF)
    x, y = law.sample(4000, Rng(0)), law.sample(4000, Rng(1))
    assert sw2(x, x) == 0 and sw2(x, y) < 0.2
    assert sw2(x, x + torch.tensor([[1.0], [0.0]])) == pytest.approx(math.sqrt(0.5), abs=0.15)
    kept = x[x[:, 0, 0] < 0.5]
    assert mode_tv(x, law) < 0.02 and mode_tv(kept, law) == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(mode_stds(x, law), torch.full((3,), 0.35).double(), atol=0.02)
    assert mode_stds(kept, law)[0].isnan()


def test_affine_is_a_table_over_times_labels_and_scale() -> None:
    net = Affine((1, 1), (1.0, 0.5), classes=3, guidance=True, scale=2.0)
    with torch.no_grad():
        net.a[1] = 3.0
        net.b[:, 2] = 10.0
        assert net.g is not None
        net.g[:, 2] = 1.0
    x, t, label = torch.ones(3, 1, 1), torch.tensor([1.0, 0.52, 0.5]), torch.tensor([0, 0, 2])
    assert net(x, t, Cond({"label": label})).flatten().tolist() == [2, 3, 13]
    assert net(x, t, Cond({"label": label, "guidance": torch.full((3,), 4.0)})).flatten().tolist() == [2, 3, 16]


def test_bell_is_exact_at_its_parameters() -> None:
    law, bell = gaussian(RF, [0.7, -0.2], [0.5, 1.5]), Bell((2, 1), RF)
    with torch.no_grad():
        bell.mean.copy_(law.mean)
        bell.log_std.copy_(law.cov.sqrt().log())
    t = torch.tensor([0.0, 0.3, 1.0])
    x = points(law, 3, t).float()
    assert torch.allclose(bell(x, t, Cond()), law.x0(x, t), atol=1e-5)


def test_mlp_is_a_function_of_its_seed_and_has_taps() -> None:
    net, same = mlp((2, 1), RF, classes=3, guidance=True, seed=3), mlp((2, 1), RF, classes=3, guidance=True, seed=3)
    x, t, cond = torch.randn(4, 2, 1), torch.rand(4), Cond({"label": torch.tensor([0, 1, 2, 0])})
    out = net.x0(x, t, cond)
    assert torch.equal(out, same.x0(x, t, cond)) and out.shape == x.shape
    assert torch.equal(out, net.x0(x, t, cond.with_field("guidance", torch.full((4,), 5.0))))  # nothing at birth
    assert [tap.shape for tap in net.taps(x, t, cond, [0, 2])] == [(4, 1, 64)] * 2
    assert isinstance(net.net, Mlp)
