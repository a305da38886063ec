"""Which places of a clip a judge's loss counts: the end of a long rollout, a region, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from ..core.step import Batch

Grids = Callable[[Sequence[int]], Sequence[tuple[int, int, int]]]
"""Shape [B, C, T, H, W] of a sample -> (T, H, W) of the logits of each head, in their order."""


@dataclass(frozen=True)
class Window:
    """A `Where`: weights [B, N] of the logits, each the mean of the latent places around it.

    last: only so many latent frames, from the end, count; region: a region of the data, or a condition of that name,
    [B, T, H, W] with or without an axis of one channel, weighs places, 0 to 1, in latent places or finer. A batch
    without it counts whole.
    """

    grids: Grids
    last: int | None = None
    region: str | None = None

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        t, h, w = x.shape[2:]
        weight = torch.ones(len(x), t, h, w, device=x.device)
        if self.last is not None:
            weight[:, : max(0, t - self.last)] = 0
        mask = None if self.region is None else region_of(batch, self.region)
        if mask is not None:
            weight = weight * adaptive_avg_pool3d(mask.float(), (t, h, w))
        return torch.cat([adaptive_avg_pool3d(weight, grid).flatten(1) for grid in self.grids(x.shape)], 1)


def region_of(batch: Batch, name: str) -> Tensor | None:
    """A region of a batch [B, T, H, W]; None where it has no such."""
    mask = {**batch.cond.fields, **batch.cond.along, **batch.regions}.get(name)
    return mask[:, 0] if mask is not None and mask.ndim == 5 else mask
