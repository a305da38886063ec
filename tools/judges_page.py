"""The page of tools/reproduce_judges.sh: the students of all judges side by side, clips and numbers in one file.

python tools/judges_page.py OUT     after tools/judges_summary.py; writes OUT/report.html, which opens offline
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vdistill import __version__
from vdistill.app.curve_plot import Axes, Curve, number, plot
from vdistill.app.demos import machine
from vdistill.app.evaluate import OPEN_CAPTIONS, exam
from vdistill.app.generate import Plan, generate
from vdistill.app.models import open_model
from vdistill.app.report import Sampler, clips, counted, fill, finite, grid, percent, tiled, times, whole
from vdistill.data.files import write_whole

HELD_OUT, OPEN = 3, 4  # clips shown of each kind
TOLD = "critic/told_apart"
MEASURES = {
    "accuracy": ("Every attribute right", percent),
    "diversity_ratio": ("Diversity, as a part of {of}", times),
    "distinct": ("Distinct results of one open caption", number),
    "motion_energy": ("Motion energy", number),
    "flicker": ("Flicker, less is steadier", number),
    "frechet": ("Fréchet distance, less is closer to true clips", number),
    "diversity_gain": ("Diversity gained over none", lambda x: f"{x:+.2f}"),
    "frechet_gain": ("Fréchet distance saved against none", percent),
    "seconds_a_step": ("Seconds a training step", number),
    "peak_gib": ("Peak memory, GiB", number),
}


def shown() -> list[str]:
    """Captions of the page: held-out ones, then one that leaves things open, several times."""
    held_out = list(dict.fromkeys(exam(16).captions))[:HELD_OUT]
    return [*held_out, *[OPEN_CAPTIONS[0]] * OPEN]


def sampler(run: Path) -> Sampler:
    """Clips of one run's student, from the same noise as everybody's."""
    made = generate(open_model(str(run)), shown(), Plan(seed=7), 17, (32, 32))
    return Sampler(run.name, list(made.pixels), made.passes, made.seconds, {}, {})


def told_apart(run: Path) -> list[tuple[float, float]]:
    """(step, share of clips the judge gets right)."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row[TOLD]) for row in rows if finite(row.get(TOLD))]


def table(summary: Mapping[str, Any]) -> str:
    """Judges side by side, one measure a line; before them the student they began as, and the teacher."""
    rows = [summary[name] for name in ("teacher50", "start") if name in summary] + summary["rows"]
    of = "the teacher’s" if summary["diversity_of"] == "teacher" else "that of none"
    lines = [
        (name.format(of=of), [say(row[key]) if finite(row.get(key)) else "–" for row in rows])
        for key, (name, say) in MEASURES.items()
    ]
    names = {"teacher50": "teacher, full cost", "start": "before"}
    return grid("With each judge", [names.get(row["name"], row["name"]) for row in rows], lines)


def modes(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of the bench of exact laws that students make."""
    made = [row for row in rows if row["updates"]]
    stds = [["–" if std is None else number(std) for std in row["stds"]] for row in made]
    lines = [
        ("Modes covered", [percent(row["coverage"]) for row in made]),
        ("Share of samples in a wrong mode", [percent(row["mode_tv"]) for row in made]),
        ("Deviation within each mode", [" ".join(each) for each in stds]),
        ("Sliced Wasserstein-2 distance", [number(row["sw2"]) for row in made]),
        ("Seconds of training", [number(row["seconds"]) for row in made]),
    ]
    return grid("Modes of a mixture", [row["name"] for row in made], lines)


def page(out: Path, summary: Mapping[str, Any]) -> str:
    """The page as text."""
    names = [row["name"] for row in summary["rows"]]
    measured = json.loads((out / names[0] / "eval.json").read_text())["clips"]
    before = ["start"] if "start" in summary else []
    curves: dict[str, Curve] = {name: points for name in names if (points := told_apart(out / name))}
    title, nothing = "Share of clips told apart by step", "No judge looked."
    share = Axes(y="share", title=title, nothing=nothing, log=False, low=0.4, high=1.0, say=percent, mark=0.5)
    main = fill(
        "report_judges.html",
        clips=clips([sampler(out / name) for name in (*before, *names)], shown()),
        table=table(summary),
        counted=escape(counted({"clips": measured})),
        modes=modes(summary["mixture"]),
        curves=plot(curves, share),
    )
    best: Mapping[str, Any] = next((row for row in summary["rows"] if row["name"] == summary["best_judge"]), {})
    head = tiled(
        [
            ("accuracy", percent, f"right with {best.get('name')}", "the best judge, every attribute"),
            ("base", percent, "right without a judge", "the same measure, the same captions"),
            ("diversity_gain", lambda x: f"{x:+.2f}", "diversity gained", "over DMD2 alone, as a ratio"),
            ("frechet_gain", percent, "Fréchet distance saved", "against DMD2 alone"),
        ],
        dict(best) | {"base": next(row for row in summary["rows"] if row["name"] == "none")["accuracy"]},
    )
    verdict = f"Best: {best['name']}." if best else "No judge kept the accuracy of DMD2 alone."
    passed = "It gains" if summary["passed"] else "None gains"
    said = f"{verdict} {passed} 0.10 in diversity or 20% in Fréchet distance at no loss of accuracy."
    steps = ", ".join(f"{name} {(out / name / 'speed.jsonl').read_text().count(chr(10))}" for name in names)
    facts = {
        "machine": machine(), "vdistill": __version__, "training steps": steps,
        "held-out captions": str(measured), "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    again = f"tools/reproduce_judges.sh --out {out}"
    return whole("Judges beside distribution matching", said, head, main, facts, again)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", help="folder of the runs")
    out = Path(parser.parse_args().out)
    summary = json.loads((out / "summary.json").read_text())
    write_whole(out / "report.html", page(out, summary).encode())
    print(out / "report.html")


if __name__ == "__main__":
    main()
