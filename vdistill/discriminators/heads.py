"""Small heads that judge token features [B, N, C] of a frozen or shared network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from .text import Agreement


class TokenHeads(nn.Module):
    """One MLP per tapped layer, of these widths; features list of [B, N, C] -> logits [B, sum of N].

    text: width of the text tokens where the logits are to depend on the text too.
    """

    def __init__(self, widths: Sequence[int], hidden: int = 64, text: int = 0) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))
            for width in widths
        )
        self.agree = nn.ModuleList(Agreement(text, hidden) for _ in widths) if text else None

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        logits = []
        for i, (head, f) in enumerate(zip(self.heads, seen, strict=True)):
            assert isinstance(head, nn.Sequential)
            h = head[:-1](f.float())
            said = head[-1](h).squeeze(-1)
            logits.append(said if self.agree is None else said + self.agree[i](h, cond))
        return torch.cat(logits, 1)
