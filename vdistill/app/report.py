"""The page `vdistill demo` leaves behind: one self-contained HTML file, a pure function of its data."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, TypeGuard

from torch import Tensor

from ..data.encode import encode_mp4, png
from ..data.files import write_whole
from .curve_plot import Curve, number, plot

FPS = 8
SIDE = 128  # pixels a small clip is enlarged to
TEMPLATE = "assets/report.html"
NONE = "–"
WORDS = {  # what a measure is called on the page
    "accuracy": "Every attribute right",
    "diversity/distinct": "Distinct results of one open caption",
    "flicker": "Flicker, less is steadier",
    "frechet": "Fréchet distance, less is closer to true clips",
}


@dataclass(frozen=True)
class Sampler:
    """One way of making clips, and how it did.

    clips: [3, T, H, W] in [-1, 1], one for each caption shown; nfe: network passes a clip; accuracy: shares in [0, 1].
    """

    name: str
    clips: list[Tensor]
    nfe: int
    seconds_per_clip: float
    accuracy: dict[str, float]
    extra: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Everything the page says. rows[0] is what the others are compared with; summary: what summary.json holds."""

    title: str
    subtitle: str
    rows: list[Sampler]
    captions: list[str]
    curves: dict[str, list[tuple[int, float]]]
    facts: dict[str, str]
    command_to_continue: str
    summary: dict[str, Any]


def write_report(path: Path, report: Report) -> None:
    """Write the page whole or not at all. UserError when the disk refuses."""
    write_whole(path, render(report).encode())


def render(report: Report) -> str:
    """The page as text."""
    curves: Mapping[str, Curve] = report.curves
    return Template((files("vdistill") / TEMPLATE).read_text(encoding="utf-8")).substitute(
        title=escape(report.title),
        subtitle=escape(report.subtitle),
        tiles=tiles(report.summary),
        clips=clips(report),
        table=table(report),
        counted=escape(counted(report.summary)),
        curves=plot(curves),
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in report.facts.items()),
        command=escape(report.command_to_continue),
    )


def tiles(summary: Mapping[str, Any]) -> str:
    """The headline numbers that are there, each with what it means."""
    teacher, cheap = (summary.get(k) for k in ("teacher_accuracy", "teacher_same_cost_accuracy"))
    no_gap = _is(teacher) and _is(cheap) and teacher <= cheap
    shown = [
        ("student_accuracy", percent, "student", "clips with every attribute right"),
        ("teacher_accuracy", percent, "teacher, full cost", "the same measure, the same captions"),
        ("teacher_same_cost_accuracy", percent, "teacher, student’s cost", "the best of the ways measured"),
        ("gap_closed", percent, "of the gap closed", "between the teacher at the student’s cost and at full cost"),
        ("speedup", times, "faster", "wall-clock time per clip, against the teacher at full cost"),
        ("diversity_ratio", times, "the teacher’s diversity", "distinct results for one open caption"),
        ("wall_s", duration, "from start to report", "training and measuring"),
        ("peak_rss_gib", gib, "peak memory", "of this process"),
    ]
    made = [
        f'<div class="tile{" main" if key == "student_accuracy" else ""}"><dt>{label}<small>{what}</small></dt>'
        f"<dd>{say(summary[key])}</dd></div>"
        for key, say, label, what in shown
        if _is(summary.get(key)) and not (key == "gap_closed" and no_gap)
    ]
    return f'<dl class="tiles">{"".join(made)}</dl>' if made else ""


def counted(summary: Mapping[str, Any]) -> str:
    """How sure the accuracies are: the widest 95% interval (Wilson) that so many clips leave."""
    clips = summary.get("clips")
    if not _is(clips) or clips < 1:
        return ""
    low, high = wilson(0.5, int(clips))
    half = (high - low) / 2
    return f"Accuracies count {int(clips)} clips: read each as at most ±{100 * half:.0f} points (95% interval)."


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share seen in `count` trials."""
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def clips(report: Report) -> str:
    """Captions x samplers; a place without its clip says so."""
    if not report.rows or not report.captions:
        return '<p class="none">No clips were made.</p>'
    cards = []
    for i, caption in enumerate(report.captions):
        cells = "".join(_cell(row, i, caption) for row in report.rows)
        cards.append(f'<article class="card"><h3>{escape(caption)}</h3><div class="shots">{cells}</div></article>')
    return "".join(cards)


def _cell(row: Sampler, index: int, caption: str) -> str:
    label = f"<figcaption>{escape(row.name)}</figcaption>"
    if index >= len(row.clips):
        return f'<figure><div class="clip none">no clip</div>{label}</figure>'
    clip = row.clips[index]
    scale = max(1, SIDE // max(clip.shape[-2:]))
    poster = _data("image/png", png(clip[:, clip.shape[1] // 2]))
    video = _data("video/mp4", encode_mp4(clip, FPS, scale))
    said = escape(f"Play: {caption}. {row.name}")
    return (
        f'<figure><button type="button" class="clip" aria-pressed="false" aria-label="{said}">'
        f'<video muted loop playsinline preload="metadata" tabindex="-1" aria-hidden="true" poster="{poster}" '
        f'src="{video}" style="aspect-ratio:{clip.shape[-1]}/{clip.shape[-2]}"></video>'
        f'<span class="sign" aria-hidden="true"></span></button>{label}</figure>'
    )


def table(report: Report) -> str:
    """Samplers side by side, one measure a line."""
    if not report.rows:
        return '<p class="none">Nothing was measured.</p>'
    rows, first = report.rows, report.rows[0].seconds_per_clip
    lines = [
        ("Network passes per clip (NFE)", [str(r.nfe) for r in rows]),
        ("Seconds per clip", [number(r.seconds_per_clip) for r in rows]),
        ("Speed-up", [times(_ratio(first, r.seconds_per_clip)) for r in rows]),
    ]
    lines += [
        (WORDS.get(k, f"{k.capitalize()} right"), [percent(r.accuracy.get(k)) for r in rows])
        for k in _keys(rows, "accuracy")
    ]
    lines += [
        (WORDS.get(k, k.replace("/", ", ")), [number(r.extra.get(k, math.nan)) for r in rows])
        for k in _keys(rows, "extra")
    ]
    head = "".join(f'<th scope="col">{escape(r.name)}</th>' for r in rows)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in lines
    )
    return (
        '<div class="wide" role="region" aria-label="Cost and quality" tabindex="0"><table>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _keys(rows: list[Sampler], field: str) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in getattr(row, field)))


def _ratio(first: float, this: float) -> float:
    return first / this if this > 0 else math.nan


def _data(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _is(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def percent(value: float | None) -> str:
    return f"{100 * value:.0f}%" if value is not None and math.isfinite(value) else NONE


def times(value: float) -> str:
    if not math.isfinite(value):
        return NONE
    return f"{value:.{0 if value >= 10 else 1 if value >= 2 else 2}f}×".replace(".00×", "×")


def gib(value: float) -> str:
    return f"{value:.1f} GiB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
