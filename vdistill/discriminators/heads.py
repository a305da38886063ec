"""Small heads that judge token features [B, N, C] of a frozen or shared network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TokenHeads(nn.Module):
    """One MLP per tapped layer, of these widths; features list of [B, N, C] -> logits [B, sum of N]."""

    def __init__(self, widths: Sequence[int], hidden: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))
            for width in widths
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits = [head(f.float()).squeeze(-1) for head, f in zip(self.heads, features, strict=True)]
        return torch.cat(logits, 1)
