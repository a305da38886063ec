"""What a judge is shown of a noised sample: the sample itself, or features that a network has of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Tapped
from ..core.rng import Rng


class Look(Protocol):
    """(x_t [B, C, T, ...], t [B], cond) -> tensors [B, ...], in the order the judge takes them."""

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond) -> Sequence[Tensor]: ...


@runtime_checkable
class Drawn(Protocol):
    """A look that draws what it looks at: once for what is to be compared."""

    def drawn(self, rng: Rng) -> Look: ...


@dataclass(frozen=True)
class Whole:
    """The noised sample as it is."""

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond) -> Sequence[Tensor]:
        return [xt]


@dataclass(frozen=True)
class Taps:
    """Features [B, N, C] after these layers of a network.

    frozen: a teacher, whose weights get no gradient. A graph is then kept only where the sample wants a gradient, which
    it does in the student's turn and not in the judge's.
    """

    net: Tapped
    layers: Sequence[int]
    frozen: bool = False

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond) -> Sequence[Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and (xt.requires_grad or not self.frozen)):
            return self.net.taps(xt, t, cond, self.layers)
