"""Keys and values of the text, computed once for a prompt: a stream asks for the same ones at every step of each block.

Only for layers that read the text apart (Wan, LTX); in a joint model the text goes through all layers with the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.attention import Told
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
