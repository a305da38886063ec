"""DAgger (Ross et al. 2011): a student learns in its own streams, from an expert that says what should have followed.

Teacher forcing shows true pasts, and what truly follows is no answer to a student's own, which stray from every clip.
An expert answers what it is shown: here the world itself (worlds/expert.py), which reads a stream and draws on from it.
A stream may have been told something else at first: so a student learns to follow another prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

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
    streams, of prompts that say all, are told the next sample's before their own, up to a random block.
    """

    plan: Plan
    follows: Callable[[Batch], Tensor]
    told: Callable[[Batch], Tensor]
    expert: Expert
    lead: int = 0
    each: int = 1
    switch: float = 0.0
    kept: dict[str, Tensor] = field(default_factory=dict)
    """Streams and goals by micro-batch, saved with the weights: what made them is gone."""
    alike = False
    """See `core.step.Carried`."""

    @torch.no_grad()
    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Batch:
        """x: the goals; past: what the student is shown of it. Draws "dagger/eps", "dagger/switch", "dagger/switch/at"
        and those of the blocks."""
        rng_of = rng.at(step=rng.step - rng.step % self.each)
        turn, told = self._turn(batch, rng_of), self.told(batch)
        index = (self.follows(batch) & told if turn else self.follows(batch)).nonzero()[:, 0]
        if not len(index):
            return batch
        past, goal = f"{rng.micro}/past", f"{rng.micro}/goal"
        if rng.step % self.each == 0 or past not in self.kept:
            own = batch.select(index)
            before = shifted(own) if turn else own
            self.kept[past] = self._stream(student, own, before, turn, ~told[index], rng)
            self.kept[goal] = self.expert(self.kept[past], own, before, turn * self.plan.unit)
        shown = given_past(student, batch, rng).index_copy(0, index, self.kept[past].to(batch.x))
        return replace(batch, x=batch.x.index_copy(0, index, self.kept[goal].to(batch.x)), past=shown)

    def _turn(self, batch: Batch, rng: Rng) -> int:
        """Where streams are told their own prompt: position 0, or a later block's, the same in all processes and for
        all steps that a stream serves."""
        draw, later = shared(rng), [start for start, _ in self._spans(batch.x)][1:]
        if not later or float(draw.uniform("dagger/switch", ())) >= self.switch:
            return 0
        return later[draw.integer("dagger/switch/at", len(later))]

    def _spans(self, x: Tensor) -> list[tuple[int, int]]:
        return [*self.plan.layout.spans(x.shape[2] // self.plan.unit)]

    def _stream(self, student: Denoiser, own: Batch, before: Batch, turn: int, led: Tensor, rng: Rng) -> Tensor:
        """Streams of the shape of own.x; at `turn` all that is remembered is made again under the new prompt. led [B]:
        which begin with their clip."""
        plan, noise, made = self.plan, rng.normal("dagger/eps", own.x.shape, like=own.x), dict[int, Tensor]()
        draw, cache, spans = rng.at(turn=f"{rng.turn}/dagger"), Cache(plan.layout), self._spans(own.x)
        for start, count in spans:
            if turn and start == turn:
                seen = {at: x for at, x in made.items() if not {*cache.ids}.isdisjoint(numbers(at, x, plan))}
                cache, counts = Cache(plan.layout), dict(spans)
                told = lambda at: part(own.cond, plan, at, counts[at])  # noqa: B023, E731
                remember_again(student, seen, told, cache, plan, lambda _: draw)
            cond, ids = part((before if start < turn else own).cond, plan, start, count), range(start, start + count)
            here = slice(start * plan.unit, (start + count) * plan.unit)
            shown = led & (here.start < self.lead)
            begun = lambda x: torch.where(shown.to(x.device).view(-1, 1, 1, 1, 1), own.x[:, :, here], x)  # noqa: B023, E731
            made[start] = make_block(student, noise[:, :, here], cond, cache, plan, draw, ids, begun)
        return torch.cat([*made.values()], 2)

    def state(self) -> Mapping[str, Tensor]:
        """Streams that serve more than one step."""
        return self.kept if self.each > 1 else {}

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """Become what `state` was taken of, in process `rank` of `world`."""
        self.kept.clear()
        self.kept.update({k: v for k, v in state.items() if int(k.partition("/")[0]) % world == rank})
