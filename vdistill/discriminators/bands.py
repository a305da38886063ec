"""A judge of its own for each band of noise levels (as in AccVideo): what gives a sample away differs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.cond import Cond


class Bands(nn.Module):
    """Judges for even parts of [low, high], lowest times first; all look, and the one in charge is heard.

    That all look keeps every gradient in every step, 0 where it was not in charge, so any number of processes agrees.
    """

    def __init__(self, judges: Sequence[nn.Module], low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.judges, self.low, self.high = nn.ModuleList(judges), low, high

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        said = torch.stack([judge(seen, t, cond) for judge in self.judges])  # [K, B, N]
        band = ((t - self.low) / (self.high - self.low) * len(said)).long().clamp(0, len(said) - 1)
        return said[band.expand(said.shape[1]), torch.arange(said.shape[1], device=said.device)]
