"""Mel-frequency cepstra as published sync networks expect them: 13 numbers every 10 ms, of 25 ms.

The steps are those of the python_speech_features package with its defaults (Davis and Mermelstein 1980): pre-emphasis
.97, no window, an FFT of 512, 26 triangles on the HTK mel scale from 0 to 8 kHz, log, orthonormal cosine transform,
liftering by 22, and the log energy of the frame in place of the first number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATE, HOP, WINDOW, FFT = 16_000, 160, 400, 512
BANDS, NUMBERS, LIFTER, EMPHASIS = 26, 13, 22, 0.97
TINY = torch.finfo(torch.float64).eps


def mfcc(sound: Tensor) -> Tensor:
    """sound [samples] at 16 kHz -> [steps, 13], float32. The scale matters: published networks heard 16-bit integers,
    so multiply sound in [-1, 1] by 32768."""
    x = sound.double()
    x = torch.cat([x[:1], x[1:] - EMPHASIS * x[:-1]])
    steps = 1 if len(x) <= WINDOW else 1 + math.ceil((len(x) - WINDOW) / HOP)
    x = torch.nn.functional.pad(x, (0, (steps - 1) * HOP + WINDOW - len(x)))
    power = torch.fft.rfft(x.unfold(0, WINDOW, HOP), FFT).abs().square() / FFT  # [steps, 257]
    energy = power.sum(1).clamp(min=TINY).log()
    bands = (power @ _triangles()).clamp(min=TINY).log()
    n = torch.arange(NUMBERS, dtype=torch.float64)
    cepstra = (bands @ _cosines()) * (1 + LIFTER / 2 * torch.sin(math.pi * n / LIFTER))
    return torch.cat([energy[:, None], cepstra[:, 1:]], 1).float()


def _triangles() -> Tensor:
    """[257, 26], corners at whole FFT bins."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    mel = torch.linspace(0, top, BANDS + 2, dtype=torch.float64)
    corner = ((FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / RATE).floor()
    bins = torch.arange(FFT // 2 + 1, dtype=torch.float64)[:, None]
    rise = (bins - corner[:-2]) / (corner[1:-1] - corner[:-2])
    fall = (corner[2:] - bins) / (corner[2:] - corner[1:-1])
    inside = (bins >= corner[:-2]) & (bins < corner[2:])
    return torch.where(inside, torch.where(bins < corner[1:-1], rise, fall), torch.zeros_like(rise))


def _cosines() -> Tensor:
    """[26, 13], the orthonormal transform of type II."""
    k, n = torch.arange(BANDS, dtype=torch.float64), torch.arange(NUMBERS, dtype=torch.float64)
    table = torch.cos(math.pi * (k[:, None] + 0.5) * n / BANDS) * math.sqrt(2 / BANDS)
    table[:, 0] = math.sqrt(1 / BANDS)
    return table
