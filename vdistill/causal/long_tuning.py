"""Training on long clips while teacher and critic see short ones: the loss looks at the end of a longer rollout.

The first latent of what it looks at is made a picture again, as every clip begins (Self-Forcing, Huang et al. 2025).
A clip that grows may be told another prompt on the way (LongLive, Yang et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.step import Batch
from .cache import Cache
from .rollout import Plan, SelfForcing, numbers, remember_again, roll

Again = Callable[[Tensor], Tensor]
"""Latents [B, C, k, H, W] of a clip -> its last picture as a latent of its own [B, C, 1, H, W]: decode, encode."""
RECENT = "recent."
CONTEXT = 4  # latents before the window that a decoder is given, to know the motion


def window(x: Tensor, see: int, again: Again) -> Tensor:
    """The last `see` latents of x, beginning with a picture; that one carries no graph."""
    first = x.shape[2] - see
    if first <= 0:
        return x
    with torch.no_grad():
        picture = again(x[:, :, max(first - CONTEXT, 0) : first + 1].detach())
    return torch.cat([picture.to(x), x[:, :, first + 1 :]], 2)


@dataclass(frozen=True)
class Longer:
    """A `Generate`: a rollout of a random length up to `longest` latents, of which the loss sees a clip's length.

    The length is the same on all processes (draw "length").
    """

    inner: SelfForcing
    longest: int
    again: Again

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        plan, see = self.inner.plan, batch.x.shape[2]
        step = plan.layout.block * plan.unit
        fits(batch, self.longest, step)
        longer = see + step * shared(rng).integer("length", 1 + (self.longest - see) // step)
        shape = (*batch.x.shape[:2], longer, *batch.x.shape[3:])
        last = min(self.inner.last or see, see // plan.unit)
        x = replace(self.inner, last=last)(student, replace(batch, x=batch.x[:, :, :1].expand(shape)), rng)
        return window(x, see, self.again)


@dataclass(frozen=True)
class Sequence:
    """A clip that grows: its memory, its last latents, how many there are of it, the length at which its prompt
    changes (0: never), and its clean blocks that are still seen, by the number they begin at."""

    cache: Cache
    tail: Tensor
    length: int
    turn: int = 0
    recent: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LongTuning:
    """A `Generate` with a memory (LongLive, Yang et al. 2025): every call makes `add` latents more of one clip, and the
    loss sees the last of it, old ones without a graph. The clip begins anew where it would exceed `longest`.

    Each learner and micro-batch has its own clip, whose batch must stay while it grows; `calls` says how long. What is
    kept is saved with the weights: it was made by weights that are gone.

    switch: share of the clips whose prompt becomes, at a random call after the first, the next sample's of the batch;
    what is remembered is then made again, as a stream does. Which and when is the same on all processes (draws
    "switch", "switch/at").
    """

    plan: Plan
    add: int
    longest: int
    again: Again
    switch: float = 0.0
    kept: dict[str, Sequence] = field(default_factory=dict)
    alike = False
    """See `core.step.Carried`."""

    def calls(self, see: int) -> int:
        """Calls from one beginning to the next, for a loss that sees `see` latents."""
        return 1 + max(self.longest - see, 0) // self.add

    def ahead(self, batch: Batch, rng: Rng) -> Batch:
        """See `core.step.Switching`: behind its turn a clip goes on under the next sample's prompt."""
        old = self._grown(batch, rng)
        return shifted(batch) if old.turn and old.length >= old.turn else batch

    def _grown(self, batch: Batch, rng: Rng) -> Sequence:
        """The clip the next call goes on with, or the beginning of another."""
        see, old = batch.x.shape[2], self.kept.get(f"{rng.turn}.{rng.micro}")
        if old is not None and old.length + self.add <= self.longest and like(old.tail, batch.x):
            return old
        turn, calls, draw = 0, self.calls(see), shared(rng)
        if self.switch and calls > 1 and float(draw.uniform("switch", ())) < self.switch:
            turn = see + self.add * draw.integer("switch/at", calls - 1)
        return Sequence(Cache(self.plan.layout), batch.x[:, :, :0], 0, turn)

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        plan, key, see = self.plan, f"{rng.turn}.{rng.micro}", batch.x.shape[2]
        fits(batch, self.longest, plan.layout.block * plan.unit)
        old = self._grown(batch, rng)
        self.kept.pop(key, None)
        old.cache.move(batch.x.device)
        if old.turn and old.length == old.turn:
            old = replace(old, cache=Cache(plan.layout))
            blocks = {start: block.to(batch.x) for start, block in old.recent.items()}
            remember_again(student, blocks, lambda _: batch.cond, old.cache, plan, lambda _: rng)
        new = self.add if old.length else see
        noise = rng.normal("input/eps", (*batch.x.shape[:2], new, *batch.x.shape[3:]), like=batch.x)
        spans = [s for s in plan.layout.spans((old.length + new) // plan.unit) if s[0] * plan.unit >= old.length]
        made = roll(student, noise, batch.cond, old.cache, plan, rng, spans, keep_last=True)
        whole = torch.cat([old.tail.to(made), made], 2)
        tail = whole[:, :, -see - CONTEXT :].detach().clone()
        recent = {**old.recent, **blocks_of(made, spans, plan)} if old.turn > old.length else {}
        recent = {s: x for s, x in recent.items() if not {*old.cache.ids}.isdisjoint(numbers(s, x, plan))}
        self.kept[key] = Sequence(old.cache, tail, old.length + new, old.turn, recent)
        return window(whole, see, self.again)

    # -- what is saved ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Every clip that grows in this process."""
        found: dict[str, Tensor] = {}
        for key, kept in self.kept.items():
            own = {"tail": kept.tail, "length": torch.tensor(kept.length), **kept.cache.state()}
            own |= {"turn": torch.tensor(kept.turn)} if kept.turn else {}
            own |= {f"{RECENT}{start}": block for start, block in kept.recent.items()}
            found |= {f"{key}/{name}": value for name, value in own.items()}
        return found

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """Become what `state` was taken of, in process `rank` of `world`."""
        self.kept.clear()
        for key in {name.partition("/")[0] for name in state}:
            if int(key.rpartition(".")[2]) % world != rank:
                continue
            own = {name.partition("/")[2]: v for name, v in state.items() if name.startswith(f"{key}/")}
            cache = Cache(self.plan.layout)
            recent = {int(k.removeprefix(RECENT)): own.pop(k) for k in [*own] if k.startswith(RECENT)}
            tail, length, turn = own.pop("tail"), int(own.pop("length")), int(own.pop("turn", torch.tensor(0)))
            cache.restore(own)
            self.kept[key] = Sequence(cache, tail, length, turn, recent)


def blocks_of(made: Tensor, spans: Iterable[tuple[int, int]], plan: Plan) -> dict[int, Tensor]:
    """What was made at `spans`, block by block, without a graph."""
    found, place = {}, 0
    for start, count in spans:
        found[start] = made.detach()[:, :, place : place + count * plan.unit].clone()
        place += count * plan.unit
    return found


def shifted(batch: Batch) -> Batch:
    """The batch with each sample in the place of the one before it, its condition and its clip."""
    order = (torch.arange(len(batch), device=batch.x.device) + 1) % len(batch)
    return batch.select(order)


def like(a: Tensor, b: Tensor) -> bool:
    """Whether two clips differ in length alone."""
    return a.shape[:2] == b.shape[:2] and a.shape[3:] == b.shape[3:]


def fits(batch: Batch, longest: int, step: int) -> None:
    """UserError for a rollout that is not whole blocks more than a clip, or conditions that end with the clip."""
    checked_length(batch.x.shape[2], longest, step)
    if batch.cond.along:
        raise UserError(f"{', '.join(batch.cond.along)} ends with the clip", "causal.rollout", "leave it out")


def checked_length(see: int, longest: int, step: int) -> None:
    """UserError for a longest rollout that is not a clip of `see` latents and whole blocks of `step`."""
    if longest < see or (longest - see) % step:
        hint = f"such as {see + step * max((longest - see) // step, 1)}"
        raise UserError(f"{longest} latents are not a clip of {see} and whole blocks of {step}", "causal.rollout", hint)
