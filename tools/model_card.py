"""Put what was measured into a shipped model's card: python tools/model_card.py RUN FOLDER

RUN holds config.yaml and speed.jsonl (written by `vdistill train`) and eval.json (written by `vdistill eval --json`, of
a causal student with --seconds); FOLDER is the exported pipeline whose README.md gets the section. Run again, it
replaces the section.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdistill.app import config as configs
from vdistill.app.demos import machine

HEAD = "## Data, cost and measured quality"
SHOWN = ("accuracy", "colour", "shape", "motion", "seen", "frechet", "flicker", "diversity/distinct")
ENDS = ("accuracy_first_5s", "accuracy_last_5s", "kept")


def section(run: Path) -> str:
    """The card's section."""
    rows = [json.loads(line) for line in (run / "speed.jsonl").read_text().splitlines()]
    last = {row["step"]: row for row in rows}  # a resumed step counts once
    hours = sum(row["seconds"] for row in last.values()) / 3600
    samples = sum(row["seconds"] * row["samples_per_s"] for row in last.values())
    config = configs.load(run / "config.yaml")
    data: Any = config.data
    precision = "float32" if config.train.precision == "no" else config.train.precision
    found = json.loads((run / "eval.json").read_text())
    lines = [
        HEAD, "",
        f"Data: the procedural `shapes` world of this package, one thing a clip, {data.frames} frames of 32 x 32 "
        f"pixels, captions that leave each attribute out with probability {data.open}; no clip twice; one "
        "colour-shape-motion triple in eight is held out.", "",
        f"Trained: {max(last)} steps, {samples / 1000:.0f} thousand clips, {hours:.1f} hours of one thread of "
        f"{machine().split(',')[0]}, {precision}.", "",
        *(streamed(found) if "windows" in found else sampled(found)), "",
    ]  # fmt: skip
    return "\n".join(lines)


def sampled(found: Mapping[str, Any]) -> list[str]:
    """Of a teacher's clips."""
    return [
        f"Measured on {found['clips']} clips of held-out captions, {found['passes']:.0f} network passes each "
        "(50 steps, guidance 2), from their pixels:", "",
        "| measure | value |", "|---|---|",
        *(f"| {key} | {found[key]:.3f} |" for key in SHOWN if key in found),
    ]  # fmt: skip


def streamed(found: Mapping[str, Any]) -> list[str]:
    """Of a causal student's streams."""
    last = found["windows"][-1]
    return [
        f"Measured on {found['clips']} streams of held-out captions, {last['second'] + 2:.0f} s each, two seconds at a "
        "time, from their pixels:", "",
        "| measure | value |", "|---|---|",
        *(f"| {key} | {found[key]:.3f} |" for key in ENDS),
        *(f"| {key}, last two seconds | {last[key]:.3f} |" for key in ("colour", "shape", "motion", "identity")),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    card = args.folder / "README.md"
    text = card.read_text().split(HEAD)[0].rstrip()
    card.write_text(f"{text}\n\n{section(args.run)}")


if __name__ == "__main__":
    main()
