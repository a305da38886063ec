"""Who may see whom, said once for positions and rendered for tokens: a dense mask, or a function for FlexAttention.

A table [T, S] is true where a position of the queries may read a position of the keys. Nobody writes into one: those of
a layout are made once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .layout import Layout

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query, key) -> whether it may be read: what FlexAttention asks for."""


def bidirectional(length: int) -> Tensor:
    """Every position sees every other."""
    return torch.ones(length, length, dtype=torch.bool)


@lru_cache(maxsize=32)
def block_causal(layout: Layout, length: int) -> Tensor:
    """A block sees itself, the sink and as much before it as its window holds (diffusion forcing: Chen et al. 2024)."""
    table = torch.zeros(length, length, dtype=torch.bool)
    for start, count in layout.spans(length):
        room, rows, end = layout.room(count), slice(start, start + count), start + count
        table[rows, :end] = True
        if room is not None:
            table[rows, layout.sink : max(start - room, layout.sink)] = False
    return table


@lru_cache(maxsize=32)
def teacher_forcing(layout: Layout, length: int) -> Tensor:
    """Of [clean | noisy]: clean blocks see clean ones up to themselves; a noisy block sees itself and the clean ones
    before it (Causal Forcing, stage 1)."""
    seen, block = block_causal(layout, length), torch.tensor(layout.blocks(length))
    own = block[:, None] == block[None]
    return torch.cat([torch.cat([seen, torch.zeros_like(seen)], 1), torch.cat([seen & ~own, own], 1)])


def rolling(layout: Layout, length: int, clean: int) -> Tensor:
    """The first `clean` positions are block causal; all others see each other and what their window holds of those."""
    table = torch.zeros(length, length, dtype=torch.bool)
    table[:clean, :clean] = block_causal(layout, clean)
    table[clean:] = True
    room = layout.room(length - clean)
    if room is not None:
        table[clean:, layout.sink : max(clean - room, layout.sink)] = False
    return table


def with_prefix(table: Tensor) -> Tensor:
    """One more position in front, the text of a joint model: it sees itself alone, and all see it.

    Text that read the clip would carry the future into the past.
    """
    seen = torch.nn.functional.pad(table, (1, 0, 1, 0), value=True)
    seen[0, 1:] = False
    return seen


def dense(table: Tensor, rows: int, prefix: int = 0) -> Tensor:
    """[N, M] of tokens: `rows` to a position, after `prefix` of text."""
    if not prefix:
        return table.repeat_interleave(rows, 0).repeat_interleave(rows, 1)
    queries, keys = (torch.tensor([prefix] + [rows] * count, device=table.device) for count in table.shape)
    return with_prefix(table).repeat_interleave(queries, 0).repeat_interleave(keys, 1)


def mask_mod(table: Tensor, rows: int, prefix: int = 0) -> MaskMod:
    """The same as a function of token indices, for `create_block_mask`."""
    table = with_prefix(table)

    def place(token: Tensor) -> Tensor:
        return torch.where(token < prefix, 0, 1 + (token - prefix) // rows)

    return lambda batch, head, query, key: table[place(query), place(key)]
