"""The table of judges: gains against none, and which judge may be called best; the page that shows them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

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


def test_ratios_are_the_teachers_where_it_was_measured(tmp_path: Path) -> None:
    before, whole = (FOUND["none"] | {"diversity/effective": n} for n in (8.0, 20.0))
    for name, found in {**FOUND, "start": before, "teacher50": whole}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(json.dumps(found | {"motion_energy": 1.0, "flicker": 0.1}))
    mixture = {"name": "dmd2", "stds": [0.3, None, 0.4, 0.3], "updates": 1}
    (tmp_path / "mixture.json").write_text(json.dumps({"rows": [mixture]}))
    judges = tool("judges_summary")
    said = judges.summary([judges.row_of(path.parent) for path in sorted(tmp_path.glob("*/eval.json"))])
    rows = {row["name"]: row for row in said["rows"]}
    assert said["diversity_of"] == "teacher" and {*rows} == {*FOUND}
    assert [rows[n]["diversity_ratio"] for n in ("none", "latent")] == pytest.approx([0.5, 0.575])
    assert rows["latent"]["diversity_gain"] == pytest.approx(0.075)
    assert said["start"]["diversity_ratio"] == pytest.approx(0.4) and said["teacher50"]["diversity_ratio"] == 1
    assert judges.mixture(tmp_path / "mixture.json")[0]["coverage"] == 0.75


def test_the_page_shows_every_judge_beside_none() -> None:
    page, judges = tool("judges_page"), tool("judges_summary")
    measured = {"motion_energy": 1.0, "flicker": 0.1, "distinct": None, "seconds_a_step": None, "peak_gib": 1.5}
    rows = [
        {"name": name, "diversity": found["diversity/effective"], **measured}
        | {key: found[key] for key in ("accuracy", "frechet")}
        for name, found in FOUND.items()
    ]
    told = page.table(judges.summary(rows))
    assert all(f">{name}</th>" in told for name in FOUND) and "<td>+0.15</td>" in told and "<td>91%</td>" in told


def tool(name: str) -> ModuleType:
    """A tool of the repository as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
