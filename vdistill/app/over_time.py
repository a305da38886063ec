"""How a causal model holds out: the captions of the shapes world, streamed for long, measured two seconds at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..eval.drift import drift
from ..families.stock import StockFamily
from ..worlds.endless import WINDOW, accuracy_at
from .causal_file import Saved
from .streaming import held_back, latent_count, stream_of

FPS = 8.0  # of the world
ENDS = 5.0  # seconds at the beginning and at the end that are compared


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the windows that lie within the first and the last seconds, and what share is kept at the end."""
    length = WINDOW / FPS
    last = rows[-1]["second"] + length
    first = [r["accuracy"] for r in rows if r["second"] + length <= ENDS + 1 / FPS]
    end = [r["accuracy"] for r in rows if r["second"] >= last - ENDS - 1 / FPS]
    begun, ended = sum(first) / len(first), sum(end) / len(end)
    return {"accuracy_first_5s": begun, "accuracy_last_5s": ended, "kept": ended / begun if begun else 0.0}


@torch.no_grad()
def streamed(
    family: StockFamily, spec: Saved, captions: Sequence[str], seconds: float, size: int, **how: Any
) -> Tensor:
    """[B, 3, T, H, W] of every caption streamed for `seconds`. how: as `stream_of` takes it.

    UserError for a stream shorter than its two ends.
    """
    if not seconds >= 2 * ENDS:
        raise UserError(f"must be {2 * ENDS:g} or more, found {seconds:g}", "--seconds")
    frames = math.ceil(seconds * FPS) + 1
    stream = stream_of(family, spec, captions, (size, size), **how)
    total, decode, made = latent_count(family, spec, frames), family.codec.stream(), []
    while stream.number * stream.plan.unit < total:
        made.append(decode(next(stream)).cpu())
    if (rest := held_back(decode)) is not None:
        made.append(rest)
    return torch.cat(made, 2)[:, :, :frames]


def measured(pixels: Tensor, captions: Sequence[str]) -> list[dict[str, float]]:
    """Clips [B, 3, T, H, W] window by window: "second" it begins at, what is right, how it has drifted (eval/drift.py).

    Neighbouring windows share a frame.
    """
    rows = []
    for start in range(0, pixels.shape[2] - WINDOW + 1, WINDOW - 1):
        right = accuracy_at(pixels, captions, start)
        both = torch.cat([pixels[:, :, :WINDOW], pixels[:, :, start : start + WINDOW]], 2)
        changed = {name: float(values[:, 1].mean()) for name, values in drift(both, WINDOW).items()}
        rows.append({"second": start / FPS, "accuracy": right.pop("all"), **right, **changed})
    return rows
