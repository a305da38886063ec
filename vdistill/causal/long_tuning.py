"""Training on long clips while teacher and critic see short ones: the loss looks at the end of a longer rollout.

The first latent of what it looks at is made a picture again, as every clip begins (Self-Forcing, Huang et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.step import Batch
from .cache import Cache
from .rollout import Plan, SelfForcing, roll

Again = Callable[[Tensor], Tensor]
"""Latents [B, C, k, H, W] of a clip -> its last picture as a latent of its own [B, C, 1, H, W]: decode, encode."""
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
    """A clip that grows: its memory, its last latents, and how many there are of it."""

    cache: Cache
    tail: Tensor
    length: int


@dataclass(frozen=True)
class LongTuning:
    """A `Generate` with a memory (LongLive, Yang et al. 2025): every call makes `add` latents more of one clip, and the
    loss sees the last of it, old ones without a graph. The clip begins anew where it would exceed `longest`.

    Each learner and micro-batch has its own clip, whose condition must stay while it grows; `calls` says how long. What
    is kept is saved with the weights: it was made by weights that are gone.
    """

    plan: Plan
    add: int
    longest: int
    again: Again
    kept: dict[str, Sequence] = field(default_factory=dict)
    alike = False
    """See `core.step.Carried`."""

    def calls(self, see: int) -> int:
        """Calls from one beginning to the next, for a loss that sees `see` latents."""
        return 1 + max(self.longest - see, 0) // self.add

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        plan, key, see = self.plan, f"{rng.turn}.{rng.micro}", batch.x.shape[2]
        fits(batch, self.longest, plan.layout.block * plan.unit)
        old = self.kept.pop(key, None)
        if old is None or old.length + self.add > self.longest or not like(old.tail, batch.x):
            old = Sequence(Cache(plan.layout), batch.x[:, :, :0], 0)
        old.cache.move(batch.x.device)
        new = self.add if old.length else see
        noise = rng.normal("input/eps", (*batch.x.shape[:2], new, *batch.x.shape[3:]), like=batch.x)
        spans = [s for s in plan.layout.spans((old.length + new) // plan.unit) if s[0] * plan.unit >= old.length]
        made = roll(student, noise, batch.cond, old.cache, plan, rng, spans, keep_last=True)
        whole = torch.cat([old.tail.to(made), made], 2)
        self.kept[key] = Sequence(old.cache, whole[:, :, -see - CONTEXT :].detach().clone(), old.length + new)
        return window(whole, see, self.again)

    # -- what is saved ----------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Every clip that grows in this process."""
        found: dict[str, Tensor] = {}
        for key, kept in self.kept.items():
            own = {"tail": kept.tail, "length": torch.tensor(kept.length), **kept.cache.state()}
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
            cache.restore({k: v for k, v in own.items() if k not in ("tail", "length")})
            self.kept[key] = Sequence(cache, own["tail"], int(own["length"]))


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
