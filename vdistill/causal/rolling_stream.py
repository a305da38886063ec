"""A stream whose blocks are denoised together at rising noise: one pass of the window for every block that leaves
(Rolling Forcing, Liu et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.cond import Cond, Fields
from ..core.errors import UserError
from ..core.sampling import at, renoised, start
from .attend import View
from .rolling import Place, checked, together
from .rollout import block_rng, remember
from .stream import Stream, Switch


@dataclass
class RollingStream(Stream):
    """coming: the blocks of the window that have not left, by the number they begin at: (their state, steps taken).

    A new prompt is seen by all blocks of the window at once.
    """

    coming: dict[int, tuple[Tensor, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked(self.plan)
        super().__post_init__()

    def hear(self, along: Fields) -> None:
        """Not possible: a window's blocks are made before what they follow is known."""
        if along:
            raise UserError("a rolling window is ahead of what it would follow", "stream.hear", "stream block by block")

    @torch.no_grad()
    def __next__(self) -> Tensor:
        while True:
            self._enter()
            if (block := self._pass()) is not None:
                return block

    def _enter(self) -> None:
        """One more block of pure noise."""
        layout, begin = self.plan.layout, self.number + sum(self._size(x) for x, _ in self.coming.values())
        count = (layout.first or layout.block) if begin == self.begun else layout.block
        c, *sides = self.shape
        noise = self._rng(begin).normal("noise", (self.batch, c, count * self.plan.unit, *sides)).to(self.device)
        self.coming[begin] = start(self.student.schedule, noise, self.plan.times[0]), 0

    def _pass(self) -> Tensor | None:
        """Every block of the window one step on; the first, if that was its last."""
        times, schedule, cond = self.plan.times, self.student.schedule, self._cond()
        places = [Place(i, n, self._size(x), step) for i, (n, (x, step)) in enumerate(self.coming.items())]
        states = [x for x, _ in self.coming.values()]
        done = None
        for p, x, x0 in zip(
            places, states, together(self.student, states, cond, self.cache, self.plan, places), strict=True
        ):
            if p.step + 1 == len(times):
                done = x0
                del self.coming[p.start]
                continue
            z = block_rng(self._rng(p.start), p.start).normal(f"z/{p.step + 1}", x0.shape, like=x0)
            t, u = at(x0, times[p.step]), at(x0, times[p.step + 1])
            self.coming[p.start] = renoised(schedule, x0, x, t, u, z), p.step + 1
        if done is not None:
            self._leave(done, cond)
        return done

    def _leave(self, block: Tensor, cond: Cond) -> None:
        ids = range(self.number, self.number + self._size(block))
        rng = block_rng(self._rng(self.number), self.number)
        remember(self.student, block, cond, View(self.cache, ids), self.plan, rng)
        self.recent[self.number] = block
        self.number += len(ids)
        self._forget()

    def _size(self, x: Tensor) -> int:
        return x.shape[2] // self.plan.unit

    def edit(self, source: Tensor, strength: float) -> Tensor:
        """Not possible: the blocks of a window are not at one noise level."""
        raise UserError("a rolling window does not paint over a video", "stream.edit", "stream block by block")

    def show(self, latents: Tensor) -> None:
        """As of any stream, while the window is empty: at its beginning."""
        if self.coming:
            raise UserError("blocks are under way; a picture can be shown at the beginning", "stream.show")
        super().show(latents)

    def switch(self, cond: Cond, how: Switch = "recache", blocks: int = 4) -> None:
        """As of any stream; a cut drops the blocks under way."""
        super().switch(cond, how, blocks)
        if how == "cut":
            self.coming = {}

    def state(self) -> dict[str, Tensor]:
        """As of any stream, with the window."""
        coming = {f"coming/{n}/{step}": x.clone() for n, (x, step) in self.coming.items()}
        return super().state() | coming

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """As of any stream."""
        super().restore(state)
        found: dict[int, tuple[Tensor, int]] = {}
        for key, x in state.items():
            if key.startswith("coming/"):
                begin, step = (int(part) for part in key.split("/")[1:])
                found[begin] = x.to(self.device), step
        self.coming = dict(sorted(found.items()))
