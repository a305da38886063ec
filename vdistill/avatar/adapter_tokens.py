"""Sound and a reference picture as tokens: what the adapters of a stock video transformer read."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Projector = Literal["mlp", "linear"]
NULL, SPEAKS, LISTENS = 0, 1, 2
"""Values of "audio.on": nothing is known of the sound, the sound counts, the speaker is silent and listens."""


def weight_dtype(module: nn.Module) -> torch.dtype:
    """What a module's weights are kept in."""
    return next(module.parameters()).dtype


class AudioTokens(nn.Module):
    """Features of sound -> tokens of width `width`, one for each of S places around a latent frame.

    projector: "mlp" (two layers), or "linear" without bias; both end in a LayerNorm. slots: S, places that are told
    apart by a learned vector, 0 for none. Where nothing is known all tokens are one learned null, where a speaker
    listens another. mean, std: of the features, taken off first.
    """

    def __init__(
        self, features: int, width: int, slots: int, projector: Projector = "mlp", mean: float = 0.0, std: float = 1.0
    ) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        if projector == "mlp":
            self.proj: nn.Module = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        else:
            self.proj = nn.Linear(features, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.place = nn.Parameter(torch.randn(slots, width) / math.sqrt(width)) if slots else None
        self.null = nn.Parameter(torch.zeros(width))
        self.listening = nn.Parameter(torch.zeros(width))

    def forward(self, audio: Tensor, on: Tensor) -> Tensor:
        """audio [B, T, N, S, F] of N speakers, on [B, T, N] of NULL, SPEAKS, LISTENS -> [B, T, N, S, width]."""
        x = ((audio - self.mean) / self.std).to(weight_dtype(self.proj))
        tokens = self.norm(self.proj(x))
        if self.place is not None:
            tokens = tokens + self.place
        state = on[..., None, None].round()
        silent = torch.where(state == LISTENS, self.listening, self.null)
        return torch.where(state == SPEAKS, tokens, silent.to(tokens.dtype))

    def nothing(self, count: int) -> Tensor:
        """[count, 1, 1, 1, width]: the null, for samples without sound."""
        return self.null.expand(count, 1, 1, 1, -1)


class ReferenceTokens(nn.Module):
    """A latent frame [B, C, h, w] -> [B, n, width], n patches with their places; a learned null where there is none."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        self.norm = nn.LayerNorm(width)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, ref: Tensor, on: Tensor) -> Tensor:
        """on: [B], 1 or 0."""
        x = self.proj(ref.to(weight_dtype(self.proj)))
        tokens = x.flatten(2).transpose(1, 2) + places(x.shape[2], x.shape[3], x.shape[1], x.device).to(x.dtype)
        return torch.where(on.round()[:, None, None] == SPEAKS, self.norm(tokens), self.null)

    def nothing(self, count: int) -> Tensor:
        """[count, 1, width]: the null, for samples without a reference."""
        return self.null.expand(count, 1, -1)


def places(high: int, wide: int, width: int, device: torch.device) -> Tensor:
    """[high wide, width]: sines and cosines of row and column, a quarter of the width each (Vaswani et al. 2017)."""
    quarter = -(-width // 4)
    rate = torch.exp(torch.arange(quarter, device=device) * (-math.log(1000.0) / quarter))
    row = torch.arange(high, device=device)[:, None] * rate
    column = torch.arange(wide, device=device)[:, None] * rate
    rows, columns = row[:, None].expand(-1, wide, -1), column[None].expand(high, -1, -1)
    waves = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], -1)
    return waves.flatten(0, 1)[:, :width]
