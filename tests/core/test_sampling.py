"""Student samplers with an exact student: the consistency map of N(m, s^2), m + s / S_t (x - alpha_t m)."""

import pytest
import torch
from gaussian import NONE, RF, SCHEDULES, TIMES, Exact, M, S, close, every_schedule, noise

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.sampling import (
    Corrected,
    Deterministic,
    Gamma,
    Handover,
    OneStep,
    Renoise,
    Segments,
    continued,
    renoised,
    start,
)
from vdistill.core.schedule import Schedule, spread
from vdistill.core.solvers import advance, solve

SAMPLERS = {
    "one_step": OneStep(),
    "deterministic": Deterministic(),
    "renoise": Renoise(),
    "gamma": Gamma(0.3),
    "segments": Segments((0.25, 0.5, 0.75)),
    "handover": Handover(Exact(posterior=True), first=2, substeps=3),
    "corrected": Corrected(Exact(posterior=True), weight=0.2, first=2),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


# every sampler ----------------------------------------------------------------------------------------------------


@every_sampler
def test_the_same_place_gives_the_same_sample_in_the_shape_of_the_noise(sampler):
    z = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    one, two = (sampler(Exact(), z, NONE, Rng(7), TIMES) for _ in range(2))
    assert torch.equal(one, two) and one.shape == z.shape and one.dtype == z.dtype


@every_sampler
def test_with_one_time_every_sampler_is_one_step(sampler):
    if isinstance(sampler, Handover):
        sampler = Handover(sampler.teacher, first=0)
    if isinstance(sampler, Segments):
        sampler = Segments((1.0,))
    if isinstance(sampler, Corrected):
        sampler = Corrected(sampler.teacher, first=0)
    student = Exact()
    assert torch.equal(sampler(student, noise(), NONE, Rng(0), [1.0]), OneStep()(Exact(), noise(), NONE, Rng(0), TIMES))
    assert len(student.calls) == 1


@pytest.mark.parametrize("name", ["renoise", "gamma", "corrected", "handover"])
def test_stochastic_samplers_follow_their_rng(name):
    a, b = (SAMPLERS[name](Exact(), noise(), NONE, Rng(seed), TIMES) for seed in (0, 1))
    assert (a - b).abs().max() > 0.01


@pytest.mark.parametrize("name", ["one_step", "deterministic", "segments"])
def test_deterministic_samplers_do_not(name):
    a, b = (SAMPLERS[name](Exact(), noise(), NONE, Rng(seed), TIMES) for seed in (0, 1))
    assert torch.equal(a, b)


@every_sampler
@pytest.mark.parametrize("times", [[], [0.5, 0.75], [1.0, 0.0], [1.5, 0.5], [0.5, 0.5], [float("nan")]])
def test_impossible_times_are_refused_in_one_line(sampler, times):
    with pytest.raises(UserError, match="^times: student times must be descending"):
        sampler(Exact(), noise(), NONE, Rng(0), times)


def test_noise_is_the_start_itself_where_the_path_ends_in_noise():
    z = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    for name in ("rf", "trig", "vp_zero_snr"):
        assert torch.equal(start(SCHEDULES[name], z, 1.0), z)
    torch.testing.assert_close(start(SCHEDULES["edm"], z, 1.0), 80 * z, rtol=1e-4, atol=0)


# the moves --------------------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("times", [(1.0,), (1.0, 0.5), TIMES])
def test_renoising_with_the_exact_consistency_map_keeps_the_marginal(schedule, times):
    z = Rng(0).normal("noise", (40_000, 1, 1)).double()
    sample = Renoise()(Exact(schedule), z, NONE, Rng(0), times)
    assert abs(sample.mean().item() - M) < 0.01 and abs(sample.std().item() - S) < 0.008


def test_renoising_makes_the_state_out_of_the_named_draw():
    student = Exact()
    Renoise()(student, noise(), NONE, Rng(5), TIMES)
    x0 = Exact().x0(*student.calls[1], NONE)
    z = Rng(5).normal("z/2", x0.shape, like=x0)
    assert torch.equal(student.calls[2][0], RF.noise(x0, z, torch.full((6,), 0.5, dtype=torch.float64)))


@pytest.mark.parametrize("schedule", [s for s in SCHEDULES.values() if s.kind != "edm"], ids=lambda s: s.kind)
def test_deterministic_is_ddim_to_the_end(schedule):
    student, x = Exact(schedule, posterior=True), start(schedule, noise(), 1.0)
    close(Deterministic()(student, noise(), NONE, Rng(0), TIMES), solve(student, x, [*TIMES, 0.0], NONE))


def test_deterministic_with_the_exact_map_follows_the_closed_form():
    """One jump t -> u with the consistency map (not the posterior mean) on the rectified-flow path."""
    student = Exact()
    Deterministic()(student, noise(), NONE, Rng(0), TIMES)
    (x, t), (moved, _) = student.calls[:2]
    x0 = Exact().x0(x, t, NONE)
    close(moved, 0.25 * x0 + 0.75 * (x - 0 * x0) / 1.0)


@every_schedule
def test_gamma_zero_is_deterministic(schedule):
    a, b = (sampler(Exact(schedule), noise(), NONE, Rng(0), TIMES) for sampler in (Gamma(0.0), Deterministic()))
    close(a, b, 1e-9)


@every_schedule
def test_gamma_one_is_renoising(schedule):
    a, b = (sampler(Exact(schedule), noise(), NONE, Rng(0), TIMES) for sampler in (Gamma(1.0), Renoise()))
    close(a, b, 0.01 if schedule.kind == "edm" else 1e-9)  # edm never gets below sigma_min


@every_schedule
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_gamma_keeps_the_variance_of_one_point_of_data(schedule, gamma):
    """The move is linear in (eps of x_t, z): squared coefficients sum to sigma_u^2."""
    t, u = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    (a, s), (b, r) = schedule.alpha_sigma(t), schedule.alpha_sigma(u)
    one = torch.ones(1, 1, 1, dtype=torch.float64)

    def move(e, z):
        return Gamma(gamma).move(schedule, M * one, (a * M + s * e) * one, t, u, z * one)

    base = move(0, 0)
    close(base.flatten(), b * M)
    torch.testing.assert_close(((move(1, 0) - base) ** 2 + (move(0, 1) - base) ** 2).flatten(), r**2)


def test_segments_make_the_edges_steps():
    segments = Segments((0.0, 0.3, 0.6, 1.0))
    assert segments.steps((1.0, 0.5)) == (1.0, 0.6, 0.5, 0.3)
    assert segments.steps((0.5,)) == (0.5, 0.3)  # an edge above the start is behind us
    student = Exact()
    sample = segments(student, noise(), NONE, Rng(0), [1.0])
    assert [t[0].item() for _, t in student.calls] == [1.0, 0.6, 0.3]
    assert torch.equal(sample, Deterministic()(Exact(), noise(), NONE, Rng(0), (1.0, 0.6, 0.3)))


def test_segments_of_a_student_exact_to_its_edges_reach_the_end_of_the_ode():
    """DDIM-shaped jumps can be exact to one target per t; here to the next edge, so their product is S_0 / S_1."""

    class ToEdge(Exact):
        def x0(self, x, t, cond, *, attend=None):
            u = t - 0.25
            (a, s), (b, r) = ([spread(v, x) for v in RF.alpha_sigma(w)] for w in (t, u))
            before, after = ((al**2 * S**2 + si**2).sqrt() for al, si in ((a, s), (b, r)))
            end = b * M + after / before * (x - a * M)
            return (end - r / s * x) / (b - r / s * a)

    sample = Segments((0.25, 0.5, 0.75))(ToEdge(), noise(), NONE, Rng(0), [1.0])
    close(sample, M + S * noise())


# teacher and student together -------------------------------------------------------------------------------------


def test_handover_to_the_same_network_changes_nothing():
    plain = Deterministic()(Exact(), noise(), NONE, Rng(0), TIMES)
    for first in range(4):
        handed = Handover(Exact(), first=first, then=continued)(Exact(), noise(), NONE, Rng(0), TIMES)
        assert torch.equal(handed, plain)


def test_the_student_starts_where_the_teacher_stops():
    teacher, student = Exact(posterior=True), Exact()
    Handover(teacher, first=2, substeps=4, solver="heun")(student, noise(), NONE, Rng(0), TIMES)
    grid = [1.0, 0.9375, 0.875, 0.8125, 0.75, 0.6875, 0.625, 0.5625, 0.5]
    close(student.calls[0][0], solve(Exact(posterior=True), noise(), grid, NONE, "heun"))
    assert [t[0].item() for _, t in student.calls] == [0.5, 0.25]


@pytest.mark.parametrize("wrong", [{"first": 4}, {"first": -1}, {"substeps": 0}])
def test_a_teacher_cannot_take_more_than_all_but_one_step(wrong):
    with pytest.raises(UserError, match=r"^sampling\.handover: the teacher can take 0 to 3 of 4 steps"):
        Handover(Exact(), **wrong)(Exact(), noise(), NONE, Rng(0), TIMES)


def test_a_teacher_on_another_path_cannot_hand_over():
    with pytest.raises(UserError, match="one path"):
        Handover(Exact(SCHEDULES["trig"]))(Exact(), noise(), NONE, Rng(0), TIMES)
    Handover(Exact(Schedule("rf", shift=5.0)))(Exact(), noise(), NONE, Rng(0), TIMES)  # shift is about grids only


def test_correction_of_weight_zero_is_no_correction_and_no_pass():
    teacher = Exact(posterior=True)
    corrected = Corrected(teacher, weight=0.0, first=4)(Exact(), noise(), NONE, Rng(0), TIMES)
    assert torch.equal(corrected, Renoise()(Exact(), noise(), NONE, Rng(0), TIMES)) and not teacher.calls


@every_schedule
def test_correction_is_its_closed_form_on_the_gaussian(schedule):
    """delta = x0 - m becomes (1 - w sigma^2 / S^2) delta + w (alpha s^2 sigma / S^2) eps."""
    w, level, biased = 0.3, 0.6, Exact(schedule, m=M + 0.4)
    student_x0 = OneStep()(biased, noise(), NONE, Rng(2), [1.0])
    sampler = Corrected(Exact(schedule, posterior=True), weight=w, level=level)
    got = sampler(biased, noise(), NONE, Rng(2), [1.0])
    alpha, sigma = (v.item() for v in schedule.alpha_sigma(torch.tensor(level, dtype=torch.float64)))
    total = alpha**2 * S**2 + sigma**2
    eps = Rng(2).normal("c/0", student_x0.shape, like=student_x0)
    wanted = (1 - w * sigma**2 / total) * (student_x0 - M) + w * alpha * S**2 * sigma / total * eps
    close(got - M, wanted)


def test_correction_acts_in_the_first_steps_only():
    teacher = Exact(posterior=True)
    Corrected(teacher, weight=0.5, first=2)(Exact(), noise(), NONE, Rng(0), TIMES)
    assert len(teacher.calls) == 2


def test_moves_with_the_truth_reach_the_path():
    x0, eps, z = (Rng(k).normal("x", (2, 3, 4)).double() for k in range(3))
    t, u = torch.tensor([0.9, 0.6]), torch.tensor([0.5, 0.1])
    close(continued(RF, x0, RF.noise(x0, eps, t), t, u, z), RF.noise(x0, eps, u))
    close(renoised(RF, x0, RF.noise(x0, eps, t), t, u, z), RF.noise(x0, z, u))
    student = Exact(posterior=True)
    x = RF.noise(x0, eps, t)
    close(continued(RF, student.x0(x, t, NONE), x, t, u, z), advance(student, x, t, u, NONE))


def test_gamma_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"^sampling\.gamma: "):
        Gamma(1.5)
