"""A guidance scale as an input of a network that has none: a shift of its text tokens."""

from __future__ import annotations

from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn


class GuidanceEmbedding(nn.Module):
    """A guidance scale [B] -> a shift [B, 1, D] of all text tokens (Meng et al. 2023), zero at birth."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, scale: Tensor) -> Tensor:
        wave = get_timestep_embedding(100.0 * (scale.float() - 1), self.width)
        return self.outer(nn.functional.silu(self.inner(wave)))[:, None]
