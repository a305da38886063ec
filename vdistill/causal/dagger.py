"""DAgger (Ross et al. 2011): a student learns in its own streams, from an expert that says what should have followed.

Teacher forcing shows true pasts, and what truly follows is no answer to a student's own, which stray from every clip.
An expert answers what it is shown: here the world itself (worlds/expert.py), which reads a stream and draws on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.rng import Rng
from ..core.step import Batch, given_past
from .rollout import Plan, generate

Expert = Callable[[Tensor, Batch], Tensor]
"""(streams [B, C, T, ...] of a batch's samples, the batch) -> what should be at each of their blocks, of that shape."""


@dataclass(frozen=True)
class Dagger:
    """A `Met`: samples that the expert can follow become the student's own streams, and what should follow in them.

    plan: how a stream is made; follows: batch -> for which of its samples the expert can tell, [B] bool; each: a stream
    serves so many steps, for which its batch must stay.
    """

    plan: Plan
    follows: Callable[[Batch], Tensor]
    expert: Expert
    each: int = 1
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Streams and goals by micro-batch, saved with the weights: what made them is gone."""
    alike = False
    """See `core.step.Carried`."""

    @torch.no_grad()
    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Batch:
        """x: the goals; past: what the student is shown of it. Draws "dagger/eps" and those of the blocks."""
        index = self.follows(batch).nonzero()[:, 0]
        if not len(index):
            return batch
        past, goal = f"{rng.micro}/past", f"{rng.micro}/goal"
        if rng.step % self.each == 0 or past not in self.kept:
            own = batch.select(index)
            noise = rng.normal("dagger/eps", own.x.shape, like=own.x)
            self.kept[past] = generate(student, noise, own.cond, self.plan, rng.at(turn=f"{rng.turn}/dagger"))
            self.kept[goal] = self.expert(self.kept[past], own)
        shown = given_past(student, batch, rng).index_copy(0, index, self.kept[past].to(batch.x))
        return replace(batch, x=batch.x.index_copy(0, index, self.kept[goal].to(batch.x)), past=shown)

    def state(self) -> Mapping[str, Tensor]:
        """Streams that serve more than one step."""
        return self.kept if self.each > 1 else {}

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """Become what `state` was taken of, in process `rank` of `world`."""
        self.kept.clear()
        self.kept.update({k: v for k, v in state.items() if int(k.partition("/")[0]) % world == rank})
