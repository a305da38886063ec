"""The table of judges: gains against none, and which judge may be called best."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUND = {
    "none": {"accuracy": 0.90, "frechet": 4.0, "diversity/effective": 10.0},
    "latent": {"accuracy": 0.91, "frechet": 3.0, "diversity/effective": 11.5},
    "motion": {"accuracy": 0.90, "frechet": 5.0, "diversity/effective": 10.0},
    "teacher": {"accuracy": 0.80, "frechet": 1.0, "diversity/effective": 20.0},
}


def test_the_best_judge_costs_no_accuracy_and_gains_most_diversity(tmp_path: Path) -> None:
    for name, found in FOUND.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(json.dumps(found | {"motion_energy": 1.0, "flicker": 0.1}))
    (tmp_path / "none" / "speed.jsonl").write_text('{"seconds": 2.0, "peak_gib": 1.5}\n{"seconds": 4, "peak_gib": 1}\n')
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "judges_summary.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads((tmp_path / "summary.json").read_text())
    rows = {row["name"]: row for row in said["rows"]}
    assert said["best_judge"] == "latent" and said["passed"] is True
    assert rows["latent"]["diversity_gain"] == pytest.approx(0.15) and rows["latent"]["frechet_gain"] == pytest.approx(
        0.25
    )
    assert (
        rows["none"]["diversity_gain"] == 0 and rows["none"]["seconds_a_step"] == 3 and rows["none"]["peak_gib"] == 1.5
    )
