"""Small heads that judge token features [B, N, C] of a frozen or shared network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..core.cond import Cond
from .agreement import Told, agreement


class TokenHeads(nn.Module):
    """One MLP per tapped layer, of these widths; features list of [B, N, C] -> logits [B, sum of N].

    told: the conditions the logits are to depend on too; a number is the width of the text tokens.
    """

    def __init__(self, widths: Sequence[int], hidden: int = 64, told: int | Sequence[Told] = 0) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 1))
            for width in widths
        )
        agree = [each for _ in widths if (each := agreement(told, hidden)) is not None]
        self.agree = nn.ModuleList(agree) if agree else None

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        logits = []
        for i, (head, f) in enumerate(zip(self.heads, seen, strict=True)):
            assert isinstance(head, nn.Sequential)
            h = head[:-1](f.float())
            said = head[-1](h).squeeze(-1)
            logits.append(said if self.agree is None else said + self.agree[i](h, cond))
        return torch.cat(logits, 1)


class Reader(nn.Module):
    """A learned token that reads a layer's features by cross-attention, then thinks for itself: [B, N, C] -> [B, D]."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Parameter(0.02 * torch.randn(hidden))
        self.norm, self.key, self.value = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.leave = nn.Linear(hidden, hidden)
        self.think = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(self, f: Tensor) -> Tensor:
        f = self.norm(f.float())
        asked = self.token.expand(len(f), 1, -1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (asked, self.key(f), self.value(f)))
        read = self.leave(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))
        return self.token + read + self.think(self.token + read)


class CrossHeads(nn.Module):
    """APT's head (Lin et al. 2025): a token for each tapped layer reads it, and the tokens side by side give one logit
    [B, 1]. Which place gave a clip away it does not say. told: as in `TokenHeads`."""

    def __init__(self, widths: Sequence[int], hidden: int = 64, told: int | Sequence[Told] = 0, heads: int = 4) -> None:
        super().__init__()
        self.readers = nn.ModuleList(Reader(width, hidden, heads) for width in widths)
        self.norm = nn.LayerNorm(hidden * len(widths))
        self.leave = nn.Linear(hidden * len(widths), 1)
        self.agree = agreement(told, hidden * len(widths))

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        tokens = torch.cat([reader(f) for reader, f in zip(self.readers, seen, strict=True)], -1)
        h = self.norm(tokens)[:, None]  # [B, 1, C]
        said = self.leave(h).squeeze(-1)
        return said if self.agree is None else said + self.agree(h, cond, 1)
