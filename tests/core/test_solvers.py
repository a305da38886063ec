"""Solvers against the closed-form ODE of a Gaussian: x_u = alpha_u m + S_u / S_t (x_t - alpha_t m)."""

import math

import pytest
import torch

from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule, spread
from vdistill.core.solvers import advance, ancestral, path, solve

SCHEDULES = {
    "rf": Schedule("rf"),
    "vp_cosine": Schedule("vp", betas="cosine"),
    "vp_zero_snr": Schedule("vp", zero_snr=True),
    "edm": Schedule("edm"),
    "trig": Schedule("trig"),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
NONE = Cond()


class Gaussian:
    """Exact x0 of N(m, s^2), methods of G1."""

    def __init__(self, schedule, m=0.7, s=0.5):
        self.schedule, self.m, self.s, self.calls = schedule, m, s, 0

    def deviation(self, t):
        alpha, sigma = self.schedule.alpha_sigma(t)
        return alpha, torch.sqrt(alpha**2 * self.s**2 + sigma**2)

    def x0(self, x, t, cond, *, attend=None):
        self.calls += 1
        alpha, deviation = (spread(v, x) for v in self.deviation(t))
        return (self.m + alpha * self.s**2 / deviation**2 * (x - alpha * self.m)).to(x.dtype)

    def ode(self, x, t, u):
        (a, before), (b, after) = ([spread(v, x) for v in self.deviation(w)] for w in (t, u))
        return b * self.m + after / before * (x - a * self.m)


class TwoPeaks(Gaussian):
    """Exact x0 of an even mixture of N(-1, s^2) and N(1, s^2): a teacher whose ODE is not linear."""

    def x0(self, x, t, cond, *, attend=None):
        left, right = Gaussian(self.schedule, -1.0, self.s), Gaussian(self.schedule, 1.0, self.s)
        alpha, deviation = (spread(v, x) for v in self.deviation(t))
        share = torch.sigmoid(2 * alpha * x / deviation**2)
        return share * right.x0(x, t, cond) + (1 - share) * left.x0(x, t, cond)


def states(n=5):
    return torch.linspace(-2, 2, n, dtype=torch.float64).view(n, 1, 1)


def full(value, n=5):
    return torch.full((n,), value, dtype=torch.float64)


def grid(high, low, n):
    return torch.linspace(high, low, n + 1, dtype=torch.float64)


@every_schedule
def test_ddim_step_has_the_slope_of_its_closed_form(schedule):
    net, t, u = Gaussian(schedule), full(0.8, 2), full(0.3, 2)
    x = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    out = advance(net, x, t, u, NONE)
    (a, deviation), s = net.deviation(t), schedule.alpha_sigma(t)[1]
    b, r = schedule.alpha_sigma(u)
    slope = (b * a * net.s**2 + r * s) / deviation**2
    torch.testing.assert_close(out[1] - out[0], slope[0].view(1, 1), rtol=1e-10, atol=1e-12)


@every_schedule
def test_two_half_steps_are_inverted_to_their_target(schedule):
    """Progressive distillation: the x0 whose one DDIM step lands where two half steps did (identity 5)."""
    net, x, (t, m, u) = Gaussian(schedule), states(), (full(v) for v in (0.8, 0.55, 0.3))
    end = advance(net, advance(net, x, t, m, NONE), m, u, NONE)
    a, s = (spread(v, x) for v in schedule.alpha_sigma(t))
    b, r = (spread(v, x) for v in schedule.alpha_sigma(u))
    target = (end - r / s * x) / (b - r / s * a)
    torch.testing.assert_close(schedule.step(target, x, t, u), end, rtol=1e-12, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
def test_one_point_of_data_is_solved_exactly_in_any_number_of_steps(schedule, solver):
    net, high = Gaussian(schedule, s=0.0), 0.95
    for n in (1, 3):
        out = solve(net, states(), grid(high, 0.1, n), NONE, solver)
        torch.testing.assert_close(out, net.ode(states(), full(high), full(0.1)), rtol=1e-10, atol=1e-10)


def test_euler_is_the_explicit_step_along_the_flow_and_ddim():
    net, x, t, u = Gaussian(SCHEDULES["rf"]), states(), full(0.8), full(0.5)
    flow = net.schedule.prediction(net.x0(x, t, NONE), x, t, "flow")
    torch.testing.assert_close(advance(net, x, t, u, NONE, "euler"), x - 0.3 * flow, rtol=1e-12, atol=1e-12)
    assert torch.equal(advance(net, x, t, u, NONE, "euler"), advance(net, x, t, u, NONE, "ddim"))


def test_heun_is_the_trapezoid_of_the_flow():
    net, x, t, u = Gaussian(SCHEDULES["rf"]), states(), full(0.8), full(0.5)

    def flow(y, w):
        return net.schedule.prediction(net.x0(y, w, NONE), y, w, "flow")

    wanted = x - 0.15 * (flow(x, t) + flow(x - 0.3 * flow(x, t), u))
    torch.testing.assert_close(advance(net, x, t, u, NONE, "heun"), wanted, rtol=1e-12, atol=1e-12)


def test_heun_on_edm_is_algorithm_one_of_karras():
    net, x, t, u = Gaussian(SCHEDULES["edm"]), 10 * states(), full(0.7), full(0.6)
    (s,), (r,) = (net.schedule.alpha_sigma(v[:1])[1] for v in (t, u))
    d = (x - net.x0(x, t, NONE)) / s
    guess = x + (r - s) * d
    wanted = x + (r - s) * (d + (guess - net.x0(guess, u, NONE)) / r) / 2
    torch.testing.assert_close(advance(net, x, t, u, NONE, "heun"), wanted, rtol=1e-12, atol=1e-12)


def order(net, solver, high, low, n, truth):
    errors = [(solve(net, states(), grid(high, low, k), NONE, solver) - truth).abs().max().item() for k in (n, 2 * n)]
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(("solver", "wanted"), [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
@every_schedule
def test_solvers_have_their_order_on_the_gaussian(schedule, solver, wanted):
    net, high, low = Gaussian(schedule), 0.9, 0.2
    truth = net.ode(states(), full(high), full(low))
    assert order(net, solver, high, low, 256, truth) == pytest.approx(wanted, abs=0.12)


@pytest.fixture(scope="module")
def bent():
    """Two peaks, and where their ODE leads from pure noise to data (Heun, 1500 steps)."""
    net = TwoPeaks(SCHEDULES["rf"])
    return net, solve(net, states(), grid(1, 0, 1500), NONE, "heun")


@pytest.mark.parametrize(("solver", "least"), [("ddim", 0.9), ("heun", 1.9), ("dpmpp_2m", 1.6)])
def test_solvers_have_their_order_from_pure_noise_to_data_where_the_ode_bends(bent, solver, least):
    """dpmpp_2m nears 2 slowly here (1.48, 1.70, 1.77, 1.80): two of its steps see an infinite log-SNR."""
    net, truth = bent
    assert least < order(net, solver, 1.0, 0.0, 64, truth) < 2.1


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize(
    "schedule", [SCHEDULES["rf"], SCHEDULES["vp_zero_snr"], SCHEDULES["trig"]], ids=lambda s: s.kind
)
def test_ends_with_no_signal_and_no_noise_are_finite_and_right(schedule, solver):
    net = Gaussian(schedule)
    out = solve(net, states(), grid(1, 0, 500), NONE, solver)
    torch.testing.assert_close(out, net.ode(states(), full(1.0), full(0.0)), rtol=0, atol=0.01)


def test_second_order_beats_first_at_the_same_number_of_passes(bent):
    net, truth = bent

    def error(solver, n):
        return (solve(net, states(), grid(1, 0, n), NONE, solver) - truth).abs().max().item()

    assert error("dpmpp_2m", 20) < error("ddim", 20) / 4 and error("heun", 10) < error("ddim", 20)


def test_network_passes():
    for solver, passes in (("ddim", 8), ("dpmpp_2m", 8), ("heun", 15), ("ancestral", 8)):
        net = Gaussian(SCHEDULES["rf"])
        solve(net, states(), grid(1, 0, 8), NONE, solver, rng=Rng(0))
        assert net.calls == passes


def test_every_sample_may_have_times_of_its_own():
    net, x = Gaussian(SCHEDULES["rf"]), states(3)
    t, u = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([0.4, 0.1, 0.0])
    for solver in ("ddim", "heun"):
        together = advance(net, x, t, u, NONE, solver)
        apart = [advance(net, x[k : k + 1], t[k : k + 1], u[k : k + 1], NONE, solver) for k in range(3)]
        torch.testing.assert_close(together, torch.cat(apart))


def test_path_is_its_steps_and_ends_in_solve():
    net, times = Gaussian(SCHEDULES["trig"]), [0.9, 0.6, 0.2, 0.0]
    trail = path(net, states(), times, NONE, "heun")
    assert len(trail) == 4 and torch.equal(trail[0], states())
    assert torch.equal(trail[-1], solve(net, states(), torch.tensor(times, dtype=torch.float64), NONE, "heun"))
    for k in range(3):
        assert torch.equal(trail[k + 1], advance(net, trail[k], full(times[k]), full(times[k + 1]), NONE, "heun"))


def test_dtype_is_kept():
    for solver in ("ddim", "heun", "dpmpp_2m", "ancestral"):
        out = solve(Gaussian(SCHEDULES["rf"]), states().float(), [1.0, 0.5, 0.0], NONE, solver, rng=Rng(0))
        assert out.dtype == torch.float32


# ancestral --------------------------------------------------------------------------------------------------------


@every_schedule
def test_ancestral_with_eta_zero_is_ddim(schedule):
    net, times = Gaussian(schedule), grid(0.9, 0.1, 4)
    out = solve(net, states(), times, NONE, "ancestral", rng=Rng(0), eta=0.0)
    torch.testing.assert_close(out, solve(net, states(), times, NONE), rtol=1e-10, atol=1e-10)


@every_schedule
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ancestral_keeps_the_exact_variance_of_one_point_of_data(schedule, eta):
    """x_t = alpha m + sigma e, x0 = m: the move is linear in (e, z); squared coefficients sum to sigma_u^2."""
    t, u, m = full(0.8, 1), full(0.5, 1), 0.7
    (a, s), (b, r) = schedule.alpha_sigma(t), schedule.alpha_sigma(u)

    def move(e, z):
        one = torch.ones(1, 1, 1, dtype=torch.float64)
        return ancestral(schedule, m * one, (a * m + s * e) * one, t, u, z * one, eta)

    base = move(0, 0)
    torch.testing.assert_close(base.flatten(), b * m, rtol=1e-10, atol=1e-12)
    total = (move(1, 0) - base) ** 2 + (move(0, 1) - base) ** 2
    torch.testing.assert_close(total.flatten(), r**2, rtol=1e-9, atol=1e-12)
    assert (move(0, 1) - base).abs().item() > 0


def test_full_ancestral_is_the_forward_kernel_inverted():
    """DDPM posterior on vp: variance beta_tilde = (1 - abar_u) / (1 - abar_t) (1 - abar_t / abar_u)."""
    schedule, t, u = SCHEDULES["vp_cosine"], full(0.8, 1), full(0.5, 1)
    zero, one = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    got = ancestral(schedule, zero, zero, t, u, one, 1.0) ** 2
    bar_t, bar_u = (schedule.alpha_sigma(v)[0] ** 2 for v in (t, u))
    torch.testing.assert_close(got.flatten(), (1 - bar_u) / (1 - bar_t) * (1 - bar_t / bar_u))


def test_ancestral_samples_the_gaussian():
    net = Gaussian(SCHEDULES["trig"])
    noise = Rng(0).normal("x", (20_000, 1, 1)).double()
    out = solve(net, noise, grid(1, 0, 400), NONE, "ancestral", rng=Rng(0))  # a first-order bias of 2 / N is left
    assert abs(out.mean().item() - net.m) < 0.01 and abs(out.std().item() - net.s) < 0.012


def test_ancestral_noise_is_named_by_step():
    net, times = Gaussian(SCHEDULES["rf"]), [1.0, 0.6, 0.0]
    trail = path(net, states(), times, NONE, "ancestral", rng=Rng(3))
    z = Rng(3).normal("z/1", states().shape, like=states())
    t, u = full(1.0), full(0.6)
    assert torch.equal(trail[1], ancestral(net.schedule, net.x0(states(), t, NONE), states(), t, u, z))


# mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda net: solve(net, states(), [0.5], NONE), "descending"),
        (lambda net: solve(net, states(), [0.5, 0.7], NONE), "descending"),
        (lambda net: solve(net, states(), [1.2, 0.7], NONE), "descending"),
        (lambda net: solve(net, states(), [1.0, 0.0], NONE, "ancestral"), "rng"),
        (lambda net: solve(net, states(), [1.0, 0.0], NONE, "rk9"), "unknown solver 'rk9'"),
        (lambda net: advance(net, states(), full(1.0), full(0.5), NONE, "ancestral"), "noise"),
        (lambda net: advance(net, states(), full(1.0), full(0.5), NONE, "rk9"), "unknown solver"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(wrong, said):
    with pytest.raises(UserError, match=f"^solver: .*{said}"):
        wrong(Gaussian(SCHEDULES["rf"]))
