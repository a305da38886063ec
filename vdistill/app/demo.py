"""`vdistill demo`: distil the shipped teacher on this machine, measure both, and write the report page."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from .demos import TEACHER, distil, facts, interrupted, machine, recipe
from .evaluate import OPEN_CLIPS, Exam, exam, examine
from .generate import Plan, Sampled
from .lock import as_folder
from .models import finite, open_model
from .report import Report as Page
from .report import Sampler, write_report
from .schema import Config
from .train import CONFIG, peak_gib, say

SAME_COST = {  # name -> (plan, whether at the student's times and with its sampler)
    "2 steps with guidance": (Plan(steps=2, guidance=2.0), False),
    "4 steps without guidance": (Plan(steps=4), False),
    "the student's 4 steps": (Plan(), True),
}
CLIPS, SHOWN = 96, 8


def run(args: argparse.Namespace) -> int:
    """0 when the report is written; 130 after Ctrl-C, and the same command goes on."""
    for option in ("teacher", "students"):
        if getattr(args, option) is not None and args.what != "talk":
            raise UserError("belongs to vdistill demo talk", f"--{option}", "leave it out")
    if args.what == "stream":
        from .demo_stream import run as run_stream

        return run_stream(args)
    if args.what == "talk":
        from .demo_talk import run as run_talk

        return run_talk(args)
    for name in ("seconds", "clips"):
        if getattr(args, name) is not None:
            raise UserError("belongs to vdistill demo stream and talk", f"--{name}", "leave it out")
    begun, out = time.perf_counter(), Path(args.out or "runs/demo")
    as_folder(out)
    finite(args.minutes, 0.001, "--minutes")
    config = recipe("demo.yaml", args.seed)
    engine = distil(config, out / "run", args.minutes)
    if interrupted(engine):
        return 130
    say("measuring the student and the teacher")
    rows = measure(out / "run", exam(CLIPS))
    summary = summarise(rows) | {"wall_s": time.perf_counter() - begun, "peak_rss_gib": peak_gib(torch.device("cpu"))}
    summary |= {"machine": machine(), "method": config.method.name, "steps": engine.step, "seed": args.seed}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    write_report(out / "report.html", page(rows, out, config, summary))
    print(json.dumps(summary) if args.json else out / "report.html")
    return 0


Row = tuple[str, dict[str, float], Sampled]


def measure(run_folder: Path, paper: Exam) -> list[Row]:
    """(name, scores, clips): teacher at full cost, teacher at the student's cost (best of three ways), student."""
    teacher, student = open_model("shapes"), open_model(str(run_folder))
    cheap = []
    for name, (plan, own_times) in SAME_COST.items():
        times = student.times if own_times else None
        cheap.append((f"Teacher, {name}", *examine(teacher, paper, plan, times=times, with_diversity=False)))
    best = max(cheap, key=lambda row: row[1]["accuracy"])
    full = ("Teacher, 50 steps with guidance", *examine(teacher, paper, TEACHER))
    return [full, best, ("Student, 4 steps", *examine(student, paper, Plan()))]


def summarise(rows: list[Row]) -> dict[str, Any]:
    """The numbers the demo stands for."""
    (_, teacher, _), (_, cheap, _), (_, student, _) = rows
    gap = teacher["accuracy"] - cheap["accuracy"]
    return {
        "teacher_accuracy": teacher["accuracy"],
        "student_accuracy": student["accuracy"],
        "teacher_same_cost_accuracy": cheap["accuracy"],
        "accuracy_ratio": student["accuracy"] / max(teacher["accuracy"], 1e-9),
        "gap_closed": (student["accuracy"] - cheap["accuracy"]) / gap if gap > 0 else None,
        "diversity_ratio": student["diversity/distinct"] / max(teacher["diversity/distinct"], 1e-9),
        "speedup": teacher["seconds_per_clip"] / student["seconds_per_clip"],
        "teacher_passes": int(teacher["passes"]),
        "student_passes": int(student["passes"]),
        "teacher_seconds_per_clip": teacher["seconds_per_clip"],
        "student_seconds_per_clip": student["seconds_per_clip"],
        "teacher_same_cost": rows[1][0],
        "clips": CLIPS,
        "open_clips": OPEN_CLIPS,
        "scores": {name: found for name, found, _ in rows},
    }


def page(rows: list[Row], out: Path, config: Config, summary: Mapping[str, Any]) -> Page:
    """What the report shows."""
    captions = exam(CLIPS).captions
    shown = [list(captions).index(c) for c in dict.fromkeys(captions)][:SHOWN]
    samplers = [
        Sampler(name, [made.pixels[i] for i in shown], made.passes, made.seconds,
                {k: found[k] for k in ("accuracy", "colour", "shape", "motion")},
                {k: v for k, v in found.items() if k in ("diversity/distinct", "flicker", "frechet")})
        for name, found, made in rows
    ]  # fmt: skip
    again = f"vdistill train {out / 'run' / CONFIG} --out {out / 'run'} train.steps={2 * config.train.steps}"
    return Page(
        "A four-step student, distilled on this machine",
        f"{summary['speedup']:.0f} times faster than its teacher: {summary['student_passes']} network passes instead "
        f"of {summary['teacher_passes']}, no guidance.",
        samplers, [captions[i] for i in shown], curves(out / "run" / "metrics.jsonl"),
        facts(config, summary, CLIPS), again, dict(summary),
    )  # fmt: skip


def curves(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Every learner's loss by step."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in metrics.read_text().splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if key.endswith(("/loss", "/gap")):
                found.setdefault(key, []).append((int(row["step"]), float(value)))
    return found
