"""A denoiser seen as a causal one: under a mask over the whole sequence, next to clean blocks, or with a memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.schedule import Schedule
from .attend import Masked
from .layout import Layout
from .masks import block_causal, teacher_forcing


def each_position(t: Tensor) -> Tensor:
    """[B] or [B, T] -> [B, 1] or [B, T]: a time of positions, which text in front of them has no part in."""
    return t[:, None] if t.ndim == 1 else t


@dataclass(frozen=True)
class BlockCausal:
    """A Denoiser of noisy blocks that see the noisy ones before them (diffusion forcing). unit: latents to a position.

    `attend` may still be given, and then says who sees whom.
    """

    inner: Denoiser
    layout: Layout
    unit: int = 1

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        if attend is full:
            attend = Masked(block_causal(self.layout, x.shape[2] // self.unit), layout=self.layout)
        return self.inner.x0(x, each_position(t), cond, attend=attend)


@dataclass(frozen=True)
class AfterClean:
    """A Denoiser of noisy blocks, each of which sees the clean ones before it (teacher forcing): one pass over
    [clean | noisy] with places repeated.

    clean: [B, C, T, ...]; level: the time it is told to be at, and has been noised to by whoever made it.
    """

    inner: Denoiser
    layout: Layout
    clean: Tensor
    level: float = 0.0
    unit: int = 1

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        length = x.shape[2]
        positions = length // self.unit
        seen = Masked(teacher_forcing(self.layout, positions), [*range(positions)] * 2, self.layout)
        before = torch.full((len(x), length), self.level, dtype=torch.float64, device=x.device)
        times = torch.cat([before, each_position(t).to(torch.float64).expand(-1, length)], 1)
        twice = replace(cond, along={k: torch.cat([v, v], 1) for k, v in cond.along.items()})
        both = self.inner.x0(torch.cat([self.clean.to(x.dtype), x], 2), times, twice, attend=seen)
        return both[:, :, length:]


@dataclass(frozen=True)
class Past:
    """A `See`: every block is shown the clean ones of its own sample before it. unit: latents to a position."""

    layout: Layout
    unit: int = 1

    def __call__(self, net: Denoiser, x: Tensor) -> Denoiser:
        return AfterClean(net, self.layout, x.detach(), 0.0, self.unit)


@dataclass(frozen=True)
class Remembering:
    """A Denoiser of one block that sees what `view` sees."""

    inner: Denoiser
    view: Attend

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return self.inner.x0(x, each_position(t), cond, attend=self.view)


def block_times(t: Tensor, blocks: Sequence[int], unit: int = 1) -> Tensor:
    """[B, blocks] -> [B, T]: the time of its block for every latent."""
    index = torch.tensor(blocks, device=t.device).repeat_interleave(unit)
    return t[:, index]
