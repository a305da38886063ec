"""Conditioning as data: named tensors, what stands for "without it", and which of them run along the sequence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Fields = Mapping[str, Tensor]


@dataclass(frozen=True)
class Cond:
    """fields: whole-sample conditions, name -> [B, ...]; along: conditions that follow the sample's sequence axis,
    name -> [B, T, ...]; null: name -> [1, ...], what a dropped condition becomes (broadcast over B and T).
    A condition of several tensors is one name and its parts, "text" with "text.mask": they are dropped together.
    """

    fields: Fields = field(default_factory=dict)
    along: Fields = field(default_factory=dict)
    null: Fields = field(default_factory=dict)

    def drop(self, names: Collection[str]) -> Cond:
        """The same without the named conditions. KeyError, naming what can be dropped, for one without a null."""
        gone = {part for name in names for part in self._parts(name)}

        def without(kept: Fields) -> Fields:
            return {k: self.null[k].expand_as(v) if k in gone else v for k, v in kept.items()}

        return replace(self, fields=without(self.fields), along=without(self.along))

    def drop_where(self, name: str, mask: Tensor) -> Cond:
        """Drop one condition in the samples where mask [B] is true (classifier-free guidance training)."""

        gone = self._parts(name)

        def nulled(part: str, value: Tensor) -> Tensor:
            dropped = mask.to(value.device).view(-1, *[1] * (value.ndim - 1))
            return torch.where(dropped, self.null[part].expand_as(value), value)

        def without(kept: Fields) -> Fields:
            return {k: nulled(k, v) if k in gone else v for k, v in kept.items()}

        return replace(self, fields=without(self.fields), along=without(self.along))

    def drop_by(self, table: Sequence[tuple[Collection[str], float]], draw: Tensor) -> Cond:
        """Drop in each sample what its draw [B] in [0, 1) says: each row of the table (names, share of the samples) has
        an interval of its own, in order, so that the rows exclude each other and what is left keeps everything."""
        cond, low = self, 0.0
        for names, share in table:
            chosen = (draw >= low) & (draw < low + share)
            for name in names:
                cond = cond.drop_where(name, chosen)
            low += share
        return cond

    def _parts(self, name: str) -> set[str]:
        """The tensors that are one condition. KeyError, naming what can be dropped, for one without a null."""
        present = {*self.fields, *self.along}
        parts = {k for k in self.null if k in present and (k == name or k.startswith(f"{name}."))}
        if not parts:
            raise KeyError(f"cannot drop condition {name!r}; droppable here: {sorted(self.null) or 'none'}")
        return parts

    def narrow(self, start: int, length: int) -> Cond:
        """Positions [start, start + length) of everything that runs along the sequence."""
        return replace(self, along={k: v.narrow(1, start, length) for k, v in self.along.items()})

    def with_field(self, name: str, value: Tensor) -> Cond:
        """One more (or another) whole-sample condition [B, ...]."""
        return replace(self, fields={**self.fields, name: value})

    def select(self, index: Tensor | slice) -> Cond:
        """Samples `index` of the batch."""
        return self._map(lambda v: v[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cond:
        """Moved; dtype applies to floating-point values only."""

        def move(v: Tensor) -> Tensor:
            return v.to(device=device, dtype=dtype if v.is_floating_point() else None)

        return replace(self._map(move), null={k: move(v) for k, v in self.null.items()})

    def _map(self, change: Callable[[Tensor], Tensor]) -> Cond:
        return replace(
            self,
            fields={k: change(v) for k, v in self.fields.items()},
            along={k: change(v) for k, v in self.along.items()},
        )

    @staticmethod
    def cat(parts: Sequence[Cond]) -> Cond:
        """One batch out of several with the same names; null comes from the first."""
        return replace(
            parts[0],
            fields={k: torch.cat([p.fields[k] for p in parts]) for k in parts[0].fields},
            along={k: torch.cat([p.along[k] for p in parts]) for k in parts[0].along},
        )
