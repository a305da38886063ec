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
    """

    fields: Fields = field(default_factory=dict)
    along: Fields = field(default_factory=dict)
    null: Fields = field(default_factory=dict)

    def drop(self, names: Collection[str]) -> Cond:
        """The same without the named conditions. KeyError, naming what can be dropped, for one without a null."""
        for name in names:
            if name not in self.null or not (name in self.fields or name in self.along):
                raise KeyError(f"cannot drop condition {name!r}; droppable here: {sorted(self.null) or 'none'}")

        def without(kept: Fields) -> Fields:
            return {k: self.null[k].expand_as(v) if k in names else v for k, v in kept.items()}

        return replace(self, fields=without(self.fields), along=without(self.along))

    def drop_where(self, name: str, mask: Tensor) -> Cond:
        """Drop one condition in the samples where mask [B] is true (classifier-free guidance training)."""

        def without(kept: Fields) -> Fields:
            if name not in kept:
                return kept
            value = kept[name]
            keep = mask.to(value.device).view(-1, *[1] * (value.ndim - 1))
            return {**kept, name: torch.where(keep, self.null[name].expand_as(value), value)}

        if name not in self.null:
            raise KeyError(f"cannot drop condition {name!r}; droppable here: {sorted(self.null) or 'none'}")
        return replace(self, fields=without(self.fields), along=without(self.along))

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
