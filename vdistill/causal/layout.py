"""How a sequence is cut into blocks: made one after the other, each seeing itself and what came before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..core.errors import UserError

Places = Literal["absolute", "relative", "anchored"]


@dataclass(frozen=True)
class Layout:
    """All counts are positions of the sequence (latent frames, or pairs of them for a network with patches of two).

    block: made at once; first: size of the first block, `block` when None; window: keys a block sees, with itself and
    the sink, None for all; sink: first positions that never leave the window.
    places: where rotary positions of remembered keys are. absolute: as made; relative: by rank in what is seen, so that
    no number grows (LongLive); anchored: as made, but the sink sits right before the rest (Rolling Forcing).
    """

    block: int = 3
    first: int | None = None
    window: int | None = None
    sink: int = 0
    places: Places = "absolute"

    def __post_init__(self) -> None:
        if self.block < 1 or (self.first is not None and self.first < 1):
            raise UserError(f"a block needs 1 position or more, found {self.first or self.block}", "causal.block")
        if self.sink < 0:
            raise UserError(f"must be 0 or more, found {self.sink}", "causal.sink")
        if self.window is None:
            return
        if self.window < max(self.block, self.first or 0):
            raise UserError(f"{self.window} is smaller than a block of {self.block}", "causal.window")
        if self.sink and self.window < self.sink + self.block:
            raise UserError(
                f"a sink of {self.sink} and a block of {self.block} do not fit in a window of {self.window}",
                "causal.sink",
            )

    def over(self, unit: int) -> Layout:
        """The same counted in positions of `unit` of what it was counted in. UserError for what does not divide."""
        for key in ("block", "first", "window", "sink"):
            if (value := getattr(self, key)) and value % unit:
                raise UserError(
                    f"{value} latent frames are not a multiple of {unit}, as this family asks", f"causal.{key}"
                )
        first, window = self.first and self.first // unit, self.window and self.window // unit
        return Layout(self.block // unit, first, window, self.sink // unit, self.places)

    def spans(self, length: int) -> Iterator[tuple[int, int]]:
        """(start, count) of the blocks of a sequence. UserError for a length that is not whole blocks."""
        start, first = 0, self.first or self.block
        if length < first or (length - first) % self.block:
            kind = f"{first} + k * {self.block}" if self.first else f"k * {self.block}"
            raise UserError(f"{length} positions are not whole blocks; possible is {kind}", "length")
        while start < length:
            count = self.block if start else first
            yield start, count
            start += count

    def blocks(self, length: int) -> list[int]:
        """The number of the block of every position."""
        return [i for i, (_, count) in enumerate(self.spans(length)) for _ in range(count)]

    def room(self, count: int) -> int | None:
        """Positions that a block of `count` sees beside itself and the sink; None for all."""
        return None if self.window is None else max(self.window - self.sink - count, 0)
