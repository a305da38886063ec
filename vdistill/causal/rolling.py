"""Rolling-window denoising (Rolling Forcing, Liu et al. 2025): blocks at rising noise are denoised together.

One pass takes every block of the window to its next step; the first one is then clean, is remembered and leaves, and
one of pure noise comes in at the end. At the start and end of a clip the window is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.sampling import at, renoised, start
from ..core.step import Batch, Generate
from .attend import View
from .cache import Cache
from .rollout import Plan, block_rng, part, remember
from .student import Remembering, block_times


class Place(NamedTuple):
    """A block in the window: its number, its positions [start, start + size), and the step it is at."""

    block: int
    start: int
    size: int
    step: int


def windows(spans: Sequence[tuple[int, int]], steps: int, apart: int) -> Iterator[list[Place]]:
    """The window of every pass. A block comes in `apart` passes after the one before it, and stays for `steps`.

    apart = 1 is Rolling Forcing; apart = steps is one block at a time, the ordinary loop.
    """
    for call in range((len(spans) - 1) * apart + steps):
        yield [Place(b, *span, call - b * apart) for b, span in enumerate(spans) if 0 <= call - b * apart < steps]


def roll_windows(
    student: Denoiser,
    noise: Tensor,
    cond: Cond,
    cache: Cache,
    plan: Plan,
    rng: Rng,
    *,
    apart: int = 1,
    drawn: int | None = None,
    graph_from: int = 0,
) -> Tensor:
    """A clip from noise [B, C, T, ...] of its shape, by windows that roll along it.

    drawn: in training, which of every `steps` passes carry a graph; these share no block, and every block's estimate in
    its one of them is what returns. Without it that is the last estimate. graph_from: no graph before this position.
    """
    spans, times = [*plan.layout.spans(noise.shape[2] // plan.unit)], plan.times
    states = [
        start(student.schedule, noise.narrow(2, first * plan.unit, n * plan.unit), times[0]) for first, n in spans
    ]
    made: dict[int, Tensor] = {}
    for call, places in enumerate(windows(spans, len(times), apart)):
        told = drawn is not None and call % len(times) == drawn
        graph = told and places[-1].start + places[-1].size > graph_from
        with torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            estimates = together(student, [states[p.block] for p in places], cond, cache, plan, places)
        for p, x0 in zip(places, estimates, strict=True):
            if told or drawn is None:
                made[p.block] = x0
            own, here = block_rng(rng, p.start), part(cond, plan, p.start, p.size)
            if p.step + 1 == len(times):
                remember(student, x0.detach(), here, View(cache, range(p.start, p.start + p.size)), plan, own)
            else:
                t, u = at(x0, times[p.step]), at(x0, times[p.step + 1])
                z = own.normal(f"z/{p.step + 1}", x0.shape, like=x0)
                states[p.block] = renoised(student.schedule, x0.detach(), states[p.block], t, u, z)
    return torch.cat([made[block] for block in sorted(made)], 2)


def together(
    student: Denoiser, states: Sequence[Tensor], cond: Cond, cache: Cache, plan: Plan, places: Sequence[Place]
) -> list[Tensor]:
    """Clean estimates of the blocks of a window, which see each other and the memory."""
    ids = [i for p in places for i in range(p.start, p.start + p.size)]
    x = torch.cat([*states], 2)
    t = torch.stack([at(x, plan.times[p.step]) for p in places], 1)  # [B, blocks]
    t = block_times(t, [i for i, p in enumerate(places) for _ in range(p.size)], plan.unit)
    here = part(cond, plan, ids[0], len(ids))
    t = t[:, :1] if len(places) == 1 else t
    return list(Remembering(student, View(cache, ids)).x0(x, t, here).split([p.size * plan.unit for p in places], 2))


def generate_rolling(
    student: Denoiser, noise: Tensor, cond: Cond, plan: Plan, rng: Rng, cache: Cache | None = None, apart: int = 1
) -> Tensor:
    """A whole clip, as `rollout.generate` makes it block by block. UserError for a plan with a first block of its own
    steps."""
    checked(plan)
    return roll_windows(student, noise, cond, cache or Cache(plan.layout), plan, rng, apart=apart)


@dataclass(frozen=True)
class Rolling:
    """A `Generate`: the student's own rollout by windows, with a graph in passes that share no block.

    last: positions at the end that carry gradients, all when None. Draws "input/eps", "exit" and those of the blocks.
    """

    plan: Plan
    last: int | None = None
    apart: int = 1

    def __post_init__(self) -> None:
        checked(self.plan)

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        plan, noise = self.plan, rng.normal("input/eps", batch.x.shape, like=batch.x)
        drawn = shared(rng).integer("exit", len(plan.times))
        begin = 0 if self.last is None else noise.shape[2] // plan.unit - self.last
        cache = Cache(plan.layout)
        return roll_windows(
            student, noise, batch.cond, cache, plan, rng, apart=self.apart, drawn=drawn, graph_from=begin
        )


@dataclass(frozen=True)
class Either:
    """A `Generate`: `first` with a chance of `share`, else `second`; the same on all processes (draw "either")."""

    first: Generate
    second: Generate
    share: float = 0.5

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        chosen = float(shared(rng).uniform("either", ())) < self.share
        return (self.first if chosen else self.second)(student, batch, rng)


def checked(plan: Plan) -> None:
    """UserError for a plan whose blocks do not all take the same steps."""
    if plan.first is not None:
        raise UserError("blocks of a rolling window take the same steps", "causal.first_times", "leave it out")
