"""The attention seam: a family hands q, k, v of each layer to an `Attend`, which may remember or hide some."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Rope(Protocol):
    """Rotary positions of one forward (Su et al. 2021)."""

    def __call__(self, x: Tensor) -> Tensor:
        """x: [B, heads, N, D], all rows, prefix and sequence; returns it rotated."""

    def at(self, positions: Tensor, rows: int) -> Rope:
        """The same grid at other places of the sequence axis, without the prefix. positions: [T], any numbers, float64;
        rows: tokens of each."""


class Attend(Protocol):
    """Takes one layer's queries, keys and values. Keys arrive un-rotated; `rope` rotates them where they are read."""

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rope: Rope | None,
        *,
        prefix: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """q, k, v: [B, heads, N, D]; returns [B, heads, N, D].

        The first `prefix` rows do not belong to the sequence (the text of a joint model); the others are
        position-major along the sequence axis. mask: [B, N], true where a key may be read. A `Told` is also given
        queries without the prefix, and answers for the others alone.
        """


@runtime_checkable
class Placed(Protocol):
    """An `Attend` that knows which part of a longer sequence it is given.

    numbers: of the positions it is given, [T], for networks that add something for each; None where places change
    while they are remembered, which rotary positions alone can do.
    """

    @property
    def numbers(self) -> Tensor | None: ...


@runtime_checkable
class Told(Protocol):
    """An `Attend` with a place for what layers compute of the conditions alone, good for the weights of now.

    told: emptied and filled by the network; None where nothing is to be kept.
    """

    @property
    def told(self) -> dict[str, Any] | None: ...


def full(
    layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope | None, *, prefix: int = 0, mask: Tensor | None = None
) -> Tensor:
    """Every position sees every other: the bidirectional default. A family may run its own kernel when it sees this."""
    if rope is not None:
        q, k = rope(q), rope(k)
    return scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
