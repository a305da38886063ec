"""Several sources as one: which of them a micro-batch comes from is drawn by weight, and is the same on every rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.rng import Rng
from ..core.step import Batch

BLOCK = 1024  # micro-batches whose sources are drawn at once
Source = Callable[[int, int], Batch]
"""(step, global micro-batch) -> Batch."""


@dataclass(frozen=True)
class Shapes:
    """shape: [C, T, H, W] of the commonest latents of a mixture; shapes: all there are."""

    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


class Mixed:
    """The engine's source over several. micro: micro-batches of a step over all ranks.

    Whether the n-th micro-batch of the run comes from a source is the draw "data/mix" of block n // 1024. Each source
    goes on where it was left: it gives the batches it would give alone, in their order, so that nothing of it is left
    out or comes twice in an epoch; with all the weight it gives what it gives alone. A run taken up again counts the
    draws before it.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[float], micro: int = 1, seed: int = 0) -> None:
        """UserError unless there is one positive weight for each source."""
        if not sources or len(sources) != len(weights):
            raise UserError(f"{len(weights)} weights for {len(sources)} parts", "data.weights", "one for each part")
        if not all(0 <= w < math.inf for w in weights) or not sum(weights) > 0:
            raise UserError(f"{[*weights]} are not shares", "data.weights", "such as [0.7, 0.3]")
        self.sources, self.weights, self.micro, self.seed = tuple(sources), tuple(weights), micro, seed
        self._ends = torch.tensor(self.weights, dtype=torch.float64).cumsum(0)
        self._before = [torch.zeros(len(self.weights), dtype=torch.int64)]  # batches of each source before a block
        self._last: tuple[int, Tensor] = (0, self._draw(0))

    def __call__(self, step: int, micro: int) -> Batch:
        source, turn = self.place(step * self.micro + micro)
        return self.sources[source](*divmod(turn, self.micro))

    def place(self, number: int) -> tuple[int, int]:
        """(source of micro-batch `number` of the run, how many that source gave before)."""
        block, i = divmod(number, BLOCK)
        while len(self._before) <= block:
            counts = torch.bincount(self._draw(len(self._before) - 1), minlength=len(self.weights))
            self._before.append(self._before[-1] + counts)
        if self._last[0] != block:
            self._last = block, self._draw(block)
        draws = self._last[1]
        source = int(draws[i])
        return source, int(self._before[block][source] + (draws[:i] == source).sum())

    def _draw(self, block: int) -> Tensor:
        """The sources [BLOCK] of one block."""
        place = Rng(self.seed, step=block, turn="data").uniform("mix", (BLOCK,), 0.0, float(self._ends[-1]))
        found = torch.searchsorted(self._ends, place, right=True)
        last = max(i for i, weight in enumerate(self.weights) if weight > 0)  # rounding may reach the very end
        return found.clamp(max=last)

    @property
    def data(self) -> Shapes | None:
        """The shapes of the parts that know theirs, the heaviest first; None where none does."""
        parts: list[Any] = [getattr(source, "data", None) for source in self.sources]
        found = [(weight, part) for weight, part in zip(self.weights, parts, strict=True) if part is not None]
        if not found:
            return None
        known = [part for _, part in sorted(found, key=lambda pair: -pair[0])]
        shapes = [tuple(s) for part in known for s in (getattr(part, "shapes", None) or [part.shape])]
        return Shapes(tuple(known[0].shape), tuple(dict.fromkeys(shapes)))
