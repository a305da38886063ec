"""The page `vdistill demo talk` leaves behind: one self-contained HTML file, a pure function of its data."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import __version__
from ..avatar.rates import FPS, RATE
from ..data.encode import png
from ..data.files import write_whole
from ..data.writer import video_writer
from .curve_plot import Axes, Curve, number, plot
from .report import Sampler, Tile, clips, embedded, fill, gib, grid, percent, tiled, times, whole
from .talk_shows import Shown
from .train import CONFIG

if TYPE_CHECKING:
    from .demo_talk import Show

NAMES = {
    "teacher": "Teacher, 25 steps of 3 passes",
    "balanced": "Balanced, 6 steps of 3",
    "fast": "Fast, 6 steps of 1",
    "ours4": "4 steps of 1",
    "ours2": "2 steps of 1",
    "plain": "Teacher, 6 steps of 1, no guidance",
}
MEASURES = {
    "sync_pcc": "Sync-PCC",
    "offset": "Offset, frames",
    "identity_error": "Identity error",
    "jitter": "Jitter",
    "motion": "Motion",
    "aperture": "Aperture",
}
SHOWN = 4  # clips of each way on the page


@dataclass(frozen=True)
class Film:
    """video: MP4 with sound; poster: [3, H, W] in [-1, 1]."""

    video: bytes
    poster: Tensor


@dataclass(frozen=True)
class TalkReport:
    """Everything the page says. samplers, captions: clips side by side; rows: way -> scores; summary: summary.json.

    response: scale -> (value, sync or identity error); seconds: measure -> (second, value) of the long clip.
    """

    title: str
    subtitle: str
    long: Film
    duo: Film
    samplers: list[Sampler]
    captions: list[str]
    rows: Mapping[str, Mapping[str, float]]
    response: dict[str, list[tuple[float, float]]]
    seconds: dict[str, list[tuple[float, float]]]
    facts: dict[str, str]
    command_to_continue: str
    summary: Mapping[str, Any]


def films(out: Path, long: Shown, duo: Shown, size: int) -> tuple[Film, Film]:
    """Write long.mp4 and duo.mp4, with sound, and keep them for the page."""
    found, scale = [], max(1, 192 // size)
    for name, shown in (("long", long), ("duo", duo)):
        path = out / f"{name}.mp4"
        with video_writer(path, FPS, scale=scale, crf=20, sound=(shown.sound, RATE)) as file:
            file.write(shown.pixels)
        found.append(Film(path.read_bytes(), shown.pixels[:, shown.pixels.shape[1] // 2]))
    return found[0], found[1]


def page_of(show: Show, found: Mapping[str, Any], video: tuple[Film, Film], folders: Mapping[str, Path]) -> TalkReport:
    """What the page shows of what was measured."""
    true = Sampler("True clip", [clip.frames for clip in show.given.clips[:SHOWN]], 0, 0.0, {}, {})
    samplers = [true] + [
        Sampler(NAMES[name], list(made.pixels[:SHOWN]), made.passes, made.seconds, {}, {})
        for name, made in show.made.items()
    ]
    captions = [f"{clip.caption}, voice {clip.voice}" for clip in show.given.clips[:SHOWN]]
    main = found["main"]
    return TalkReport(
        "One pass a step instead of three",
        f"{found[main]['passes']:.0f} network passes instead of {found['teacher']['passes']:.0f} "
        f"({exact(found['against_teacher'][main]['passes'])} fewer), on people and voices nobody has seen.",
        *video, samplers, captions, show.rows,
        {name: [(row["scale"], row[key]) for row in show.response[name]]
         for name, key in (("audio", "sync_pcc"), ("ref", "identity_error"))},
        {key: [(row["second"], row[key]) for row in show.longs[0].rows] for key in ("sync_pcc", "identity_error")},
        facts(found), goes_on(folders[main].parent), found,
    )  # fmt: skip


def goes_on(run: Path) -> str:
    """The command that trains the student on; or, of one that came with the package, makes it anew."""
    if (run / CONFIG).is_file():
        return f"vdistill train {run / CONFIG} --out {run} train.steps=2000"
    return "vdistill demo talk --minutes 150 --out runs/mine"


def facts(found: Mapping[str, Any]) -> dict[str, str]:
    """How the page was made."""
    return {
        "machine": str(found["machine"]), "vdistill": __version__, "teacher": str(found["teacher_model"]),
        "held-out clips": str(found["clips"]), "seed": str(found["seed"]), "wall": f"{found['wall_s']:.0f} s",
        "peak memory": gib(found["peak_rss_gib"]), "command": " ".join(["vdistill", *sys.argv[1:]]),
    }  # fmt: skip


def write_talk_report(path: Path, report: TalkReport) -> None:
    """Write the page whole or not at all. UserError when the disk refuses."""
    write_whole(path, render(report).encode())


def render(report: TalkReport) -> str:
    """The page as text."""
    found = report.summary
    main = fill(
        "report_talk.html",
        length=escape(f"{found['seconds']:g} seconds"),
        player=player(report.long, "The long clip, with sound"),
        said=said(found),
        longs=escape(f"The numbers are means over {len(found['drifts_60s'])} such sessions, the film is the first."),
        clips=clips(report.samplers, report.captions, FPS),
        table=table(report.rows),
        counted=escape(f"Means over {found['clips']} clips, half of them of voices held out."),
        duo=player(report.duo, "Two people who take turns, with sound"),
        leak=listed({"Aperture energy of who is silent, over that of who speaks": number(found["duo_leak"])}),
        duos=escape(f"The number is the mean over {len(found['duo_leaks'])} such scenes, the film is the first."),
        charts=charts(report),
    )
    return whole(report.title, report.subtitle, tiles(found), main, report.facts, report.command_to_continue)


def tiles(found: Mapping[str, Any]) -> str:
    """The headline numbers that are there, each with what it means."""
    flat = dict(found) | {f"main_{key}": value for key, value in found["against_teacher"][found["main"]].items()}
    beside = f"of its length; {number(found.get('ignorant_error_in_range', math.nan))} if scales were ignored"
    shown: list[Tile] = [
        ("main_passes", exact, "fewer passes", "four of one pass, against the teacher’s 25 of three"),
        ("main_speedup", times, "faster", "wall-clock time per clip"),
        ("main_sync_pcc", percent, "of the teacher’s sync", "Sync-PCC on people and voices nobody has seen"),
        ("main_identity_error", percent, "of its identity error", "the same clips; lower is better"),
        ("target_error_in_range", number, "error to the guided target", beside),
        ("drift_60s", percent, "lost to the end", f"of sync or identity, over {found['seconds']:g} s"),
        ("session_realtime_factor", times, "real time", "a live session of the four-step student"),
        ("duo_leak", percent, "leak", "of the one who speaks into the one who is silent"),
    ]
    return tiled(shown, flat)


def exact(value: float) -> str:
    """Times, with the half of 12.5."""
    return f"{value:.4g}×"


def player(film: Film, label: str) -> str:
    """A film in the browser's own player."""
    height, width = film.poster.shape[-2:]
    return (
        f'<video controls playsinline preload="metadata" aria-label="{escape(label)}" '
        f'poster="{embedded("image/png", png(film.poster))}" src="{embedded("video/mp4", film.video)}" '
        f'style="aspect-ratio:{width}/{height}"></video>'
    )


def said(found: Mapping[str, Any]) -> str:
    """What the session and both ends of the long clip say."""
    live = found["long"]
    return listed({
        "Sync-PCC, first and last 5 s": f"{number(live['sync_pcc_first'])}, {number(live['sync_pcc_last'])}",
        "Identity error, first and last 5 s": f"{number(live['identity_error_first'])}, "
        f"{number(live['identity_error_last'])}",
        "Largest offset": f"{number(live['offset_largest'])} frames",
        "Wait for the sound of a block": f"{live['wait_ms']:.0f} ms",
        "Computing a block, 95 %": f"{live['compute_p95_ms']:.0f} ms",
        **{f"Real time, {NAMES[name]}": times(row["realtime_factor"]) for name, row in found["sessions"].items()},
    })  # fmt: skip


def listed(rows: Mapping[str, str]) -> str:
    """Names and values."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows.items())
    return f'<dl class="facts" style="grid-template-columns:1fr">{lines}</dl>'


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Ways side by side, one measure a line."""
    first = rows["teacher"]
    lines: list[tuple[str, Sequence[str]]] = [
        ("Network passes per clip", [f"{row['passes']:.0f}" for row in rows.values()]),
        ("Fewer passes", [exact(first["passes"] / row["passes"]) for row in rows.values()]),
        ("Seconds per clip", [number(row["seconds_per_clip"]) for row in rows.values()]),
    ]
    lines += [(text, [number(row[key]) for row in rows.values()]) for key, text in MEASURES.items()]
    return grid("Cost and quality", [NAMES[name] for name in rows], lines)


def charts(report: TalkReport) -> str:
    """What each scale does, and the long clip by second."""
    second = Axes(x="second", log=False, low=0.0, first=0.0, one="pieces of two seconds")
    scale = Axes(x="scale", log=False, first=1.0, one="values")
    shown: list[tuple[str, Curve, Axes]] = [
        ("Sync by audio scale", report.response["audio"], replace(scale, y="Sync-PCC")),
        ("Identity by reference scale", report.response["ref"], replace(scale, y="identity error")),
        ("Sync by second", report.seconds["sync_pcc"], replace(second, y="Sync-PCC")),
        ("Identity by second", report.seconds["identity_error"], replace(second, y="identity error")),
    ]
    return "".join(_chart(name, curve, axes) for name, curve, axes in shown if curve)


def _chart(name: str, curve: Curve, axes: Axes) -> str:
    axes = replace(axes, title=f"{name}, {axes.y}", nothing=f"{name}: nothing was measured.")
    return f'<article class="panel"><h3>{escape(name)}</h3>{plot({axes.y: curve}, axes)}</article>'
