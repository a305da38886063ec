"""Conditional projection (Miyato & Koyama 2018): a judge's features must also agree with the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.cond import Cond


def pooled(cond: Cond) -> Tensor:
    """The text as one vector a sample [B, D], float32: the mean over its tokens, those of a mask where there is one."""
    text = cond.fields["text"].float()
    mask = cond.fields.get("text.mask")
    if mask is None or mask.shape != text.shape[:2]:
        return text.mean(1)
    kept = mask.to(text.dtype)[..., None]
    return (text * kept).sum(1) / kept.sum(1).clamp_min(1)


class Agreement(nn.Module):
    """<W text, h> / sqrt(C) at every position: features [B, N, C] -> [B, N], 0 at birth."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.norm, self.told = nn.LayerNorm(text_width), nn.Linear(text_width, width, bias=False)
        nn.init.zeros_(self.told.weight)

    def forward(self, features: Tensor, cond: Cond) -> Tensor:
        told = self.told(self.norm(pooled(cond)))
        return torch.einsum("bc,bnc->bn", told, features) / features.shape[-1] ** 0.5
