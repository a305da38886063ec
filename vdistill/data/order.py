"""In which order samples are seen: a function of (seed, step, micro-batch), the same for any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..core.rng import Rng


@lru_cache(maxsize=16)
def permutation(seed: int, name: str, epoch: int, length: int) -> tuple[int, ...]:
    """The order of one epoch."""
    source = Rng(seed, step=epoch, turn="order").generator(name)
    return tuple(torch.randperm(length, generator=source).tolist())


@dataclass(frozen=True)
class Order:
    """groups: samples of each shape, which follow each other in the index; batch: samples of a micro-batch; micro:
    micro-batches of a step over all ranks.

    A step takes its batch * micro samples from one group, so that all ranks work on equal shapes. A group is passed
    through epoch by epoch, each in its own permutation, and goes on where its last step ended: nothing is left out and
    nothing comes twice before everything came once. Runs with equal batch * micro see the same samples at each step.
    """

    groups: tuple[int, ...]
    batch: int
    micro: int = 1
    seed: int = 0

    def index(self, step: int, micro: int) -> list[int]:
        """The samples of global micro-batch `micro` of a step."""
        group, turn = self._slot(step)
        length, base = self.groups[group], sum(self.groups[:group])
        first = turn * self.batch * self.micro + micro * self.batch
        places = (divmod(i, length) for i in range(first, first + self.batch))
        return [base + permutation(self.seed, f"group {group}", epoch, length)[i] for epoch, i in places]

    def _slot(self, step: int) -> tuple[int, int]:
        """(group, how many steps that group had before)."""
        if len(self.groups) == 1:
            return 0, step
        epoch = step * self.batch * self.micro // sum(self.groups)
        while self._begin(epoch) > step:
            epoch -= 1
        while self._begin(epoch + 1) <= step:
            epoch += 1
        return _slots(self, epoch)[step - self._begin(epoch)]

    def _steps(self, length: int, epoch: int) -> int:
        """Steps a group needs to begin before its epoch `epoch` is reached."""
        return -(-epoch * length // (self.batch * self.micro))

    def _begin(self, epoch: int) -> int:
        return sum(self._steps(n, epoch) for n in self.groups)


@lru_cache(maxsize=4)
def _slots(order: Order, epoch: int) -> tuple[tuple[int, int], ...]:
    """(group, how many steps it had before) of every step of an epoch: groups at random, each in its own order."""
    turns = [range(order._steps(n, epoch), order._steps(n, epoch + 1)) for n in order.groups]
    whose = [group for group, steps in enumerate(turns) for _ in steps]
    mixed = [whose[i] for i in permutation(order.seed, "steps", epoch, len(whose))]
    rest = [iter(steps) for steps in turns]
    return tuple((group, next(rest[group])) for group in mixed)


def index(seed: int, step: int, micro: int, batch: int, length: int, micros: int = 1) -> list[int]:
    """`Order.index` for samples of one shape."""
    return Order((length,), batch, micros, seed).index(step, micro)


def epoch(groups: Sequence[int], batch: int, micro: int, step: int) -> float:
    """Passes over the data before a step."""
    return step * batch * micro / sum(groups)
