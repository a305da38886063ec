"""DAgger (Ross et al. 2011): a student learns in its own streams, from an expert that says what should have followed.

Teacher forcing shows true pasts, and what truly follows is no answer to a student's own, which stray from every clip.
An expert answers what it is shown: here the world itself (worlds/expert.py), which reads a stream and draws on from it.
A stream may have been told something else at first: so a student learns to follow another prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.step import Batch, given_past
from .cache import Cache
from .long_tuning import shifted
from .rollout import Plan, make_block, numbers, part, remember_again

Expert = Callable[[Tensor, Batch, Batch, int], Tensor]
"""(streams [B, C, T, ...] of a batch's samples, the batch, the samples whose prompts they were told before, the latent
from which they were told their own) -> what should be at each of their blocks, of that shape."""


@dataclass(frozen=True)
class Dagger:
    """A `Met`: samples that the expert can follow become the student's own streams, and what should follow in them.

    plan: how a stream is made; follows: batch -> for which of its samples the expert can tell, [B] bool; told: for
    which of them the prompt says all, [B] bool: streams of the others begin with the first `lead` latents of their
    clips; each: a stream serves so many steps, for which its batch must stay; switch: share of the batches whose
    streams, of prompts that say all, are told the next sample's before their own, up to a random block; meet: (samples,
    those told before them) -> which of these pairs may follow each other, [B] bool: the others keep to their own.
    """

    plan: Plan
    follows: Callable[[Batch], Tensor]
    told: Callable[[Batch], Tensor]
    expert: Expert
    lead: int = 0
    each: int = 1
    switch: float = 0.0
    meet: Callable[[Batch, Batch], Tensor] | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Streams and goals by micro-batch, saved with the weights: what made them is gone."""
    alike = False
    """See `core.step.Carried`."""

    @torch.no_grad()
    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Batch:
        """x: the goals; past: what the student is shown of it. Draws "dagger/eps", "dagger/switch", "dagger/switch/at"
        and those of the blocks."""
        turn, told = self._turn(batch, rng), self.told(batch)
        index = (self.follows(batch) & told if turn else self.follows(batch)).nonzero()[:, 0]
        if not len(index):
            return batch
        past, goal = f"{rng.micro}/past", f"{rng.micro}/goal"
        if rng.step % self.each == 0 or past not in self.kept:
            own = batch.select(index)
            before = self._before(own) if turn else own
            self.kept[past] = self._stream(student, own, before, turn, ~told[index], rng)
            self.kept[goal] = self.expert(self.kept[past], own, before, turn * self.plan.unit)
        given = given_past(student, batch, rng).index_copy(0, index, self.kept[past].to(batch.x))
        return replace(batch, x=batch.x.index_copy(0, index, self.kept[goal].to(batch.x)), past=given)

    def _turn(self, batch: Batch, rng: Rng) -> int:
        """Where streams are told their own prompt: position 0, or a later block's, the same in all processes and for
        all steps that a stream serves."""
        draw = shared(rng.at(step=rng.step - rng.step % self.each))
        later = [start for start, _ in self._spans(batch.x)][1:]
        if not later or float(draw.uniform("dagger/switch", ())) >= self.switch:
            return 0
        return later[draw.integer("dagger/switch/at", len(later))]

    def _before(self, own: Batch) -> Batch:
        """The samples whose prompts are told first."""
        if self.meet is None:
            return shifted(own)
        order = torch.arange(len(own))
        may = self.meet(own, shifted(own)).to(order.device)
        return own.select(torch.where(may, (order + 1) % len(own), order).to(own.x.device))

    def _spans(self, x: Tensor) -> list[tuple[int, int]]:
        return [*self.plan.layout.spans(x.shape[2] // self.plan.unit)]

    def _stream(self, student: Denoiser, own: Batch, before: Batch, turn: int, led: Tensor, rng: Rng) -> Tensor:
        """Streams of the shape of own.x, told `own` from position `turn` on. led [B]: which begin with their clip."""
        plan, noise, made = self.plan, rng.normal("dagger/eps", own.x.shape, like=own.x), dict[int, Tensor]()
        rng, cache = rng.at(turn=f"{rng.turn}/dagger"), Cache(plan.layout)
        for start, count in self._spans(own.x):
            if turn and start == turn:
                cache = self._again(student, made, cache, own.cond, rng)
            here = slice(start * plan.unit, (start + count) * plan.unit)
            change = partial(shown, own.x[:, :, here], led & (here.start < self.lead))
            cond, ids = part((before if start < turn else own).cond, plan, start, count), range(start, start + count)
            made[start] = make_block(student, noise[:, :, here], cond, cache, plan, rng, ids, change)
        return torch.cat([*made.values()], 2)

    def _again(self, student: Denoiser, made: Mapping[int, Tensor], cache: Cache, cond: Cond, rng: Rng) -> Cache:
        """What is remembered of the blocks made so far, under another prompt (as `Stream.switch` recaches it)."""
        plan, again = self.plan, Cache(self.plan.layout)
        seen = {at: x for at, x in made.items() if not {*cache.ids}.isdisjoint(numbers(at, x, plan))}
        told = {at: part(cond, plan, at, len(numbers(at, x, plan))) for at, x in seen.items()}
        remember_again(student, seen, told.__getitem__, again, plan, lambda _: rng)
        return again

    def state(self) -> Mapping[str, Tensor]:
        """Streams that serve more than one step."""
        return self.kept if self.each > 1 else {}

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """Become what `state` was taken of, in process `rank` of `world`."""
        self.kept.clear()
        self.kept.update({k: v for k, v in state.items() if int(k.partition("/")[0]) % world == rank})


def shown(clip: Tensor, led: Tensor, x: Tensor) -> Tensor:
    """Blocks x [B, C, n, ...], those of `led` [B] replaced by the clip's."""
    return torch.where(led.to(x.device).view(-1, *[1] * (x.ndim - 1)), clip, x)
