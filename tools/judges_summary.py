"""What vdistill eval found of students with and without a judge, side by side, and which judge is best.

python tools/judges_summary.py OUT     reads OUT/NAME/eval.json of every NAME, one of them none; writes OUT/summary.json

Keys: rows, each with name, accuracy, diversity (effective outcomes of an open caption), frechet, motion_energy,
flicker, seconds_a_step (median of the run's speed.jsonl), peak_gib, and diversity_gain, frechet_gain: shares of none's;
best_judge: of those no less accurate than none, the one of the largest diversity_gain; null where there is none;
passed: whether it gains 0.10 in diversity or 0.20 in frechet.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

BASE = "none"


def row_of(run: Path) -> dict[str, Any]:
    """What was measured of one run."""
    found = json.loads((run / "eval.json").read_text())
    row = {"name": run.name} | {k: found[k] for k in ("accuracy", "frechet", "motion_energy", "flicker")}
    row["diversity"] = found["diversity/effective"]
    speed = run / "speed.jsonl"
    steps = [json.loads(line) for line in speed.read_text().splitlines()] if speed.exists() else []
    row["seconds_a_step"] = statistics.median(s["seconds"] for s in steps) if steps else None
    row["peak_gib"] = max(s["peak_gib"] for s in steps) if steps else None
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows with their gains over `none`, and the best judge."""
    base = next(row for row in rows if row["name"] == BASE)
    for row in rows:
        row["diversity_gain"] = row["diversity"] / base["diversity"] - 1 if base["diversity"] else None
        row["frechet_gain"] = 1 - row["frechet"] / base["frechet"] if base["frechet"] else None
    able = [row for row in rows if row["name"] != BASE and row["accuracy"] >= base["accuracy"]]
    best = max(able, key=lambda row: row["diversity_gain"] or 0.0, default=None)
    passed = best is not None and ((best["diversity_gain"] or 0) >= 0.10 or (best["frechet_gain"] or 0) >= 0.20)
    return {"rows": rows, "best_judge": best["name"] if best else None, "passed": passed}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", help="folder of the runs")
    out = Path(parser.parse_args().out)
    found = summary([row_of(path.parent) for path in sorted(out.glob("*/eval.json"))])
    (out / "summary.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
