"""Variety is counted exactly, and failures are not variety."""

import math

import pytest

from vdistill.eval.diversity import diversity


def test_uniform_outcomes_reach_the_maximum() -> None:
    found = diversity([(c, s) for c in "abc" for s in "xy"] * 5)
    assert (found.samples, found.recognised, found.distinct) == (30, 30, 6)
    assert found.entropy == pytest.approx(math.log(6)) and found.effective == pytest.approx(6)


def test_one_outcome_has_no_entropy() -> None:
    found = diversity(["same"] * 7)
    assert found.distinct == 1 and found.entropy == 0 and found.effective == 1


def test_unrecognised_samples_are_counted_but_are_no_variety() -> None:
    found = diversity(["a", None, "b", None])
    assert (found.samples, found.recognised, found.distinct) == (4, 2, 2) and found.effective == pytest.approx(2)
    nothing = diversity([None, None])
    assert (nothing.distinct, nothing.entropy, nothing.effective) == (0, 0, 0) and diversity([]).samples == 0


def test_entropy_of_a_known_distribution() -> None:
    assert diversity("aaab").entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
