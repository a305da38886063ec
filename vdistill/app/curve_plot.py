"""Curves as one inline SVG picture: axes, ticks and a legend; colours come from the page.

The y axis is logarithmic, for losses, or linear, for whatever `Axes` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

Curve = Sequence[tuple[float, float]]  # (step or second, value)

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 34, 48  # margins, in SVG units
POINTS = 160  # of one drawn curve
COLOURS = 6  # the page styles .c0 to .c5


def number(value: float) -> str:
    """Three significant digits, in words a reader of a page expects; a dash for what is not a number."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


@dataclass(frozen=True)
class Axes:
    """What the axes mean. x, y, title (for who cannot see the picture), nothing (without a curve): plain text.

    low and high: where a linear y axis reaches at least; first and last: the same of x.
    one: what a point is one of; points: drawn of one curve at most; say: a value in words; mark: a dashed line there.
    """

    x: str = "training step"
    y: str = "loss, logarithmic"
    title: str = "Training losses by step, logarithmic"
    nothing: str = "No loss was recorded."
    one: str = "recorded steps"
    log: bool = True
    low: float | None = None
    high: float | None = None
    first: float | None = None
    last: float | None = None
    mark: float | None = None
    points: int = POINTS
    say: Callable[[float], str] = number

    def takes(self, value: float) -> bool:
        """Whether a value has a place on the y axis."""
        return math.isfinite(value) and (value > 0 or not self.log)

    def bounds(self, values: Sequence[float]) -> tuple[float, float]:
        """(lowest, highest) of the y axis."""
        if self.log:
            return span(min(values), max(values))
        return linear_span(min(values), max(values), self.low, self.high)

    def part(self, value: float, low: float, high: float) -> float:
        """How far up the axis a value is, 0 to 1."""
        if self.log:
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)


LOSSES = Axes()


def plot(curves: Mapping[str, Curve], axes: Axes = LOSSES) -> str:
    """The figure as HTML, with its legend and what it leaves out; one sentence when there is nothing to draw."""
    kept = {name: [(s, v) for s, v in curve if math.isfinite(s) and axes.takes(v)] for name, curve in curves.items()}
    left_out = sum(len(curve) for curve in curves.values()) - sum(len(curve) for curve in kept.values())
    kept = {name: curve for name, curve in kept.items() if curve}
    if not kept:
        return f'<p class="none">{escape(axes.nothing)}</p>'
    bins = max(math.ceil(len(curve) / axes.points) for curve in kept.values())
    note = f"Each point is the median of up to {bins} {escape(axes.one)}. " if bins > 1 else ""
    if left_out and axes.log:
        note += f"{left_out} values that are not positive and finite have no place on a logarithmic axis."
    elif left_out:
        note += f"{left_out} values that are not finite are left out."
    legend = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path class="line c{i % COLOURS}" d="M1 4H27"/></svg>'
        f"{escape(name)} <span>last {axes.say(curve[-1][1])}</span></li>"
        for i, (name, curve) in enumerate(kept.items())
    )
    picture = svg(kept, axes)
    return f'<figure class="curves">{picture}<ul class="legend">{legend}</ul><figcaption>{note}</figcaption></figure>'


def svg(curves: Mapping[str, Curve], axes: Axes = LOSSES) -> str:
    """Every curve of values that have a place on the shared axes."""
    thin = {name: thinned(sorted(curve), axes.points) for name, curve in curves.items()}
    steps = [s for curve in thin.values() for s, _ in curve] + [s for s in (axes.first, axes.last) if s is not None]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    low, high = axes.bounds([v for curve in thin.values() for _, v in curve])

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - axes.part(value, low, high) * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>']
    for value in log_ticks(low, high) if axes.log else linear_ticks(low, high):
        parts.append(f'<path class="rule" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{axes.say(value)}</text>')
    for step in step_ticks(first, last):
        parts.append(f'<path class="axis" d="M{x(step):.1f} {floor}v5"/>')
        parts.append(f'<text x="{x(step):.1f}" y="{floor + 19}" text-anchor="middle">{step}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axes.x)}</text>')
    parts.append(f'<text x="{LEFT - 8}" y="16" text-anchor="start">{escape(axes.y)}</text>')
    if axes.mark is not None and low <= axes.mark <= high:
        parts.append(f'<path class="mark" d="M{LEFT} {y(axes.mark):.1f}H{WIDTH - RIGHT}"/>')
    for i, curve in enumerate(thin.values()):
        path = "M" + "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in curve) + ("h.1" if len(curve) == 1 else "")
        parts.append(f'<path class="line c{i % COLOURS}" d="{path}"/>')
    said = "; ".join(f"{name}: {axes.say(c[0][1])} first, {axes.say(c[-1][1])} last" for name, c in thin.items())
    title = f"{axes.title}. {said}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def thinned(curve: Curve, points: int = POINTS) -> list[tuple[float, float]]:
    """At most `points` points: the middle step and the median value of equal runs of points."""
    size = math.ceil(len(curve) / points)
    runs = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(run[len(run) // 2][0], median(v for _, v in run)) for run in runs]


def span(low: float, high: float) -> tuple[float, float]:
    """The axis around the values: a twelfth more on both sides, and never less than a factor of two."""
    room = max((high / low) ** (1 / 12), 2**0.5 if high / low < 2 else 1.0)
    return low / room, high * room


def linear_span(low: float, high: float, least: float | None = None, most: float | None = None) -> tuple[float, float]:
    """The axis around the values: from `least` to `most` where they hold every value, else a twentieth more."""
    room = (high - low) / 20 or abs(high) / 20 or 1.0
    bottom = low - room if least is None or low < least else least
    top = high + room if most is None or high > most else most
    return bottom, top


def log_ticks(low: float, high: float) -> list[float]:
    """Between about three and eight round values: 1, 2, 5 in each decade, or powers of ten when there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(ticks) <= 7:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 7)]


def step_ticks(first: float, last: float) -> list[int]:
    """At most seven round whole steps or seconds."""
    return [int(tick) for tick in round_ticks(first, last, max((last - first) / 6, 1))]


def linear_ticks(low: float, high: float) -> list[float]:
    """At most seven round values."""
    return round_ticks(low, high, (high - low) / 6)


def round_ticks(low: float, high: float, rough: float) -> list[float]:
    """The multiples of the first of 1, 2, 5, 10, 20, 50 ... that is no less than `rough`, from low to high."""
    unit = 10.0 ** math.floor(math.log10(rough))
    stride = next(f * unit for f in (1, 2, 5, 10) if f * unit >= rough)
    slack = 1e-9  # high / stride is a hair below a whole number, often
    found = [i * stride for i in range(math.ceil(low / stride - slack), math.floor(high / stride + slack) + 1)]
    return [min(max(tick, low), high) for tick in found]
