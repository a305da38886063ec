"""Guidance inside one pass, learned: how far what a network reads of a condition is pushed from its null.

g_c(s, t) = 1 + (s_c - 1) a_c(t), for every place where the condition is read and every channel, so that scales of 1
are the conditional pass exactly, and the push grows with the scale as the guided target does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

WAVES = 4  # a(t) is a sum of cos(pi k t), k below this
SWIFT = 4.0  # of the parameters: they are few, and steps of one size reach further


class LearnedGains(nn.Module):
    """names: of the conditions; places: where they are read; dim: channels of what is read. 1 at birth."""

    def __init__(self, names: Sequence[str], places: int, dim: int) -> None:
        super().__init__()
        self.slopes = nn.ParameterDict({name: nn.Parameter(torch.zeros(WAVES, places, dim)) for name in names})

    def forward(self, scales: Mapping[str, Tensor], t: Tensor, on: Tensor) -> dict[str, Tensor]:
        """name -> [B, places, dim]. scales: [B] each; t: [B], or [B, T], of which the latest counts; on: [B], 0 for
        samples that are told nothing."""
        t = t.float() if t.ndim == 1 else t.float().amax(1)
        waves = torch.cos(torch.pi * torch.arange(WAVES, device=t.device) * t[:, None])
        found = {}
        for name, slopes in self.slopes.items():
            push = ((scales[name].float() - 1) * on.float())[:, None, None]
            found[name] = 1 + push * SWIFT * torch.einsum("bk,kpd->bpd", waves, slopes.float())
        return found
