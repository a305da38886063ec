"""A small network on three Gaussians: every row of tools/bench_methods.py within the calibrated gates."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_methods.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_methods", TOOL)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least_std"), [("lcm", 0.25), ("dmd2", 0.25), ("dmd2_gan", 0.25), ("dmd2_four_gan", 0.2)]
)
def test_few_steps_make_the_mixture(bench: ModuleType, name: str, least_std: float) -> None:
    """A pass of the network they begin as is at SW2 1.0 and mode TV 0.2.

    Of four steps the last is narrow (0.25 for 0.35) and the first wide: one critic sees only their mixture.
    """
    for row in bench.ROWS[name]():
        assert row.sw2 < 0.25 and row.mode_tv < 0.04 and all(least_std < std < 0.60 for std in row.stds), row


@pytest.mark.slow
def test_a_small_network_learns_the_mixture(bench: ModuleType) -> None:
    learned = bench.ROWS["flow"]()[0]
    assert learned.sw2 < 0.25 and learned.mode_tv < 0.04 and all(0.30 < std < 0.42 for std in learned.stds), learned


@pytest.mark.slow
def test_one_guided_pass_samples_as_the_teacher_with_two(bench: ModuleType) -> None:
    teacher, student = bench.ROWS["guidance"]()
    assert student.passes == teacher.passes / 2
    assert student.sw2 < teacher.sw2 + 0.05 and student.mode_tv == 0
    assert all(0.25 < std < 0.32 for std in student.stds), student


def test_true_samples_and_the_exact_teacher_set_the_floor(bench: ModuleType) -> None:
    floor, fine, coarse, one = bench.ROWS["truth"]()
    assert floor.sw2 < 0.2 and floor.mode_tv < 0.02 and fine.sw2 < 0.2
    assert fine.sw2 < coarse.sw2 < 0.6 and one.sw2 > 1.2 and one.mode_tv > 0.4
