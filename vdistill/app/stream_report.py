"""The page `vdistill demo stream` leaves behind: one self-contained HTML file, a pure function of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.encode import png
from ..data.files import write_whole
from .curve_plot import Axes, Curve, number, plot
from .report import Sampler, Tile, clips, counted, embedded, fill, finite, gib, grid, percent, tiled, times, whole

SECONDS = Axes(x="second of the stream", log=False, low=0.0, first=0.0, points=1000)  # what all charts here share


@dataclass(frozen=True)
class Way:
    """A column of the table. passes: network passes a block; measures: name -> share in [0, 1], in row order."""

    name: str
    passes: int
    measures: Mapping[str, float]


@dataclass(frozen=True)
class StreamReport:
    """Everything the page says. summary: what summary.json holds.

    video: the stream as MP4, or nothing; poster: [3, H, W] in [-1, 1]; prompts: (second from which on, prompt).
    strip: (second, frame [3, H, W]); samplers, captions: clips side by side.
    accuracy: way -> (second, share); drift: measure -> (second, ratio to the first window).
    latency: (second of video, milliseconds its block took); memory: of what -> (second, MiB).
    """

    title: str
    subtitle: str
    video: bytes
    poster: Tensor
    prompts: list[tuple[float, str]]
    strip: list[tuple[float, Tensor]]
    ways: list[Way]
    samplers: list[Sampler]
    captions: list[str]
    accuracy: dict[str, list[tuple[float, float]]]
    drift: dict[str, list[tuple[float, float]]]
    latency: list[tuple[float, float]]
    memory: dict[str, list[tuple[float, float]]]
    facts: dict[str, str]
    command_to_continue: str
    summary: dict[str, Any]


def write_stream_report(path: Path, report: StreamReport) -> None:
    """Write the page whole or not at all. UserError when the disk refuses."""
    write_whole(path, render(report).encode())


def render(report: StreamReport) -> str:
    """The page as text."""
    main = fill(
        "report_stream.html",
        player=player(report),
        prompts=prompts(report.prompts),
        strip=strip(report),
        seek="Press a still to go to its second." if report.video and report.strip else "",
        clips=clips(report.samplers, report.captions),
        ways=table(report.ways),
        counted=escape(counted(report.summary)),
        charts=charts(report),
    )
    head = tiles(report.summary)
    return whole(report.title, report.subtitle, head, main, report.facts, report.command_to_continue)


def tiles(summary: Mapping[str, Any]) -> str:
    """The headline numbers that are there, each with what it means."""
    seconds, native = summary.get("seconds"), summary.get("native_fps")
    of = f" of {number(seconds)}\u00a0s" if finite(seconds) else ""
    shown: list[Tile] = [
        ("accuracy_first_5s", percent, "right in the first 5 s", "every attribute, of things never trained on"),
        ("accuracy_last_5s", percent, f"right in the last 5 s{of}", "the same measure, in one unbroken stream"),
        ("teacher_accuracy", percent, "teacher, full cost", "the same measure"),
        ("init_only_accuracy_last_5s", percent, "without Self-Forcing", f"in the last 5 s{of}"),
        ("first_frame_ms", milliseconds, "until the first frames", "from the prompt to pixels"),
        ("fps", number, "frames a second", f"plays at {number(native)}" if finite(native) else "while it streams"),
        ("cached_speedup", times, "cheaper", "than computing the whole past again"),
        ("peak_rss_gib", gib, "peak memory", "of this process"),
    ]
    return tiled(shown, summary)


def player(report: StreamReport) -> str:
    """The stream in the browser's own player."""
    if not report.video:
        return '<p class="none">No video of the stream was made.</p>'
    height, width = report.poster.shape[-2:]
    return (
        '<video id="player" controls loop muted playsinline preload="metadata" aria-label="The stream" '
        f'poster="{embedded("image/png", png(report.poster))}" src="{embedded("video/mp4", report.video)}" '
        f'style="aspect-ratio:{width}/{height}"></video>'
    )


def prompts(told: Sequence[tuple[float, str]]) -> str:
    """From which second on which prompt held."""
    lines = "".join(
        f'<li data-at="{at}" aria-current="false"><span>{number(at)} s</span>{escape(prompt)}</li>'
        for at, prompt in sorted(told)
    )
    return (
        f'<ol class="prompts" aria-label="Prompts">{lines}</ol>' if lines else '<p class="none">It had no prompt.</p>'
    )


def strip(report: StreamReport) -> str:
    """Stills with their second; with a player they are buttons that lead there."""
    cells = "".join(_still(second, frame, report) for second, frame in report.strip)
    return (
        f'<ol class="strip" aria-label="Stills">{cells}</ol>' if cells else '<p class="none">No stills were kept.</p>'
    )


def _still(second: float, frame: Tensor, report: StreamReport) -> str:
    said = f"{number(second)} s"
    held = prompt_at(second, report.prompts)
    seen = escape(f"Frame at {said}{': ' * bool(held)}{held}")
    height, width = frame.shape[-2:]
    image = f'<img src="{embedded("image/png", png(frame))}" width="{width}" height="{height}" alt="{seen}">{said}'
    if not report.video:
        return f'<li class="seek">{image}</li>'
    return f'<li><button type="button" class="seek" data-at="{second}">{image}</button></li>'


def prompt_at(second: float, told: Sequence[tuple[float, str]]) -> str:
    """The prompt that held at a second; empty before the first."""
    return next((prompt for at, prompt in sorted(told, reverse=True) if at <= second), "")


def table(ways: Sequence[Way]) -> str:
    """Ways side by side, one measure a line."""
    names = dict.fromkeys(name for way in ways for name in way.measures)
    lines = [("Network passes a block", [str(way.passes) for way in ways])]
    lines += [(name, [percent(way.measures.get(name)) for way in ways]) for name in names]
    return grid("What each way gets right", [way.name for way in ways], lines)


def charts(report: StreamReport) -> str:
    """Accuracy, drift, latency and memory over the seconds of the stream, all on the same seconds."""
    seconds = report.summary.get("seconds")
    axes = replace(SECONDS, last=seconds if finite(seconds) else None)
    blocks: dict[str, Curve] = {"block": report.latency} if report.latency else {}
    shown: list[tuple[str, Mapping[str, Curve], Axes]] = [
        ("Accuracy", report.accuracy, replace(axes, y="share right", high=1.0, say=percent, one="measured windows")),
        ("Drift", report.drift, replace(axes, y="ratio to the first window", high=1.5, mark=1.0)),
        ("Time a block takes", blocks, replace(axes, y="milliseconds", one="blocks")),
    ]
    memory = report.memory or {"": []}  # a chart each: hundreds of MiB beside one hide it
    shown += [
        (f"Memory{': ' * bool(of)}{of}", {of or "MiB": line}, replace(axes, y="MiB")) for of, line in memory.items()
    ]
    return "".join(
        f'<article class="panel"><h3>{escape(name)}</h3>{plot(curves, _told(own, name))}</article>'
        for name, curves, own in shown
    )


def _told(axes: Axes, name: str) -> Axes:
    return replace(axes, title=f"{name} by second, {axes.y}", nothing=f"{name}: nothing was measured.")


def milliseconds(value: float) -> str:
    return f"{number(value / 1000)} s" if value >= 1000 else f"{value:.0f} ms"
