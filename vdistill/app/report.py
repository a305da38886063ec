"""The page `vdistill demo` leaves behind: one self-contained HTML file, a pure function of its data.

What every page of vdistill shares is here too: the frame (assets/page.html), tiles, clips side by side, tables.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
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
    main = fill(
        "report_demo.html",
        clips=clips(report.rows, report.captions),
        table=table(report.rows),
        counted=escape(counted(report.summary)),
        curves=plot(curves),
    )
    return whole(report.title, report.subtitle, tiles(report.summary), main, report.facts, report.command_to_continue)


def whole(title: str, subtitle: str, head: str, main: str, facts: Mapping[str, str], command: str) -> str:
    """A page of vdistill: `head` (tiles) and `main` (sections) are HTML, the rest is text."""
    return fill(
        "page.html",
        title=escape(title),
        subtitle=escape(subtitle),
        tiles=head,
        main=main,
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()),
        command=escape(command),
    )


def fill(asset: str, **parts: str) -> str:
    """A template of vdistill/assets with every $name replaced; parts are HTML and stay as they are."""
    return Template((files("vdistill") / "assets" / asset).read_text(encoding="utf-8")).substitute(parts)


def tiles(summary: Mapping[str, Any]) -> str:
    """The headline numbers that are there, each with what it means."""
    teacher, cheap = (summary.get(k) for k in ("teacher_accuracy", "teacher_same_cost_accuracy"))
    no_gap = finite(teacher) and finite(cheap) and teacher <= cheap
    shown: list[Tile] = [
        ("student_accuracy", percent, "student", "clips with every attribute right"),
        ("teacher_accuracy", percent, "teacher, full cost", "the same measure, the same captions"),
        ("teacher_same_cost_accuracy", percent, "teacher, student’s cost", "the best of the ways measured"),
        ("gap_closed", percent, "of the gap closed", "between the teacher at the student’s cost and at full cost"),
        ("speedup", times, "faster", "wall-clock time per clip, against the teacher at full cost"),
        ("diversity_ratio", times, "the teacher’s diversity", "distinct results for one open caption"),
        ("wall_s", duration, "from start to report", "training and measuring"),
        ("peak_rss_gib", gib, "peak memory", "of this process"),
    ]
    return tiled([tile for tile in shown if not (tile[0] == "gap_closed" and no_gap)], summary)


Tile = tuple[str, Callable[[float], str], str, str]  # (key of the summary, how to say it, label, what it means)


def tiled(shown: Sequence[Tile], summary: Mapping[str, Any]) -> str:
    """The tiles whose number is there and finite; the first of `shown` is the main one."""
    made = [
        f'<div class="tile{" main" if key == shown[0][0] else ""}"><dt>{escape(label)}'
        f"<small>{escape(what)}</small></dt><dd>{say(summary[key])}</dd></div>"
        for key, say, label, what in shown
        if finite(summary.get(key))
    ]
    return f'<dl class="tiles">{"".join(made)}</dl>' if made else ""


def counted(summary: Mapping[str, Any]) -> str:
    """How sure the accuracies are: the widest 95% interval (Wilson) that so many clips leave."""
    clips = summary.get("clips")
    if not finite(clips) or clips < 1:
        return ""
    low, high = wilson(0.5, int(clips))
    half = (high - low) / 2
    return f"Accuracies count {int(clips)} clips: read each as at most ±{100 * half:.0f} points (95% interval)."


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share seen in `count` trials."""
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def clips(rows: Sequence[Sampler], captions: Sequence[str], fps: float = FPS) -> str:
    """The section of clips side by side, captions x samplers; a place without its clip says so."""
    cards = []
    for i, caption in enumerate(captions if rows else ()):
        cells = "".join(_cell(row, i, caption, fps) for row in rows)
        cards.append(f'<article class="card"><h3>{escape(caption)}</h3><div class="shots">{cells}</div></article>')
    return fill("report_clips.html", cards="".join(cards) or '<p class="none">No clips were made.</p>')


def _cell(row: Sampler, index: int, caption: str, fps: float) -> str:
    label = f"<figcaption>{escape(row.name)}</figcaption>"
    if index >= len(row.clips):
        return f'<figure><div class="clip none">no clip</div>{label}</figure>'
    clip = row.clips[index]
    scale = max(1, SIDE // max(clip.shape[-2:]))
    poster = embedded("image/png", png(clip[:, clip.shape[1] // 2]))
    video = embedded("video/mp4", encode_mp4(clip, fps, scale))
    said = escape(f"Play: {caption}. {row.name}")
    return (
        f'<figure><button type="button" class="clip" aria-pressed="false" aria-label="{said}">'
        f'<video muted loop playsinline preload="metadata" tabindex="-1" aria-hidden="true" poster="{poster}" '
        f'src="{video}" style="aspect-ratio:{clip.shape[-1]}/{clip.shape[-2]}"></video>'
        f'<span class="sign" aria-hidden="true"></span></button>{label}</figure>'
    )


def table(rows: Sequence[Sampler]) -> str:
    """Samplers side by side, one measure a line."""
    first = rows[0].seconds_per_clip if rows else math.nan
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
    return grid("Cost and quality", [r.name for r in rows], lines)


def grid(label: str, head: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of columns `head` and of lines (name, one text a column); one sentence when it has no column."""
    if not head:
        return '<p class="none">Nothing was measured.</p>'
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for name, cells in lines
    )
    return (
        f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0"><table>'
        f"<thead><tr><td></td>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _keys(rows: Sequence[Sampler], field: str) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in getattr(row, field)))


def _ratio(first: float, this: float) -> float:
    return first / this if this > 0 else math.nan


def embedded(kind: str, data: bytes) -> str:
    """A data URI: the bytes inside the page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def finite(value: object) -> TypeGuard[float]:
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
