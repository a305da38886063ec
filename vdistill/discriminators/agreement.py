"""Conditional projection (Miyato & Koyama 2018): a judge's features must also agree with a condition, of any name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from ..core.cond import Cond
from ..core.errors import UserError


@dataclass(frozen=True)
class Told:
    """A condition the logits depend on. width: of its vectors, as `vectors` gives them; step: positions of a condition
    that runs along the sequence for one of the features', such as the patch of a network along the sequence."""

    name: str
    width: int
    step: int = 1


def vectors(cond: Cond, name: str) -> Tensor:
    """A condition as vectors, float32: [B, D] of a whole sample's, [B, T, D] of one that runs along the sequence.

    Tokens [B, L, D] become their mean, of those in `name`.mask where there is one; a picture or clip of latents [B, C,
    ..., H, W] the means of its quarters; what runs along keeps its positions. UserError for a name that is not there,
    or for class numbers, which are no vectors.
    """
    if name in cond.along:
        value = cond.along[name].float()
        return value.reshape(*value.shape[:2], -1)
    value = field(cond, name).float()
    if value.ndim <= 2:
        return value.view(len(value), -1)
    if value.ndim == 3:
        return _mean_of_tokens(value, cond.fields.get(f"{name}.mask"))
    pooled = adaptive_avg_pool2d(value, 2) if value.ndim == 4 else adaptive_avg_pool3d(value, (1, 2, 2))
    return pooled.flatten(1)


def field(cond: Cond, name: str) -> Tensor:
    """A whole sample's condition. UserError for one that is not there, or is a number of a class."""
    there = sorted(key for key in (*cond.fields, *cond.along) if "." not in key)
    if name not in cond.fields:
        raise UserError(f"no condition {name!r}; the clips have {', '.join(there) or 'none'}", "method.judge.condition")
    value = cond.fields[name]
    if not value.is_floating_point():
        raise UserError(f"{name} is the number of a class, not a vector", "method.judge.condition", "leave it out")
    return value


def _mean_of_tokens(tokens: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None or mask.shape != tokens.shape[:2]:
        return tokens.mean(1)
    kept = mask.to(tokens.dtype)[..., None]
    return (tokens * kept).sum(1) / kept.sum(1).clamp_min(1)


class Agreement(nn.Module):
    """<W c, h> / sqrt(C) at every position: features [B, N, C] -> [B, N], 0 at birth.

    A condition that runs along the sequence meets the features of its own positions: N is rows x (all places of a row).
    """

    def __init__(self, told: Told, width: int) -> None:
        super().__init__()
        self.name, self.step = told.name, told.step
        self.norm, self.told = nn.LayerNorm(told.width), nn.Linear(told.width, width, bias=False)
        nn.init.zeros_(self.told.weight)

    def forward(self, features: Tensor, cond: Cond, rows: int | None = None) -> Tensor:
        """rows: positions of the features along the sequence; as many as the condition's / step when left out."""
        told = self.told(self.norm(vectors(cond, self.name)))
        scale = features.shape[-1] ** 0.5
        if told.ndim == 2:
            return torch.einsum("bc,bnc->bn", told, features) / scale
        rows = rows or -(-told.shape[1] // self.step)
        if features.shape[1] % rows:
            text = f"{features.shape[1]} places do not divide into the {rows} positions of {self.name}"
            raise UserError(text, "method.judge.condition", "say kind: latent")
        each = adaptive_avg_pool1d(told.transpose(1, 2), rows).transpose(1, 2)  # [B, rows, C]
        return torch.einsum("brc,brnc->brn", each, features.unflatten(1, (rows, -1))).flatten(1) / scale


class Agreements(nn.Module):
    """With several conditions at once: the sum."""

    def __init__(self, told: Sequence[Told], width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(Agreement(one, width) for one in told)

    def forward(self, features: Tensor, cond: Cond, rows: int | None = None) -> Tensor:
        return torch.stack([agree(features, cond, rows) for agree in self.each]).sum(0)


def agreement(told: int | Sequence[Told], width: int) -> nn.Module | None:
    """With the conditions told; a number: with the text, whose tokens are so wide; 0 or (): with none."""
    several = ([Told("text", told)] if told else []) if isinstance(told, int) else [*told]
    if not several:
        return None
    return Agreement(several[0], width) if len(several) == 1 else Agreements(several, width)
