"""The two ways a causal student attends: over a whole sequence under a mask, or over its memory, block by block.

Both render the same rule (masks.py), and a pass of one equals passes of the other. Rows of text in front of the clip
see text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ..core.attention import Rope
from .cache import Cache
from .layout import Layout, Places
from .masks import dense, mask_mod
from .places import apart, places


class Masked:
    """An `Attend` of a whole sequence: position i sits at made[i] and sees what table [T, T] says. For one forward,
    whose grid of positions all layers share.

    layout: whose rule says where remembered positions are read; as made, if not given.
    """

    def __init__(self, table: Tensor, made: Sequence[int] | None = None, layout: Layout | None = None) -> None:
        self.table, self.made = table, tuple(range(len(table)) if made is None else made)
        self.places: Places = "absolute" if layout is None else layout.places
        self.apart = None if layout is None else apart(table, self.made, layout)
        self._ropes: tuple[Rope, ...] = ()

    @property
    def numbers(self) -> Tensor | None:
        """See `core.attention.Placed`."""
        return torch.tensor(self.made, dtype=torch.float64) if self.places == "absolute" else None

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rope: Rope | None,
        *,
        prefix: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        rows, table, scale = (q.shape[2] - prefix) // len(self.table), self.table, None
        if rope is not None:
            self._ropes = self._ropes or self._placed(rope, rows, q.device)
            now = self._ropes[0]
            if self.apart is None or not (self.apart.sink or prefix):
                q, k = _turned(now, q, prefix), _turned(now, k, prefix)
            else:
                table, scale, copied = self.apart.table, q.shape[3] ** -0.5, self.apart.sink * rows
                q, k = self._halves(q, k, prefix, copied)
                v, mask = _again(v, 2, prefix, copied), None if mask is None else _again(mask, 1, prefix, copied)
        if q.is_cuda and mask is None:
            blocks = _block_mask(table, rows, prefix, q.device)
            return _compiled()(q, k, v, block_mask=blocks, scale=scale)  # type: ignore[no-any-return]
        seen = _dense(table, rows, prefix, q.device)
        seen = seen if mask is None else seen & mask[:, None, None]
        return scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)

    def _placed(self, rope: Rope, rows: int, device: torch.device) -> tuple[Rope, ...]:
        places = [torch.tensor(self.made, dtype=torch.float64)]
        if self.apart is not None:
            places += [self.apart.queries, torch.arange(self.apart.sink, dtype=torch.float64)]
        return tuple(rope.at(place.to(device), rows) for place in places)

    def _halves(self, q: Tensor, k: Tensor, prefix: int, copied: int) -> tuple[Tensor, Tensor]:
        """Queries [B, heads, N, 2 D] and keys [B, heads, N + copied, 2 D], so that one product reads from two places:
        queries at both, keys with zeros for the one they are not read from."""
        assert self.apart is not None
        now, there, ranks = self._ropes
        wide = q.shape[3]
        keys = [pad(now(k[:, :, prefix:]), (0, wide))]
        if prefix:
            keys.insert(0, pad(k[:, :, :prefix], (wide, 0) if self.apart.text else (0, wide)))
        if copied:
            keys.append(pad(ranks(k[:, :, prefix : prefix + copied]), (wide, 0)))
        return torch.cat([_turned(now, q, prefix), _turned(there, q, prefix)], 3), torch.cat(keys, 2)


def _again(x: Tensor, dim: int, start: int, count: int) -> Tensor:
    """With `count` of its rows from `start` on once more behind it."""
    return torch.cat([x, x.narrow(dim, start, count)], dim)


@lru_cache(maxsize=4)
def _dense(table: Tensor, rows: int, prefix: int, device: torch.device) -> Tensor:
    """The mask of a table, made once for all layers and steps: tables of a layout are the same object."""
    return dense(table.to(device), rows, prefix)


@lru_cache(maxsize=4)
def _block_mask(table: Tensor, rows: int, prefix: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    n, m = (prefix + rows * count for count in table.shape)
    return create_block_mask(mask_mod(table.to(device), rows, prefix), None, None, n, m, device=str(device))


@lru_cache(maxsize=1)
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _turned(rope: Rope, x: Tensor, prefix: int) -> Tensor:
    if not prefix:
        return rope(x)
    return torch.cat([x[:, :, :prefix], rope(x[:, :, prefix:])], 2)


class View:
    """An `Attend` of one block: it sees itself and what the cache holds for it now: whatever is committed later
    where a graph may read it again, until the next commit where there is none.

    ids: numbers of its positions. keep: hold on to the block's own keys and values, for `Cache.commit`.
    """

    def __init__(self, cache: Cache, ids: Sequence[int]) -> None:
        self.cache, self.ids, self.keep = cache, list(ids), False
        sink, local = cache.seen(len(self.ids))
        slots = [*sink, *local]
        numbers = [cache.ids[slot] for slot in slots]
        self.own, keys = places(cache.layout.places, numbers[: len(sink)], numbers[len(sink) :], self.ids)
        order = sorted(
            range(len(slots)), key=slots.__getitem__
        )  # as they lie in memory: which key is first is no matter
        self.slots, self.past = [slots[i] for i in order], keys[order]
        self.made: tuple[dict[int, Tensor], dict[int, Tensor]] = ({}, {})
        self._ropes: tuple[Rope, Rope | None] | None = None
        self._past: dict[int, tuple[Tensor, Tensor]] = {}
        self._rooms: dict[int, tuple[Tensor, Tensor]] = {}
        self._then = replace(cache, keys=dict(cache.keys), values=dict(cache.values)) if cache.through else cache

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rope: Rope | None,
        *,
        prefix: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        asked = q.shape[2] - (k.shape[2] - prefix)  # rows of text that ask: none where the answer is known
        text = [q[:, :, :asked], k[:, :, :prefix], v[:, :, :prefix]]
        q, k, v = q[:, :, asked:], k[:, :, prefix:], v[:, :, prefix:]
        rows = q.shape[2] // len(self.ids)
        if self.keep:
            self.made[0][layer], self.made[1][layer] = k, v
        if rope is not None:
            self._ropes = self._ropes or self._placed(rope, rows, q.device)
            q, k = self._ropes[0](q), self._ropes[0](k)
        k, v = self._joined(layer, [k, text[1]] if prefix else [k], [v, text[2]] if prefix else [v])
        if not prefix:
            return scaled_dot_product_attention(q, k, v)
        told = None if mask is None else mask[:, None, None, :prefix]
        rest = k.shape[2] - prefix
        seen = None if told is None else torch.cat([told.new_ones(1).expand(*told.shape[:3], rest), told], 3)
        answer = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        if not asked:
            return answer
        return torch.cat([scaled_dot_product_attention(text[0], text[1], text[2], attn_mask=told), answer], 2)

    @property
    def numbers(self) -> Tensor | None:
        """See `core.attention.Placed`."""
        return self.own if self.cache.layout.places == "absolute" else None

    @property
    def told(self) -> dict[str, Any] | None:
        """See `core.attention.Told`."""
        return self.cache.told

    def _placed(self, rope: Rope, rows: int, device: torch.device) -> tuple[Rope, Rope | None]:
        past = rope.at(self.past.to(device), rows) if self.slots else None
        return rope.at(self.own.to(device), rows), past

    def _joined(self, layer: int, keys: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What is remembered, then the given parts. Without a graph they are written into one place that all passes of
        the block use, which saves moving the past at each of them."""
        past = self._past_of(layer, keys[0])
        if past is None and len(keys) == 1:
            return keys[0], values[0]
        before = [] if past is None else [past]
        if torch.is_grad_enabled():
            return torch.cat([*(k for k, _ in before), *keys], 2), torch.cat([*(v for _, v in before), *values], 2)
        if layer not in self._rooms:
            room = torch.cat([*(k for k, _ in before), *keys], 2), torch.cat([*(v for _, v in before), *values], 2)
            self._rooms[layer] = room
            if past is not None:
                self._past[layer] = room[0][:, :, : past[0].shape[2]], room[1][:, :, : past[1].shape[2]]
            return room
        for whole, parts in zip(self._rooms[layer], (keys, values), strict=True):
            place = whole.shape[2] - sum(part.shape[2] for part in parts)
            for part in parts:
                whole[:, :, place : place + part.shape[2]] = part
                place += part.shape[2]
        return self._rooms[layer]

    def _past_of(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """Rotated keys and values of the cache; rotated once, and read in all passes of the block."""
        if self.cache.through and torch.is_grad_enabled():
            return self._read(self._then, layer, like.device)  # what was read without a graph has none to follow
        self.cache.lent = self.cache.lent or torch.is_grad_enabled()
        if layer not in self._past:
            found = self._read(self.cache, layer, like.device)
            if found is None:
                return None
            self._past[layer] = found
        return self._past[layer]

    def _read(self, cache: Cache, layer: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        found = cache.read(layer, self.slots, device)
        rope = None if self._ropes is None else self._ropes[1]
        return found if found is None or rope is None else (rope(found[0]), found[1])

    def commit(self) -> None:
        """Remember what the last pass with `keep` made."""
        self.cache.commit(self.ids, *self.made)
