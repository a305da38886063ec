"""Where keys that are read sit on the rotary axis. They are remembered un-rotated, so this is a rule and no format."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import Places


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
