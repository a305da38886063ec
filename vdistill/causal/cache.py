"""What a causal student remembers: un-rotated keys and values of the positions it made, for every layer.

Reading never changes anything; only `commit` does. The sink and a ring of the last positions are allocated once, so
memory does not grow with the length of the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .layout import Layout

GROWTH = 16  # positions by which a cache without a window grows


@dataclass
class Cache:
    """ids: number of the position in each slot; the first slots are the sink. keys, values: of each layer, [B, heads,
    slots rows, D], rows of one position side by side.

    store: where they are kept, the device they were made on when None. through: keep the graph of what is committed, so
    that a later block's loss reaches an earlier one (Self-Forcing's own code does; its followers do not).
    """

    layout: Layout
    store: torch.device | None = None
    through: bool = False
    ids: list[int] = field(default_factory=list)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    told: dict[str, Any] | None = None
    """See `core.attention.Told`: kept by streams, whose weights stay."""
    lent: bool = False
    """Whether a pass with a graph may read these tensors again when it is computed twice."""

    @property
    def slots(self) -> int | None:
        """Most positions that are remembered; None for all."""
        room = self.layout.room(self.layout.block)
        return None if room is None else self.layout.sink + room

    def __len__(self) -> int:
        return len(self.ids)

    def seen(self, count: int) -> tuple[list[int], list[int]]:
        """Slots a block of `count` reads: (of the sink, of the last positions before it, in order)."""
        sink = list(range(min(self.layout.sink, len(self.ids))))
        local = sorted(range(len(sink), len(self.ids)), key=self.ids.__getitem__)
        room = self.layout.room(count)
        return sink, local if room is None else local[max(len(local) - room, 0) :]

    def commit(self, ids: Sequence[int], keys: Mapping[int, Tensor], values: Mapping[int, Tensor]) -> None:
        """Remember positions `ids`: keys and values [B, heads, len(ids) rows, D] of each layer, un-rotated.

        The oldest beside the sink make room.
        """
        if self.ids and ids[0] <= max(self.ids):
            raise UserError(f"position {ids[0]} comes after {max(self.ids)}, which is remembered", "causal cache")
        slots = self._places_for(ids)
        for own, new in ((self.keys, keys), (self.values, values)):
            for layer, value in new.items():
                own[layer] = self._written(own.get(layer), value, slots, len(ids))
        self.lent = False

    def _places_for(self, ids: Sequence[int]) -> list[int | None]:
        """The slot of each new position; None for one that others of `ids` push out at once."""
        chosen: list[int | None] = []
        for number in ids:
            if self.slots is None or len(self.ids) < self.slots:
                chosen.append(len(self.ids))
                self.ids.append(number)
            elif self.slots == self.layout.sink:
                chosen.append(None)
            else:
                oldest = min(range(self.layout.sink, len(self.ids)), key=self.ids.__getitem__)
                chosen = [None if slot == oldest else slot for slot in chosen]
                chosen.append(oldest)
                self.ids[oldest] = number
        return chosen

    def _written(self, old: Tensor | None, new: Tensor, slots: Sequence[int | None], count: int) -> Tensor:
        new = new if self.through else new.detach()
        rows = new.shape[2] // count
        total = self.slots or -(-len(self.ids) // GROWTH) * GROWTH
        if old is None or old.shape[2] < total * rows:
            bigger = torch.zeros(
                *new.shape[:2], total * rows, new.shape[3], dtype=new.dtype, device=self.store or new.device
            )
            if old is not None:
                bigger[:, :, : old.shape[2]] = old
            old = bigger
        elif self.lent or self.through:
            old = old.clone()  # someone may still look at it as it was
        for i, slot in enumerate(slots):
            if slot is not None:
                old[:, :, slot * rows : (slot + 1) * rows] = new[:, :, i * rows : (i + 1) * rows]
        return old

    def read(self, layer: int, slots: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Keys and values of some slots, [B, heads, len(slots) rows, D]; None where nothing is remembered."""
        if not slots:
            return None
        found = []
        for table in (self.keys, self.values):
            whole = table[layer]
            rows = whole.shape[2] // (self.slots or -(-len(self.ids) // GROWTH) * GROWTH)
            if list(slots) == list(range(len(slots))):
                part = whole[:, :, : len(slots) * rows]
            else:
                index = torch.tensor(slots, device=whole.device)
                part = whole.unflatten(2, (-1, rows)).index_select(2, index).flatten(2, 3)
            found.append(part.to(device))
        return found[0], found[1]

    # -- what is kept of a stream -----------------------------------------------------------------------------------

    def clone(self) -> Cache:
        """An independent copy."""
        copied = Cache(self.layout, self.store, self.through, list(self.ids))
        copied.keys = {layer: value.clone() for layer, value in self.keys.items()}
        copied.values = {layer: value.clone() for layer, value in self.values.items()}
        return copied

    def state(self) -> dict[str, Tensor]:
        """Everything that is remembered, as tensors."""
        found = {"ids": torch.tensor(self.ids, dtype=torch.int64)}
        for name, table in (("key", self.keys), ("value", self.values)):
            found |= {f"{name}.{layer}": value.detach().clone() for layer, value in table.items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken of."""
        self.ids = state["ids"].tolist()
        for name, table in (("key", self.keys), ("value", self.values)):
            table.clear()
            for key, value in state.items():
                if key.startswith(f"{name}."):
                    table[int(key.removeprefix(f"{name}."))] = value.clone()

    def move(self, device: torch.device) -> None:
        """Keep what is remembered on `device`, unless it has a store of its own."""
        for table in (self.keys, self.values):
            table |= {layer: value.to(self.store or device) for layer, value in table.items()}

    def nbytes(self) -> int:
        """Size of what is remembered."""
        return sum(t.numel() * t.element_size() for table in (self.keys, self.values) for t in table.values())
