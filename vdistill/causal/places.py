"""Where keys that are read sit on the rotary axis. They are remembered un-rotated, so this is a rule and no format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .layout import Layout, Places


def places(rule: Places, sink: Sequence[int], local: Sequence[int], own: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(places of the queries [len(own)], of the keys [sink, local, own]), float64.

    sink, local, own: numbers of the positions that are read, each rising; a gap between neighbours of the last two is a
    cut, which every rule keeps.
    """
    rest = [*local, *own]
    if rule == "relative":
        rest = [len(sink) + number - rest[0] for number in rest]
        sink = range(len(sink))
    elif rule == "anchored":
        sink = range(rest[0] - len(sink), rest[0])
    keys = torch.tensor([*sink, *rest], dtype=torch.float64)
    return keys[len(keys) - len(own) :], keys


@dataclass(frozen=True, eq=False)
class Apart:
    """What a pass over a whole sequence of T reads at other distances than the numbers of its positions are apart.

    sink: how many first positions, read as a second copy of them at places 0, 1, ...; text: whether text in front is
    too. queries: [T], float64, the places from which they are read. table: [T, T + sink], who sees whom; the last
    columns are the copy, which is read in place of the sink, but not in place of a block's own positions.
    """

    table: Tensor
    queries: Tensor
    sink: int
    text: bool


@lru_cache(maxsize=32)
def apart(table: Tensor, numbers: tuple[int, ...], layout: Layout) -> Apart | None:
    """`places` for all blocks at once: position i sits at numbers[i] and sees what table [T, T] says. None where
    everything is read as far away as it was made.

    Rotary scores depend on distances alone. Relative and anchored, position n of a block that sees s of the sink and
    then all from r on reads rank j of the sink at distance n - r + s - j; relative, it stands at n - r + s for text.
    """
    if layout.places == "absolute":
        return None
    made = torch.tensor(numbers, dtype=torch.float64)
    own = (table[:, None] == table[None]).all(2)  # what sees the same is one block
    sunk = table & ~own & (torch.arange(len(table), device=table.device) < layout.sink)
    nearest = made.expand(len(made), -1).masked_fill(~table | sunk, torch.inf).amin(1)
    count, sink, text = sunk.sum(1), int(sunk.any(0).sum()), layout.places == "relative"
    queries = made - nearest + count
    if torch.equal(queries, made) or not (sink or text):
        return None
    return Apart(torch.cat([table & ~sunk, sunk[:, :sink]], 1), queries, sink, text)
