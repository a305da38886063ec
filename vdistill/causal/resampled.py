"""Pasts as a network's own errors leave them: clean clips, each block noised and made anew by the network itself.

Teacher forcing shows true pasts and streams show made ones. A rollout strays from its clip, so nothing says how it
truly goes on; a block that is made anew from part of its noise stays where it was, but what the network gets wrong adds
up from block to block (Resampling Forcing, Guo et al. 2025). What truly comes next is still the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.sampling import at, renoised, walk
from ..core.step import Batch
from .attend import View
from .cache import Cache
from .rollout import Plan, block_rng, numbers, part, remember
from .student import Remembering


@dataclass(frozen=True)
class Resampled:
    """How a clip is made anew. plan: as a stream makes blocks, of which the steps below the level are taken; low, high:
    the level t of a call is uniform between them (draw "level"), near 0 the clip, 1 a rollout; rounds: so many
    times, one after the other."""

    plan: Plan
    low: float
    high: float
    rounds: int = 1

    @torch.no_grad()
    def __call__(self, net: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        """[B, C, T, ...] of the shape of the clean samples. Every process draws the same level, each its own noise."""
        rng = rng.at(turn=f"{rng.turn}/resampled")
        level = self.low + (self.high - self.low) * float(shared(rng).uniform("level", ()))
        x = batch.x
        for number in range(self.rounds):
            x = self._again(net, x, batch.cond, rng.at(turn=f"{rng.turn}/{number}"), level)
        return x

    def _again(self, net: Denoiser, x: Tensor, cond: Cond, rng: Rng, level: float) -> Tensor:
        plan, cache, made = self.plan, Cache(self.plan.layout), []
        for start, count in plan.layout.spans(x.shape[2] // plan.unit):
            block = x.narrow(2, start * plan.unit, count * plan.unit)
            here, place = part(cond, plan, start, count), block_rng(rng, start)
            view = View(cache, numbers(start, block, plan))
            xt = net.schedule.noise(block, place.normal("resampled", block.shape, like=x), at(block, level))
            times = (level, *(t for t in plan.steps(start) if t < level))
            block = walk(Remembering(net, view), xt, here, times, place, renoised)
            remember(net, block, here, view, plan, place)
            made.append(block)
        return torch.cat(made, 2)
