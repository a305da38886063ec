"""A stream whose blocks are at all noise levels at once: one forward a block, whatever the number of steps.

At every tick a block enters at the first time, those before it are one time further, and the oldest leaves (stream
batch, Kodaira et al. 2023). Each level remembers the keys and values of its own passes, at its own noise, so there is
no pass to commit a clean block either (LiveAvatar's timestep-forcing, here in one batch): n steps cost 1 forward of a
batch of n, not n + 1 forwards. A block leaves n - 1 ticks after it entered, and a new prompt shows as late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.rng import EachRng
from ..core.sampling import Move, at, renoised, start
from .attend import View
from .cache import Cache
from .rollout import Plan, block_rng
from .student import Remembering


@dataclass(frozen=True)
class Flight:
    """A block under way: the number of its first position, its x at its level's time [B, C, n, H, W], and its prompt,
    which it keeps to the end."""

    number: int
    x: Tensor
    cond: Cond


@dataclass
class StreamBatch:
    """Clean blocks of latents [B, C, n, H, W], one a tick. Arguments as those of `Stream`; move: between the steps.

    Blocks of one batch share their rotary places, so the layout needs a window, and places that do not grow: relative
    or anchored. Until every level has seen a whole window the levels are computed one after the other, with numbers of
    their own; from then on they are one batch, which changes nothing but rounding. The plan's commit level is of no
    use here. A guided student has to make the same passes at all levels.

    flying: the block at each level, the newest first. caches: of each level, while they are apart; together: of all.
    """

    student: Denoiser
    plan: Plan
    shape: tuple[int, int, int]
    cond: Cond
    seeds: tuple[int, ...] = (0,)
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    move: Move = renoised
    number: int = 0
    flying: list[Flight] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)
    together: Cache | None = None

    def __post_init__(self) -> None:
        layout = self.plan.layout
        if layout.window is None or layout.places == "absolute":
            raise UserError(
                f"blocks at {len(self.plan.times)} noise levels share their places; this layout has "
                f"{'no window' if layout.window is None else 'absolute places'}",
                "stream batch",
                "give it a window and places: relative",
            )
        if self.plan.first not in (None, self.plan.times):
            raise UserError("the first block must take the steps of all others", "stream batch")
        self.caches = [Cache(layout) for _ in self.plan.times]

    def __iter__(self) -> StreamBatch:
        return self

    def __next__(self) -> Tensor:
        """The next clean block: one tick, and at the beginning as many as there are steps."""
        landed = None
        while landed is None:
            landed = self.tick()
        return landed

    @torch.no_grad()
    def tick(self) -> Tensor | None:
        """Take in a block, move all on by one level; returns the one that is clean, if it has got so far."""
        self.flying.insert(0, self._entering())
        made = self._apart() if self.together is None else self._at_once(self.together)
        is_last = len(self.flying) == len(self.plan.times)
        moved = [self._moved(level, x0) for level, x0 in enumerate(made[: len(self.plan.times) - 1])]
        self.flying = moved
        if is_last and self.together is None and all(len(cache) == cache.slots for cache in self.caches):
            self.together, self.caches = stacked(self.caches, len(self.seeds)), []
        return made[-1] if is_last else None

    def switch(self, cond: Cond) -> None:
        """Another prompt, for the blocks that enter from now on."""
        self.cond = cond

    def _entering(self) -> Flight:
        layout, (channels, *sides) = self.plan.layout, self.shape
        count = layout.block if self.number else layout.first or layout.block
        shape = (len(self.seeds), channels, count * self.plan.unit, *sides)
        noise = self._rng(self.number).normal("noise", shape).to(self.device, self.dtype)
        flight = Flight(self.number, start(self.student.schedule, noise, self.plan.times[0]), self.cond)
        self.number += count
        return flight

    def _rng(self, number: int) -> EachRng:
        return EachRng(self.seeds[0], turn=f"stream/{number}", seeds=self.seeds)

    def _ids(self, flight: Flight) -> range:
        return range(flight.number, flight.number + flight.x.shape[2] // self.plan.unit)

    def _apart(self) -> list[Tensor]:
        """x0 of every level by a forward of its own."""
        return [
            pass_at(self.student, flight.x, at(flight.x, t), flight.cond, View(cache, self._ids(flight)))
            for flight, t, cache in zip(self.flying, self.plan.times, self.caches, strict=False)
        ]

    def _at_once(self, cache: Cache) -> list[Tensor]:
        """x0 of every level in one forward, at the places of the newest block."""
        x = torch.cat([flight.x for flight in self.flying])
        t = torch.cat([at(flight.x, t) for flight, t in zip(self.flying, self.plan.times, strict=True)])
        cond, view = Cond.cat([flight.cond for flight in self.flying]), View(cache, self._ids(self.flying[0]))
        return list(pass_at(self.student, x, t, cond, view).chunk(len(self.flying)))

    def _moved(self, level: int, x0: Tensor) -> Flight:
        flight, times = self.flying[level], self.plan.times
        rng, x = block_rng(self._rng(flight.number), flight.number), flight.x
        z = rng.normal(f"z/{level + 1}", x.shape, like=x)
        x = self.move(self.student.schedule, x0, x, at(x, times[level]), at(x, times[level + 1]), z)
        return Flight(flight.number, x, flight.cond)


def pass_at(student: Denoiser, x: Tensor, t: Tensor, cond: Cond, view: View) -> Tensor:
    """x0 of a block, whose keys and values of this very pass are remembered."""
    view.keep = True
    x0 = Remembering(student, view).x0(x, t, cond)
    view.commit()
    return x0


def stacked(caches: Sequence[Cache], clips: int) -> Cache:
    """Full memories of several levels as one, whose batch is level by level what theirs is; each in the order of time.

    clips: samples of a level. Guided students remember several passes of each, branch by branch, and so does the whole.
    """
    first = caches[0]
    orders = [[*sink, *local] for sink, local in (cache.seen(first.layout.block) for cache in caches)]
    whole = Cache(first.layout, first.store, ids=[first.ids[slot] for slot in orders[0]])
    for layer, kept in first.keys.items() if whole.ids else ():
        found = [cache.read(layer, order, kept.device) for cache, order in zip(caches, orders, strict=True)]
        for table, which in ((whole.keys, 0), (whole.values, 1)):
            parts = [pair[which].unflatten(0, (-1, clips)) for pair in found if pair is not None]
            table[layer] = torch.cat(parts, 1).flatten(0, 1)
    return whole
