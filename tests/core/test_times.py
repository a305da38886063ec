"""Laws of t against their closed-form distribution functions (largest distance over 40 000 draws < 0.012)."""

import math

import pytest
import torch

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.times import Grid, LogitNormal, Mixture, Segments, Shifted, Uniform, UShape

LIKE, N = torch.zeros(1), 40_000


def logit_cdf(mean: float, std: float):
    return lambda t: (1 + torch.erf((torch.logit(t) - mean) / (std * math.sqrt(2)))) / 2


LAWS = {
    "uniform": (Uniform(), lambda t: t),
    "uniform_part": (Uniform(0.02, 0.98), lambda t: (t - 0.02) / 0.96),
    "logit_normal": (LogitNormal(0.3, 1.2), logit_cdf(0.3, 1.2)),
    "shifted": (Shifted(Uniform(), Schedule(shift=5.0)), lambda t: Schedule(shift=0.2).warp(t)),
    "segments": (Segments((0.0, 0.1, 1.0)), lambda t: torch.where(t < 0.1, 5 * t, 0.5 + (t - 0.1) / 1.8)),
    "mixture": (
        Mixture((Uniform(0, 0.5), Uniform(0.5, 1)), (3.0, 1.0)),
        lambda t: torch.where(t < 0.5, 1.5 * t, 0.75 + (t - 0.5) / 2),
    ),
    "u_shape_mild": (UShape(1.0), lambda t: (torch.sinh(2 * t - 1) / math.sinh(1) + 1) / 2),
    "u_shape": (UShape(4.0), lambda t: (torch.sinh(4 * (2 * t - 1)) / math.sinh(4) + 1) / 2),
}


@pytest.mark.parametrize(("law", "cdf"), LAWS.values(), ids=LAWS.keys())
def test_law_has_its_closed_form_distribution(law, cdf):
    t = law(Rng(0), N, LIKE).sort().values
    assert t.dtype == torch.float64 and t.shape == (N,) and 0 <= t[0] and t[-1] <= 1
    assert (cdf(t) - torch.arange(N) / N).abs().max() < 0.012


@pytest.mark.parametrize("law", [*(law for law, _ in LAWS.values()), Grid((1.0, 0.5))])
def test_draws_are_named(law):
    a, b = law(Rng(0), 8, LIKE), law(Rng(0), 8, LIKE)
    assert torch.equal(a, b)
    assert not torch.equal(a, law(Rng(0), 8, LIKE, name="u")) and not torch.equal(a, law(Rng(1), 8, LIKE))


def test_grid_draws_its_times_alike():
    t = Grid((1.0, 0.75, 0.25))(Rng(0), 30_000, LIKE)
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [0.25, 0.75, 1.0] and counts.min() > 9_600


def test_shift_of_a_law_is_the_warp_of_its_draws():
    schedule = Schedule(shift=3.0)
    assert torch.equal(
        Shifted(LogitNormal(), schedule)(Rng(0), 50, LIKE), schedule.warp(LogitNormal()(Rng(0), 50, LIKE))
    )


def test_shift_of_one_changes_nothing():
    assert torch.equal(Shifted(Uniform(), Schedule())(Rng(0), 50, LIKE), Uniform()(Rng(0), 50, LIKE))


def test_a_part_of_weight_zero_is_never_drawn():
    t = Mixture((Grid((0.1,)), Grid((0.2,)), Grid((0.3,))), (1.0, 0.0, 1.0))(Rng(0), 5_000, LIKE)
    assert t.unique().tolist() == [0.1, 0.3]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Uniform(0.9, 0.1),
        lambda: Uniform(0, 1.5),
        lambda: Grid(()),
        lambda: Grid((0.5, 2.0)),
        lambda: Segments((0.5,)),
        lambda: Segments((0.5, 0.5)),
        lambda: Mixture(()),
        lambda: Mixture((Uniform(),), (0.0,)),
        lambda: Mixture((Uniform(),), (1.0, 1.0)),
        lambda: UShape(0),
    ],
)
def test_impossible_laws_are_refused_in_one_line(wrong):
    with pytest.raises(UserError, match="^times"):
        wrong()
