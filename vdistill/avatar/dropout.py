"""Which conditions a training sample goes without: at most one of several cases, with stated shares.

Guidance needs a network that knows each of its passes: without the reference, without the sound, without both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import UserError
from ..core.rng import Rng

TALKING = {"ref": 0.1, "audio": 0.1, "ref+audio": 0.1}
"""Shares of a talking teacher (after Hallo and Sonic); "motion": 0.05 to 0.3 where there are motion frames."""


@dataclass(frozen=True)
class Dropout:
    """table: names of conditions joined by "+" -> share of samples that go without them; the rest keeps all.

    The cases exclude each other, so the shares are those of the network's training exactly.
    """

    table: Mapping[str, float] = field(default_factory=lambda: dict(TALKING))

    def __post_init__(self) -> None:
        if any(not share >= 0 for share in self.table.values()) or not sum(self.table.values()) <= 1 + 1e-9:
            what = f"shares {dict(self.table)} add up to {sum(self.table.values()):g}"
            raise UserError(what, "avatar dropout", "none below 0, together at most 1")

    def draw(self, count: int, rng: Rng) -> Tensor:
        """Case of each sample [count]: its place in the table, or the table's length for none (draw "dropout")."""
        ends = torch.tensor([*self.table.values()], dtype=torch.float64).cumsum(0)
        return torch.searchsorted(ends, rng.uniform("dropout", (count,)), right=True)

    def __call__(self, cond: Cond, rng: Rng, count: int) -> Cond:
        """cond of `count` samples, each without what its case names. KeyError for a name that cond cannot drop."""
        case = self.draw(count, rng)
        for i, names in enumerate(self.table):
            for name in names.split("+"):
                cond = cond.drop_where(name, case == i)
        return cond
