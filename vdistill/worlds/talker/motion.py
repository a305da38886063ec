"""How a head moves while its owner speaks: slow sways, nods on loud vowels, blinks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.rng import Rng
from .speech import FPS

SWAYS = (  # of x, y, roll, scale: amplitude (frame widths, radians, share) and two frequencies in Hz
    (0.018, (0.31, 0.113)),
    (0.010, (0.47, 0.171)),
    (0.055, (0.23, 0.089)),
    (0.025, (0.17, 0.071)),
)
NOD = 0.02  # frame widths down on a wide-open mouth
BLINK = (0.5, 1.0, 1.0, 0.7, 0.3)  # how far the lids are closed in the frames of a blink
BLINK_EVERY = (2.0, 5.0)  # seconds


def pose(opening: Tensor, rng: Rng, liveliness: float = 1.0) -> Tensor:
    """x, y in frame widths (right, down), roll in radians (clockwise) and scale, [T, 4], for a mouth that opens [T]."""
    t = torch.arange(len(opening)) / FPS
    phases = rng.uniform("phase", (4, 2), 0, 2 * math.pi).float()
    strength = rng.uniform("sway", (4,), 0.4, 1.0).float() * liveliness
    columns = []
    for i, (amplitude, rates) in enumerate(SWAYS):
        waves = sum(torch.sin(2 * math.pi * rate * t + phases[i, k]) for k, rate in enumerate(rates))
        columns.append(amplitude * strength[i] * waves / len(rates))
    track = torch.stack(columns, 1)
    track[:, 1] += NOD * liveliness * _average(opening, 9)
    track[:, 3] += 1
    return track


def _average(track: Tensor, width: int) -> Tensor:
    """Moving average of [T] over an odd number of frames, ends repeated."""
    rows = torch.nn.functional.pad(track[None, None], (width // 2, width // 2), mode="replicate")
    return torch.nn.functional.avg_pool1d(rows, width, 1)[0, 0]


def blinks(frames: int, rng: Rng) -> Tensor:
    """How far the lids are closed, [T] in [0, 1]."""
    closed, n = torch.zeros(frames), 0
    first = int(float(rng.uniform("blink", ())) * BLINK_EVERY[1] * FPS) - len(BLINK)
    while first < frames:
        for k, value in enumerate(BLINK):
            if 0 <= first + k < frames:
                closed[first + k] = value
        first += len(BLINK) + round(FPS * float(rng.uniform(f"blink/{n}", (), *BLINK_EVERY)))
        n += 1
    return closed
