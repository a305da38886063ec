"""Trainings by two processes, as torchrun starts them, against the same by one.

Starting processes takes longer than a toy's training, so those of a file share one start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vdistill.app.schema import Config
from vdistill.app.train import train

ROOT = Path(__file__).resolve().parents[1]
Job = tuple[Config, Path]
"""What to train, and where. The same folder twice goes on."""


def by_one(jobs: Sequence[Job]) -> None:
    """Here, each batch in two parts."""
    for config, out in jobs:
        train(_in_parts(config, 2), out)


def by_two(jobs: Sequence[Job]) -> None:
    """By two processes, each with its half of the batch, one job after the other."""
    told = json.dumps([(_in_parts(config, 1).model_dump(mode="json"), str(out)) for config, out in jobs])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    env = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), "TRAININGS": told}
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def losses(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_losses(one: Path, two: Path, tolerance: float = 1e-7) -> None:
    """tolerance: absolute, beside 2e-4 of the value."""
    rows = losses(one)
    assert rows
    for a, b in zip(rows, losses(two), strict=True):
        assert a.keys() == b.keys()
        assert all(a[k] == pytest.approx(b[k], rel=2e-4, abs=tolerance) for k in a), (a, b)


def _in_parts(config: Config, parts: int) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"micro": parts})})


if __name__ == "__main__":
    for config, out in json.loads(os.environ["TRAININGS"]):
        train(Config.model_validate(config), Path(out))
