"""Loss curves as one inline SVG picture: axes, ticks, a legend and a logarithmic y axis; colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

Curve = Sequence[tuple[int, float]]  # (step, value)

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 34, 48  # margins, in SVG units
POINTS = 160  # of one drawn curve
COLOURS = 6  # the page styles .c0 to .c5


def plot(curves: Mapping[str, Curve]) -> str:
    """The figure as HTML, with its legend and what it leaves out; one sentence when there is nothing to draw."""
    kept = {name: [(s, v) for s, v in curve if v > 0 and math.isfinite(v)] for name, curve in curves.items()}
    left_out = sum(len(curve) for curve in curves.values()) - sum(len(curve) for curve in kept.values())
    kept = {name: curve for name, curve in kept.items() if curve}
    if not kept:
        return '<p class="none">No loss was recorded.</p>'
    bins = max(math.ceil(len(curve) / POINTS) for curve in kept.values())
    note = f"Each point is the median of up to {bins} recorded steps. " if bins > 1 else ""
    if left_out:
        note += f"{left_out} values that are not positive and finite have no place on a logarithmic axis."
    legend = "".join(
        f'<li><svg viewBox="0 0 28 8" aria-hidden="true"><path class="line c{i % COLOURS}" d="M1 4H27"/></svg>'
        f"{escape(name)} <span>last {number(curve[-1][1])}</span></li>"
        for i, (name, curve) in enumerate(kept.items())
    )
    return f'<figure class="curves">{svg(kept)}<ul class="legend">{legend}</ul><figcaption>{note}</figcaption></figure>'


def svg(curves: Mapping[str, Curve]) -> str:
    """Every curve of positive values on shared axes."""
    thin = {name: thinned(sorted(curve)) for name, curve in curves.items()}
    steps = [s for curve in thin.values() for s, _ in curve]
    values = [v for curve in thin.values() for _, v in curve]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    low, high = span(min(values), max(values))

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        part = (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>']
    for value in log_ticks(low, high):
        parts.append(f'<path class="rule" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for step in step_ticks(first, last):
        parts.append(f'<path class="axis" d="M{x(step):.1f} {floor}v5"/>')
        parts.append(f'<text x="{x(step):.1f}" y="{floor + 19}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">training step</text>')
    parts.append(f'<text x="{LEFT - 8}" y="16" text-anchor="start">loss, logarithmic</text>')
    for i, curve in enumerate(thin.values()):
        path = "M" + "L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in curve) + ("h.1" if len(curve) == 1 else "")
        parts.append(f'<path class="line c{i % COLOURS}" d="{path}"/>')
    said = "; ".join(f"{name}: {number(c[0][1])} first, {number(c[-1][1])} last" for name, c in thin.items())
    title = f"Training losses by step, logarithmic. {said}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def thinned(curve: Curve) -> list[tuple[int, float]]:
    """At most POINTS points: the middle step and the median value of equal runs of points."""
    size = math.ceil(len(curve) / POINTS)
    runs = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(run[len(run) // 2][0], median(v for _, v in run)) for run in runs]


def span(low: float, high: float) -> tuple[float, float]:
    """The axis around the values: a twelfth more on both sides, and never less than a factor of two."""
    room = max((high / low) ** (1 / 12), 2**0.5 if high / low < 2 else 1.0)
    return low / room, high * room


def log_ticks(low: float, high: float) -> list[float]:
    """Between about three and eight round values: 1, 2, 5 in each decade, or powers of ten when there are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(ticks) <= 7:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 7)]


def step_ticks(first: int, last: int) -> list[int]:
    """At most seven round whole steps."""
    rough = max((last - first) / 6, 1)
    unit = 10 ** math.floor(math.log10(rough))
    stride = next(f * unit for f in (1, 2, 5, 10) if f * unit >= rough)
    return list(range(math.ceil(first / stride) * stride, last + 1, stride))


def number(value: float) -> str:
    """Three significant digits, in words a reader of a page expects; a dash for what is not a number."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
