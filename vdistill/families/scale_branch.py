"""Guidance inside one pass, beside each block: h + sum_c (s_c - 1) G_c silu(A_c LN(h)), as far as scales go from 1.

The target of a chain or a star is linear in each (s_c - 1), and so is what this adds: scales of 1 are the conditional
pass to the bit. A_c and G_c are of low rank, and a block grows by their share of its width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu


class ScaleBranch(nn.Module):
    """names: of the scales; dim: of the block; rank: channels for each scale. Silent at birth."""

    def __init__(self, names: Sequence[str], dim: int, rank: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.ask = nn.Linear(dim, rank * len(self.names))
        self.give = nn.Linear(rank * len(self.names), dim, bias=False)
        nn.init.zeros_(self.give.weight)

    def forward(self, h: Tensor, scales: Mapping[str, Tensor], on: Tensor) -> Tensor:
        """What is added to h [B, N, dim]. scales: [B] each; on: [B], 0 for samples that are told nothing."""
        x = silu(self.ask(layer_norm(h.to(self.ask.weight.dtype), h.shape[-1:])))
        push = torch.stack([(scales[name] - 1) * on for name in self.names], 1).to(x.dtype)  # [B, names]
        return self.give(x * push.repeat_interleave(x.shape[-1] // len(self.names), 1)[:, None]).to(h.dtype)  # type: ignore[no-any-return]
