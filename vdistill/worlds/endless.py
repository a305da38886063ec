"""The judge of streams of the `shapes` world: any two seconds of a clip that never ends, in which movers bounce.

Once a thing has bounced, left and right are one motion, to and fro along its axis; so are up and down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .judge import SPAN, STILL, STRAIGHT, TRAVEL, WOBBLE, Verdict, judge, rotation, tally
from .shapes import MOTIONS
from .trace import Fit

WINDOW = SPAN + 1  # frames; no true mover bounces twice within them
SAME = {"moves right": "moves left", "moves down": "moves up"}
ONSETS = 0.25  # frames between the moments of bouncing that are tried


def accuracy_at(pixels: Tensor, captions: Sequence[str], start: int) -> dict[str, float]:
    """Shares of clips [B, 3, T, H, W] whose frames [start, start + WINDOW) show what their captions say, as
    `judge.accuracy` names them."""
    verdicts = [endless(verdict) for verdict in judge(pixels[:, :, start : start + WINDOW])]
    return tally(verdicts, [same(text) for text in captions])


def same(text: str) -> str:
    """A caption in which right is left and down is up."""
    for word, other in SAME.items():
        text = text.replace(word, other)
    return text


def endless(verdict: Verdict) -> Verdict:
    """The same clip, its motions read as those of things that bounce."""
    unit = min(verdict.size) / 32
    things = tuple(replace(t, motion=to_and_fro(f, unit)) for t, f in zip(verdict.things, verdict.fits, strict=True))
    return replace(verdict, things=things)


def to_and_fro(fit: Fit, unit: float = 1.0) -> str | None:
    """ "moves left" for either way along x, "moves up" along y, "rotates", "rests", or None for none of the world's.

    unit: frame size / 32.
    """
    speeds, strays = zip(*(bounced(axis / unit) for axis in fit.centre.unbind(1)), strict=True)
    share = (len(fit.angle) - 1) / SPAN
    paths = [SPAN * share * speed for speed in speeds]  # pixels at 32 px
    main = max(range(2), key=lambda i: paths[i])
    other = float((fit.centre[:, 1 - main] / unit).std(correction=0))
    if paths[main] >= TRAVEL * share:
        even = max(strays[main], other) <= max(WOBBLE * share, STRAIGHT * paths[main])
        return MOTIONS[2 * main] if even else None
    if paths[main] > STILL * share or max(strays) > WOBBLE:
        return None
    return rotation(fit.angle)


def bounced(track: Tensor) -> tuple[float, float]:
    """(speed in pixels per frame, rms distance) of the even path that explains a coordinate [T] best, turning back at
    most once: x_t = p + s |t - m|."""
    n = len(track)
    t = torch.arange(n, dtype=track.dtype, device=track.device)
    moments = torch.arange(-1, n, ONSETS, dtype=track.dtype, device=track.device)
    bend = (t - moments[:, None]).abs()
    bend = bend - bend.mean(1, keepdim=True)
    offset = track - track.mean()
    speed = (bend * offset).sum(1) / bend.square().sum(1)
    stray = (offset - speed[:, None] * bend).square().mean(1)
    best = int(stray.argmin())
    return abs(float(speed[best])), float(stray[best].sqrt())
