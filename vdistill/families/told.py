"""Keys and values of the text, computed once for a prompt: a stream asks for the same ones at every step of each block.

Layers that read the text apart (Wan, LTX) make them from the text alone. In a joint model the text goes through all
layers with the clip, but sees itself alone and is told time 0, so that what it becomes is the prompt's alone too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..core.attention import Attend, Placed, Rope, Told
from ..core.cond import Cond

Read = dict[tuple[int, str], Tensor]


def kept_of(attend: object, cond: Cond) -> Read | None:
    """Where an `Attend` keeps what was computed of these very conditions; None where it does not, or a graph is made.

    It is emptied when the conditions are others.
    """
    if torch.is_grad_enabled() or not isinstance(attend, Told) or attend.told is None:
        return None
    fields = list(cond.fields.values())
    known = attend.told.get("fields", [])
    if len(known) != len(fields) or any(a is not b for a, b in zip(known, fields, strict=True)):
        attend.told.clear()
        attend.told.update(fields=fields, read={})
    return attend.told["read"]  # type: ignore[no-any-return]


class Once:
    """A processor of a layer that reads the text: the stock one, shown the keys and values of before."""

    def __init__(self, layer: int, stock: Callable[..., Tensor], read: Read) -> None:
        self.layer, self.stock, self.read = layer, stock, read

    @torch.compiler.disable
    def __call__(self, attn: Any, *given: Any, **named: Any) -> Tensor:
        return self.stock(_Layer(attn, self.layer, self.read), *given, **named)


class _Layer:
    """A stock attention module whose `to_k`, with its norm, and `to_v` answer once."""

    def __init__(self, attn: Any, layer: int, read: Read) -> None:
        self.attn, self.layer, self.read = attn, layer, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self.attn, name)

    def to_k(self, text: Tensor) -> Tensor:
        return self._once("k", lambda: self.attn.norm_k(self.attn.to_k(text)))

    def norm_k(self, k: Tensor) -> Tensor:
        return k

    def to_v(self, text: Tensor) -> Tensor:
        return self._once("v", lambda: self.attn.to_v(text))

    def _once(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        key = (self.layer, what)
        if key not in self.read:
            self.read[key] = make()
        return self.read[key]


class Alone:
    """An `Attend` of a joint model that answers for the text, and holds on to its keys and values [B, heads, L, D] and
    its mask [B, L]; of the one position of the clip that goes along, the answer is of no use."""

    numbers = torch.zeros(1, dtype=torch.float64)

    def __init__(self) -> None:
        self.read: Read = {}

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
        told = {"k": k[:, :, :prefix], "v": v[:, :, :prefix]} | ({} if mask is None else {"mask": mask[:, :prefix]})
        self.read |= {(layer, name): value for name, value in told.items()}
        seen = None if mask is None else told["mask"][:, None, None]
        text = scaled_dot_product_attention(q[:, :, :prefix], told["k"], told["v"], attn_mask=seen)
        return torch.cat([text, v[:, :, prefix:]], 2)


class Known:
    """An `Attend` of a joint model that is given a row of text in place of all, and shows `attend` the keys and values
    that are known; of that row, the answer is of no use."""

    def __init__(self, attend: Attend, read: Read) -> None:
        self.attend, self.read = attend, read

    @property
    def numbers(self) -> Tensor | None:
        """See `core.attention.Placed`."""
        return self.attend.numbers if isinstance(self.attend, Placed) else None

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
        told = {name: self.read[layer, name] for name in ("k", "v", "mask") if (layer, name) in self.read}
        k, v = torch.cat([told["k"], k[:, :, prefix:]], 2), torch.cat([told["v"], v[:, :, prefix:]], 2)
        mask = None if mask is None else torch.cat([told["mask"], mask[:, prefix:]], 1)
        out = self.attend(layer, q[:, :, prefix:], k, v, rope, prefix=told["k"].shape[2], mask=mask)
        return torch.cat([v.new_zeros(*v.shape[:2], prefix, v.shape[3]), out], 2)
