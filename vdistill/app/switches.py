"""How a causal model follows another prompt in mid-stream: pairs of captions of the shapes world, judged after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..families.stock import StockFamily
from ..worlds.endless import WINDOW, accuracy_at
from ..worlds.shapes import Shapes, caption
from .causal_file import Saved
from .over_time import FPS
from .streaming import latent_count, stream_of

BEFORE = 6.0  # seconds under the first caption
AFTER = (0.0, 3.0, 8.0)  # seconds after the switch at which two seconds are judged


def pairs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """`count` captions, and those that they are switched to: one thing, all said, of every kind."""
    world = Shapes(split="all", open=0.0, seed=seed)
    said = [caption(world.things(i)) for i in range(2 * count)]
    return said[:count], said[count:]


@torch.no_grad()
def switched(
    family: StockFamily, spec: Saved, first: Sequence[str], then: Sequence[str], size: int, **how: Any
) -> tuple[Tensor, int]:
    """(pixels [B, 3, T, H, W], the frame from which `then` is told) of streams of pairs of captions, long enough to be
    judged. how: as `stream_of` takes it."""
    stream, decode = stream_of(family, spec, first, (size, size), **how), family.codec.stream()
    turn = latent_count(family, spec, round(BEFORE * FPS))
    total, made, frame = turn + latent_count(family, spec, round(AFTER[-1] * FPS) + WINDOW), list[Tensor](), 0
    while stream.number * stream.plan.unit < total:
        if stream.number * stream.plan.unit == turn:
            stream.switch(family.text(then).to(family.device))
            frame = sum(x.shape[2] for x in made)
        made.append(decode(next(stream)).cpu())
    return torch.cat(made, 2), frame


def measured(pixels: Tensor, first: Sequence[str], then: Sequence[str], turn: int) -> list[dict[str, float]]:
    """Shares of streams in which everything, and each thing, is right: before the switch, and seconds after it."""
    whens = [(-WINDOW / FPS, first), *((second, then) for second in AFTER)]
    found = []
    for second, captions in whens:
        right = accuracy_at(pixels, captions, turn + round(second * FPS))
        found.append({"second": second, "accuracy": right.pop("all"), **right})
    return found
