"""The chunk loop: make a block from noise with what is remembered, remember it, go on. Training, sampling and streams
all run this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.sampling import Renoise, Sampler, at, checked
from ..core.sampling import rollout as walked
from ..core.step import Batch
from .attend import View
from .cache import Cache
from .layout import Layout
from .student import Remembering


@dataclass(frozen=True)
class Plan:
    """How a causal student makes a block. times: its steps, descending in (0, 1]; first: those of the first block, if
    others (Causal Forcing++); level: noise that blocks are remembered at, 0 for clean; unit: latents to a position;
    sampler: moves between the steps; whole: in training a block takes all its steps and learns at the last one, where
    it stops at a random one otherwise.
    """

    layout: Layout
    times: tuple[float, ...]
    first: tuple[float, ...] | None = None
    level: float = 0.0
    unit: int = 1
    sampler: Sampler = field(default_factory=Renoise)
    whole: bool = False

    def __post_init__(self) -> None:
        checked(self.times)
        if self.first is not None:
            checked(self.first)

    def steps(self, start: int) -> tuple[float, ...]:
        """Times of the block that begins at position `start` of its stream."""
        return self.times if start or self.first is None else self.first


def block_rng(rng: Rng, start: int) -> Rng:
    """Draws of the block that begins at `start`, whatever was drawn before."""
    return rng.at(turn=f"{rng.turn}/block{start}")


def part(cond: Cond, plan: Plan, start: int, count: int) -> Cond:
    """Conditions of some positions."""
    return cond.narrow(start * plan.unit, count * plan.unit) if cond.along else cond


def remember(student: Denoiser, x: Tensor, cond: Cond, view: View, plan: Plan, rng: Rng) -> None:
    """Commit a block, clean or at the plan's noise, by one more pass (draw "commit")."""
    view.keep = True
    if plan.level:
        x = student.schedule.noise(x, rng.normal("commit", x.shape, like=x), at(x, plan.level))
    with torch.set_grad_enabled(view.cache.through and torch.is_grad_enabled()):
        Remembering(student, view).x0(x, at(x, plan.level), cond)
    view.commit()


def remember_again(
    student: Denoiser,
    blocks: Mapping[int, Tensor],
    cond: Callable[[int], Cond],
    cache: Cache,
    plan: Plan,
    rng: Callable[[int], Rng],
) -> None:
    """Commit clean blocks, by the number they begin at, to an empty cache, one after the other as they were made.

    cond, rng: of the block that begins there. Under the conditions they were remembered under, at level 0, the cache
    becomes what it was, as long as nothing that they saw is gone from it.
    """
    for start, block in sorted(blocks.items()):
        view = View(cache, numbers(start, block, plan))
        remember(student, block, cond(start), view, plan, block_rng(rng(start), start))


def numbers(start: int, block: Tensor, plan: Plan) -> range:
    """Of the positions of a block [B, C, n, ...]."""
    return range(start, start + block.shape[2] // plan.unit)


def make_block(
    student: Denoiser,
    noise: Tensor,
    cond: Cond,
    cache: Cache,
    plan: Plan,
    rng: Rng,
    ids: Sequence[int],
    change: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """The clean block [B, C, n, ...] at numbers `ids`, made from noise, changed and remembered. cond: of the block."""
    view, rng = View(cache, ids), block_rng(rng, ids[0])
    x = change(plan.sampler(Remembering(student, view), noise, cond, rng, plan.steps(ids[0])))
    remember(student, x, cond, view, plan, rng)
    return x


def generate(student: Denoiser, noise: Tensor, cond: Cond, plan: Plan, rng: Rng, cache: Cache | None = None) -> Tensor:
    """A whole sequence [B, C, T, ...] block by block, from noise of its shape."""
    cache = Cache(plan.layout) if cache is None else cache
    made = []
    for start, count in plan.layout.spans(noise.shape[2] // plan.unit):
        own = noise[:, :, start * plan.unit : (start + count) * plan.unit]
        ids = range(start, start + count)
        made.append(make_block(student, own, part(cond, plan, start, count), cache, plan, rng, ids))
    return torch.cat(made, 2)


def roll(
    student: Denoiser,
    noise: Tensor,
    cond: Cond,
    cache: Cache,
    plan: Plan,
    rng: Rng,
    spans: Sequence[tuple[int, int]],
    *,
    graph_from: int = 0,
    keep_last: bool = False,
) -> Tensor:
    """Blocks at `spans`, one after the other, out of noise [B, C, T, ...] that covers them all.

    Every block stops at the same random step, which all processes share (draw "exit/steps"), or at its last where the
    plan says "whole"; its estimate there is the block, with a graph if it ends behind position `graph_from`. All are
    remembered, the last only with `keep_last`.
    """
    made, first = [], spans[0][0]
    for start, count in spans:
        own = noise.narrow(2, (start - first) * plan.unit, count * plan.unit)
        here, place, times = part(cond, plan, start, count), block_rng(rng, start), plan.steps(start)
        stop = len(times) - 1 if plan.whole else shared(rng).integer(f"exit/{len(times)}", len(times))
        view = View(cache, range(start, start + count))
        graph = start + count > graph_from
        _, _, x0 = walked(Remembering(student, view), own, here, times, place, exit_step=stop, grad_last=graph)
        made.append(x0)
        if keep_last or (start, count) != spans[-1]:
            remember(student, x0 if cache.through else x0.detach(), here, view, plan, place)
    return torch.cat(made, 2)


@dataclass(frozen=True)
class SelfForcing:
    """A `Generate`: the student's own rollout, with its memory, as it will stream (Huang et al. 2025).

    Blocks carry a graph if they are of the last `last` positions (all when None); they are remembered as they will be
    later, and the memory carries no gradient unless `through`. Draws "input/eps", "exit" and those of the blocks.
    """

    plan: Plan
    last: int | None = None
    through: bool = False

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        plan, noise = self.plan, rng.normal("input/eps", batch.x.shape, like=batch.x)
        length = noise.shape[2] // plan.unit
        cache, spans = Cache(plan.layout, through=self.through), [*plan.layout.spans(length)]
        begin = 0 if self.last is None else length - self.last
        return roll(student, noise, batch.cond, cache, plan, rng, spans, graph_from=begin)
