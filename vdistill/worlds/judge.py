"""The judge of the `shapes` world: what a clip shows, in the words of its captions, measured from its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from ..core.errors import UserError
from .shapes import COLOURS, DIRECTIONS, SHAPES, SPAN, Thing, parse
from .trace import Fit, trace

# Outline error in radii up to which a shape counts as itself: from mean IoU 0.83 (circle), 0.81 (square), 0.77 (cross),
# 0.73 (triangle). Of true clips 99 in 100 err by 0.025, all by 0.05; things torn along 8-pixel seams shifted by up to 3
# pixels, blurred by 1.5 or 30 % transparent by 0.07 and more, half things by 0.09, things in two parts by 0.15.
RECOGNISED = 0.06
TRAVEL = 3.0  # pixels in SPAN frames (at 32 px) from which a thing moves; the slowest true mover makes 3.9
STILL = 1.5  # pixels in SPAN frames (at 32 px) up to which it stays where it is
WOBBLE = 0.8  # rms pixels (at 32 px) a thing may stray from its straight, even path
STRAIGHT = 0.15  # or this share of the path, whichever is larger; frames in random order stray 0.29 of the true path
ASIDE = 0.35  # sideways share of a straight move (20 degrees)
TURN = 60.0  # degrees clockwise in SPAN frames from which a thing rotates; the slowest true one turns 112
SPIN_RATES = torch.arange(-45.0, 45.5, 0.5)  # degrees per frame
CONSTANT = 0.85  # |mean exp(i(angle - rate t))| of an even rotation or of a rest
SAMPLES = 8  # moments of the clip at which `features` looks


@dataclass(frozen=True)
class Verdict:
    """What one clip of `frames` frames shows: things (an unrecognised attribute is None), largest first, and the `Fit`
    each was read from; flickering: colours seen in more than a tenth but less than nine tenths of the frames;
    scattered: colours that fill pixels here and there like noise. Neither of these is counted as a thing."""

    things: tuple[Thing, ...]
    fits: tuple[Fit, ...]
    flickering: tuple[str, ...]
    scattered: tuple[str, ...]
    frames: int
    size: tuple[int, int]  # height, width in pixels


def judge(pixels: Tensor) -> list[Verdict]:
    """One verdict for each clip of pixels [B, 3, T, H, W] in [-1, 1]. Raises UserError for anything else."""
    traces = trace(pixels)
    size = (pixels.shape[-2], pixels.shape[-1])
    unit = min(size) / 32
    verdicts = []
    for found in traces:
        things = tuple(Thing(f.colour, shape_of(f), motion_of(f, unit)) for f in found.fits)
        verdicts.append(Verdict(things, found.fits, found.flickering, found.scattered, pixels.shape[2], size))
    return verdicts


def shape_of(fit: Fit) -> str | None:
    """The shape, or None when no shape of the world looks like it."""
    return fit.shape if fit.error <= RECOGNISED else None


def line(centre: Tensor) -> tuple[Tensor, float]:
    """Least-squares velocity [2] in pixels per frame of centre [T, 2], and the rms distance from that even path."""
    t = torch.arange(len(centre), dtype=centre.dtype, device=centre.device)
    t, offset = t - t.mean(), centre - centre.mean(0)
    velocity = (t[:, None] * offset).sum(0) / (t**2).sum()
    return velocity, float((offset - t[:, None] * velocity).square().sum(1).mean().sqrt())


def spin(angle: Tensor) -> tuple[float, float]:
    """The even rotation, degrees per frame clockwise, that explains angle [T] best, and how well, in [0, 1].

    Peak of the periodogram |mean_t exp(i(angle_t - rate t))|: needs no unwrapping and forgives single bad frames.
    """
    rates = SPIN_RATES.to(angle).deg2rad()
    phase = angle - rates[:, None] * torch.arange(len(angle), device=angle.device)
    score = torch.hypot(phase.cos().mean(1), phase.sin().mean(1))
    best = int(score.argmax())
    return math.degrees(float(rates[best])), float(score[best])


def motion_of(fit: Fit, unit: float = 1.0) -> str | None:
    """The motion of the first SPAN frames (movers bounce later), or None when it is none of the world's.

    unit: frame size / 32. Shorter clips are measured at the same speeds. A single frame has no motion.
    """
    frames = min(len(fit.angle), SPAN + 1)
    if frames < 2:
        return None
    velocity, stray = line(fit.centre[:frames])
    path = velocity * (frames - 1) / unit  # pixels at 32 px
    share, length = (frames - 1) / SPAN, float(path.norm())
    if length >= TRAVEL * share:
        even = stray / unit <= max(WOBBLE * share, STRAIGHT * length)
        return direction(path) if even else None
    if length > STILL * share or stray / unit > WOBBLE:
        return None
    return rotation(fit.angle[:frames])


def direction(path: Tensor) -> str | None:
    """The direction whose axis the path [2] follows."""
    for name, (x, y) in DIRECTIONS.items():
        along, aside = float(path[0] * x + path[1] * y), float(path[0] * y - path[1] * x)
        if along > 0 and abs(aside) <= ASIDE * along:
            return name
    return None


def rotation(angle: Tensor) -> str | None:
    """Whether a thing that stays in place "rotates" (clockwise, evenly) or "rests"; None for anything else."""
    still = float(torch.hypot(angle.cos().mean(), angle.sin().mean()))
    rate, steady = spin(angle)
    if steady >= CONSTANT and rate * SPAN >= TURN:
        return "rotates"
    return "rests" if still >= CONSTANT and abs(rate) * SPAN < TURN else None


def matches(verdict: Verdict, wanted: Sequence[Thing]) -> dict[str, bool]:
    """Whether the clip shows what was wanted: colour, shape, motion (of every thing), count, and all four together.

    Open attributes always match, and so does the motion of a one-frame clip. Things are paired in the clip's favour.
    """
    pairings = [_pair(verdict, wanted, order) for order in permutations(_slots(verdict, len(wanted)), len(wanted))]
    best = max(pairings, key=lambda right: sum(sum(row) for row in right))
    right = {name: all(row[a] for row in best) for a, name in enumerate(("colour", "shape", "motion"))}
    right["count"] = len(verdict.things) == len(wanted)
    return {**right, "all": all(right.values())}


def _slots(verdict: Verdict, count: int) -> list[int | None]:
    """Indices of the things seen, filled with None up to what was wanted."""
    seen: list[int | None] = list(range(len(verdict.things)))
    return seen + [None] * (count - len(seen))


def _pair(verdict: Verdict, wanted: Sequence[Thing], order: Sequence[int | None]) -> list[tuple[bool, bool, bool]]:
    rows = []
    for want, i in zip(wanted, order, strict=True):
        seen = Thing(None, None, None) if i is None else verdict.things[i]
        rows.append(
            (
                want.colour in (None, seen.colour),
                want.shape in (None, seen.shape),
                verdict.frames == 1 or want.motion in (None, seen.motion),
            )
        )
    return rows


def accuracy(pixels: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Share of clips [B, 3, T, H, W] that show what their captions say, in [0, 1].

    Keys: colour, shape, motion, count, all; seen: share of clips with at least as many steady things as were named.
    """
    if len(pixels) != len(captions) or not captions:
        raise UserError(f"{len(pixels)} clips and {len(captions)} captions", "accuracy", "give one caption a clip")
    return tally(judge(pixels), captions)


def tally(verdicts: Sequence[Verdict], captions: Sequence[str]) -> dict[str, float]:
    """`accuracy` of clips already judged."""
    rows = []
    for verdict, text in zip(verdicts, captions, strict=True):
        wanted = parse(text)
        rows.append({**matches(verdict, wanted), "seen": len(verdict.things) >= len(wanted)})
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def features(pixels: Tensor) -> Tensor:
    """Fixed, interpretable features [B, 51] of clips, for Frechet distances; each entry of order one.

    Each colour's share of the coloured area, 6 (one-hot for a single thing); number of things / 2; and of the largest
    thing: IoU with each shape, 4; then at 8 even moments of the clip its centre (x, y) in [-1, 1], 4 radius / size,
    cos and sin of its angle. Nothing seen gives zeros.
    """
    return describe(judge(pixels))


def describe(verdicts: Sequence[Verdict]) -> Tensor:
    """`features` [B, 51] of clips already judged."""
    return torch.stack([_row(verdict) for verdict in verdicts])


def _row(verdict: Verdict) -> Tensor:
    if not verdict.fits:
        return torch.zeros(len(COLOURS) + 1 + len(SHAPES) + 5 * SAMPLES)
    colours = torch.zeros(len(COLOURS))
    for fit in verdict.fits:
        colours[list(COLOURS).index(fit.colour)] = float(fit.radius.square().mean())
    main = verdict.fits[0]
    moment = torch.linspace(0, verdict.frames - 1, SAMPLES).round().long()
    centre = 2 * main.centre.cpu()[moment] / torch.tensor(verdict.size[::-1], dtype=torch.float32) - 1
    radius, angle = 4 * main.radius.cpu()[moment] / min(verdict.size), main.angle.cpu()[moment]
    count = torch.tensor([len(verdict.fits) / 2])
    track = [centre.flatten(), radius, angle.cos(), angle.sin()]
    return torch.cat([colours / colours.sum(), count, main.shapes.cpu(), *track])
