"""What vdistill eval found of students with and without a judge, side by side, and which judge is best.

python tools/judges_summary.py OUT     reads OUT/NAME/eval.json of every NAME, one of them none; writes OUT/summary.json

Keys: rows, each with name, accuracy, diversity (effective outcomes of an open caption) and distinct (those
counted), frechet, motion_energy, flicker, seconds_a_step (median of the run's speed.jsonl), peak_gib, diversity_ratio
(to the teacher's where OUT/teacher50 was measured, else to none's: diversity_of says which), and diversity_gain (of
that ratio) and frechet_gain (a share of none's) over none; start and teacher50, where measured: rows of the student
all began as, and of the teacher. mixture: rows of OUT/mixture.json,
with coverage, the share of its modes that samples fall into. best_judge: of those no less accurate than none, the one
of the largest diversity_gain, or of frechet_gain where those are equal; null where there is none. passed: whether it
gains 0.10 in diversity or 0.20 in frechet.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

BASE, ASIDE = "none", ("start", "teacher50")
Row = dict[str, Any]


def row_of(run: Path) -> Row:
    """What was measured of one run."""
    found = json.loads((run / "eval.json").read_text())
    row = {"name": run.name} | {k: found[k] for k in ("accuracy", "frechet", "motion_energy", "flicker")}
    row["diversity"], row["distinct"] = found["diversity/effective"], found.get("diversity/distinct")
    speed = run / "speed.jsonl"
    steps = [json.loads(line) for line in speed.read_text().splitlines()] if speed.exists() else []
    row["seconds_a_step"] = statistics.median(s["seconds"] for s in steps) if steps else None
    row["peak_gib"] = max(s["peak_gib"] for s in steps) if steps else None
    return row


def summary(found: list[Row]) -> dict[str, Any]:
    """Rows with their gains over `none`, and the best judge."""
    rows = [row for row in found if row["name"] not in ASIDE]
    aside = {row["name"]: row for row in found if row["name"] in ASIDE}
    base = next(row for row in rows if row["name"] == BASE)
    of = aside.get("teacher50", base)
    for row in [*rows, *aside.values()]:
        row["diversity_ratio"] = row["diversity"] / of["diversity"] if of["diversity"] else None
    for row in rows:
        known = row["diversity_ratio"] is not None
        row["diversity_gain"] = row["diversity_ratio"] - base["diversity_ratio"] if known else None
        row["frechet_gain"] = 1 - row["frechet"] / base["frechet"] if base["frechet"] else None
    able = [row for row in rows if row["name"] != BASE and row["accuracy"] >= base["accuracy"]]
    best = max(able, key=lambda row: (row["diversity_gain"] or 0.0, row["frechet_gain"] or 0.0), default=None)
    told = {"rows": rows, "best_judge": best["name"] if best else None, "passed": any(map(passes, able)), **aside}
    return told | {"diversity_of": "teacher" if of is not base else BASE}


def passes(row: Row) -> bool:
    """Whether it gains what was asked for."""
    return (row["diversity_gain"] or 0) >= 0.10 or (row["frechet_gain"] or 0) >= 0.20


def mixture(path: Path) -> list[Row]:
    """Rows of the bench of exact laws, each with the share of the modes that its samples fall into."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["rows"]
    return [row | {"coverage": sum(std is not None for std in row["stds"]) / len(row["stds"])} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", help="folder of the runs")
    out = Path(parser.parse_args().out)
    found = summary([row_of(path.parent) for path in sorted(out.glob("*/eval.json"))])
    found["mixture"] = mixture(out / "mixture.json")
    (out / "summary.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
