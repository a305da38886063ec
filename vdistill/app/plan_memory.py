"""What a training step holds in memory, by role: results of acting it out without numbers, and how they add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..families.stock import StockFamily

Flops = Counter[torch.dtype]


@dataclass(frozen=True)
class Opened:
    """A family whose weights nobody needs; the tokens of a caption its network is given; what type its weights would
    be opened in, None where they are as they will be; released: whether its text encoders leave memory."""

    family: StockFamily
    length: int
    dtype: torch.dtype | None = None
    released: bool = False


@dataclass
class Passes:
    """Forward passes of one role in an update. samples; flops: by type; working: most bytes one needed beside its
    input, its graph included where it keeps one."""

    samples: float = 0.0
    flops: Flops = field(default_factory=Counter)
    working: int = 0


@dataclass(frozen=True)
class Update:
    """One learner's update. often: updates per step; peak: most bytes alive; working: those of them that are neither
    weights nor gradients nor optimizer states; flops: by type; passes: forward passes by role."""

    often: float
    peak: int
    working: int
    flops: Flops
    passes: Mapping[str, Passes]


@dataclass(frozen=True)
class Simulated:
    """parts: parameters by part; memory: resident bytes by what they are; updates: by learner; can_recompute: whether
    its networks can compute activations twice; between: bytes of what is done between updates, for itself."""

    parts: Mapping[str, int]
    memory: Mapping[str, int]
    updates: Mapping[str, Update]
    can_recompute: bool = True
    between: Mapping[str, int] = field(default_factory=dict)

    @property
    def resident(self) -> int:
        """Bytes that stay between updates, gradients among them."""
        return sum(self.memory.values())

    @property
    def peak(self) -> int:
        """Most bytes alive in any update, or between them."""
        rest = [self.resident + size for size in self.between.values()]
        return max([*(update.peak for update in self.updates.values()), *rest])

    @property
    def flops(self) -> Flops:
        """Of a mean step, by type."""
        return _weighted((update.often, update.flops) for update in self.updates.values())


def mean(found: Sequence[tuple[float, Simulated]]) -> Simulated:
    """One out of several by share: work is averaged, memory is the most."""
    first = found[0][1]
    updates = {}
    for name, update in first.updates.items():
        each = [(share, simulated.updates[name]) for share, simulated in found]
        roles = {role: None for _, u in each for role in u.passes}
        updates[name] = replace(
            update,
            peak=max(u.peak for _, u in each),
            working=max(u.working for _, u in each),
            flops=_weighted((share, u.flops) for share, u in each),
            passes={
                role: _passes([(share, u.passes[role]) for share, u in each if role in u.passes]) for role in roles
            },
        )
    return replace(first, updates=updates)


def _passes(each: Sequence[tuple[float, Passes]]) -> Passes:
    samples = sum(share * p.samples for share, p in each)
    return Passes(samples, _weighted((share, p.flops) for share, p in each), max(p.working for _, p in each))


def _weighted(each: Iterable[tuple[float, Flops]]) -> Flops:
    total: Flops = Counter()
    for share, flops in each:
        total.update({kind: int(share * count) for kind, count in flops.items()})
    return total
