"""Every conversion between paths and predictions is exact algebra (class T0: 1e-10 in float64)."""

import pytest
import torch

from vdistill.core.schedule import Schedule, spread

SCHEDULES = {
    "rf": Schedule("rf"),
    "rf_shift": Schedule("rf", shift=5.0),
    "vp": Schedule("vp"),
    "vp_linear": Schedule("vp", betas="linear", beta_start=1e-4, beta_end=0.02),
    "vp_cosine": Schedule("vp", betas="cosine"),
    "vp_zero_snr": Schedule("vp", zero_snr=True),
    "edm": Schedule("edm"),
    "trig": Schedule("trig"),
}
TIMES = torch.tensor([0.011, 0.25, 0.5, 0.9137], dtype=torch.float64)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def point(schedule: Schedule, times: torch.Tensor = TIMES) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, len(times), 3, 4, 2, dtype=torch.float64, generator=generator).unbind(0)
    return x0, eps, schedule.noise(x0, eps, times)


@every_schedule
@pytest.mark.parametrize("predicts", ["x0", "eps", "v", "flow"])
def test_prediction_and_x0_are_inverse(schedule, predicts):
    x0, eps, xt = point(schedule)
    said = schedule.prediction(x0, xt, TIMES, predicts)
    torch.testing.assert_close(schedule.x0(said, xt, TIMES, predicts), x0, rtol=0, atol=1e-10)


@every_schedule
def test_predictions_are_what_their_names_say(schedule):
    x0, eps, xt = point(schedule)
    alpha, sigma = (spread(v, x0) for v in schedule.alpha_sigma(TIMES))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(schedule.prediction(x0, xt, TIMES, "eps"), eps, **close)
    torch.testing.assert_close(schedule.prediction(x0, xt, TIMES, "v"), alpha * eps - sigma * x0, **close)
    torch.testing.assert_close(schedule.prediction(x0, xt, TIMES, "flow"), eps - x0, **close)
    torch.testing.assert_close(schedule.score(x0, xt, TIMES), -eps / sigma, **close)


@every_schedule
def test_float32_round_trip(schedule):
    x0, eps, _ = (v.float() for v in point(schedule))
    xt = schedule.noise(x0, eps, TIMES)
    assert xt.dtype == torch.float32
    back = schedule.x0(schedule.prediction(x0, xt, TIMES, "flow"), xt, TIMES, "flow")
    torch.testing.assert_close(back, x0, rtol=1e-5, atol=1e-4)


def test_v_says_x0_where_alpha_is_zero_and_eps_does_not():
    schedule, one = SCHEDULES["vp_zero_snr"], torch.ones(2)
    x0, eps, xt = point(schedule, one)
    alpha, sigma = schedule.alpha_sigma(one)
    assert (alpha == 0).all() and (sigma == 1).all()
    assert torch.equal(xt, eps)
    assert torch.equal(schedule.x0(-x0, xt, one, "v"), x0)
    assert not schedule.x0(eps + 1, xt, one, "eps").isfinite().any()


def test_zero_terminal_snr_leaves_the_first_step_alone():
    """Lin et al. 2023, algorithm 1: the square roots of alpha_bar are shifted and scaled, the first one kept."""
    first, all_times = torch.tensor(1 / 1000, dtype=torch.float64), torch.linspace(0.001, 1, 1000, dtype=torch.float64)
    (fixed, _), (plain, _) = (SCHEDULES[name].alpha_sigma(first) for name in ("vp_zero_snr", "vp"))
    assert float(fixed) == pytest.approx(float(plain), abs=1e-12)
    fixed, plain = (SCHEDULES[name].alpha_sigma(all_times)[0] for name in ("vp_zero_snr", "vp"))
    ratio = fixed[:-1] / (plain[:-1] - plain[-1])
    torch.testing.assert_close(ratio, ratio[0].expand(999), rtol=1e-9, atol=0)


def test_stable_diffusion_ends_at_its_known_noise_level():
    alpha, sigma = SCHEDULES["vp"].alpha_sigma(torch.ones(()))
    assert abs(float(sigma / alpha) - 14.6146) < 1e-3
    alpha, sigma = SCHEDULES["vp"].alpha_sigma(torch.tensor(1 / 1000))
    assert abs(float(sigma / alpha) - 0.0292) < 1e-4


@every_schedule
def test_ends_and_monotony(schedule):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    assert ((sigma / alpha).diff() > 0).all()
    assert alpha[0] == 1 and sigma[0] == pytest.approx(schedule.sigma_min if schedule.kind == "edm" else 0)
    if schedule.kind in ("vp", "trig"):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))


@every_schedule
def test_time_at_inverts_the_path(schedule):
    alpha, sigma = schedule.alpha_sigma(TIMES)
    torch.testing.assert_close(schedule.time_at((sigma / alpha).log()), TIMES, rtol=0, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("other", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_match_is_the_same_point_on_the_other_path(schedule, other):
    times = TIMES[1:3]  # inside what every path reaches
    x0, eps, xt = point(schedule, times)
    moved, u = schedule.match(xt, times, other)
    alpha, sigma = schedule.alpha_sigma(times)
    beta, rho = other.alpha_sigma(u)
    torch.testing.assert_close(rho / beta, sigma / alpha, rtol=1e-9, atol=0)
    scale = spread(torch.hypot(beta, rho) / torch.hypot(alpha, sigma), x0)
    torch.testing.assert_close(moved, scale * xt)
    if other.kind == schedule.kind == "rf" or (schedule.kind, other.kind) in {("vp", "trig"), ("trig", "vp")}:
        torch.testing.assert_close(moved, other.noise(x0, eps, u), rtol=1e-9, atol=1e-9)
    back, t = other.match(moved, u, schedule)
    torch.testing.assert_close(back, xt, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(t, times, rtol=0, atol=1e-9)


def test_matched_rectified_flow_is_noise_on_vp():
    rf, vp = SCHEDULES["rf"], SCHEDULES["vp"]
    x0, eps, xt = point(rf)
    moved, u = rf.match(xt, TIMES, vp)
    torch.testing.assert_close(moved, vp.noise(x0, eps, u), rtol=1e-9, atol=1e-9)


@every_schedule
def test_step_with_the_truth_stays_on_the_line(schedule):
    x0, eps, xt = point(schedule)
    u = TIMES / 3
    torch.testing.assert_close(schedule.step(x0, xt, TIMES, u), schedule.noise(x0, eps, u), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.step(x0, xt, TIMES, TIMES), xt, rtol=1e-12, atol=1e-12)


def test_flow_is_the_time_derivative_on_rectified_flow():
    schedule, step = SCHEDULES["rf"], 1e-3
    x0, eps, xt = point(schedule)
    slope = (schedule.noise(x0, eps, TIMES + step) - schedule.noise(x0, eps, TIMES - step)) / (2 * step)
    torch.testing.assert_close(slope, schedule.prediction(x0, xt, TIMES, "flow"), rtol=1e-9, atol=1e-9)


@every_schedule
def test_times_per_position_are_times_per_sample_position_by_position(schedule):
    times = TIMES.view(1, 4).repeat(2, 1)  # [B, T]
    x0, eps = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).unbind(0)
    whole = schedule.noise(x0, eps, times)
    for k in range(4):
        torch.testing.assert_close(whole[:, :, k], schedule.noise(x0[:, :, k], eps[:, :, k], times[:, k]))


def test_spread_refuses_what_fits_nowhere():
    with pytest.raises(ValueError, match=r"\[B\] or \[B, T\]"):
        spread(torch.zeros(3), torch.zeros(2, 3, 4))


def test_warp_keeps_ends_and_its_inverse_is_one_over_the_shift():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(Schedule(shift=0.2).warp(Schedule(shift=5.0).warp(t)), t)
    torch.testing.assert_close(Schedule(shift=6.0).warp(t), Schedule(shift=2.0).warp(Schedule(shift=3.0).warp(t)))
    assert float(Schedule(shift=5.0).warp(torch.tensor(0.5))) == pytest.approx(2.5 / 3)
    assert torch.equal(Schedule().warp(t), t)


def test_grid_runs_from_one_to_zero():
    grid = Schedule(shift=3.0).grid(4)
    assert grid.dtype == torch.float64 and grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()
    torch.testing.assert_close(grid[1:4], torch.tensor([0.9, 0.75, 0.5], dtype=torch.float64))
