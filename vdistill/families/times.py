"""A time for every position, in stock blocks that are told one for each sample.

Inside, norms see positions as samples of their own: [B, P n, D] as [B P, n, D], so that the stock code computes them.
The times arrive as [B, 1 + P]: that of the text first, then of each position, or one (P = 1) that all share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError

Forward = Callable[..., Any]


def with_text(timestep: Tensor, count: int, frames: int, patch: int = 1) -> Tensor:
    """[B, T] or [B, 1] -> [count, 1 + P]: the text is told 0, so that it does not change with the clip.

    patch: latent frames of one position; the first of them says the time. UserError for another number of times.
    """
    if timestep.shape[1] not in (1, frames):
        raise UserError(f"{timestep.shape[1]} times for {frames} latent frames", "t", "give one for each, or one")
    return nn.functional.pad(timestep[:, ::patch].expand(count, -1), (1, 0))


@contextmanager
def replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Inside, these modules answer by other functions."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, own in before.items():
            module.__dict__.pop("forward")
            if own is not None:
                module.__dict__["forward"] = own


class Spread:
    """Modulation by position, in place of a tensor [B, D] for all rows: blocks index, add and multiply it alike.

    clip: [B, P, D], of the first `tokens` rows of a sequence; text: [B, D], of the others. Without text: of all rows.
    """

    def __init__(self, clip: Tensor, text: Tensor | None = None, tokens: int = 0) -> None:
        self.clip, self.text, self.tokens = clip, text, tokens

    def unsqueeze(self, dim: int) -> Spread:
        """It has its place among the rows already."""
        return self

    def __getitem__(self, index: Any) -> Spread:
        return self

    def __radd__(self, other: float | Tensor) -> Any:
        if isinstance(other, Tensor):
            return self._on(other, torch.add)
        return Spread(other + self.clip, None if self.text is None else other + self.text, self.tokens)

    def __mul__(self, rows: Tensor) -> Tensor:
        return self._on(rows, torch.mul)

    __rmul__ = __mul__

    def _on(self, rows: Tensor, do: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self.text is None:
            return do(rows.unflatten(1, (self.clip.shape[1], -1)), self.clip[:, :, None]).flatten(1, 2)
        clip = Spread(self.clip)._on(rows[:, : self.tokens], do)
        return torch.cat([clip, do(rows[:, self.tokens :], self.text[:, None])], 1)


def folded(x: Tensor, count: int) -> Tensor:
    """[B, P n, D] -> [B P, n, D]."""
    return x.unflatten(1, (count, -1)).flatten(0, 1)


def unfolded(x: Tensor, count: int) -> Tensor:
    """The way back; of [B P, D] it is [B, P, D]."""
    return x.unflatten(0, (-1, count)) if x.ndim == 2 else x.unflatten(0, (-1, count)).flatten(1, 2)


def of_clip(norm: nn.Module) -> Forward:
    """A norm (x, emb) -> x, or (x, gates and scales for later), of the rows of the clip. emb: [B, 1 + P, D]."""
    stock = norm.forward

    def forward(x: Tensor, *args: Tensor, **named: Tensor) -> Any:
        (emb,) = (*args, *named.values())
        count = emb.shape[1] - 1
        out = _asked(stock, folded(x, count), emb[:, 1:].flatten(0, 1), named)
        if isinstance(out, Tensor):
            return unfolded(out, count)
        return unfolded(out[0], count), *(Spread(unfolded(each, count)) for each in out[1:])

    return forward


def of_text(norm: nn.Module) -> Forward:
    """The same of the rows of the text."""
    stock = norm.forward

    def forward(x: Tensor, *args: Tensor, **named: Tensor) -> Any:
        (emb,) = (*args, *named.values())
        return _asked(stock, x, emb[:, 0], named)

    return forward


def of_both(norm: nn.Module, tokens: int) -> Forward:
    """The same of a sequence of `tokens` rows of the clip and then the text."""
    clip, text = of_clip(norm), of_text(norm)

    def forward(x: Tensor, **named: Tensor) -> Any:
        (seen, *gates), (told, *others) = clip(x[:, :tokens], **named), text(x[:, tokens:], **named)
        spread = (Spread(gate.clip, other, tokens) for gate, other in zip(gates, others, strict=True))
        return torch.cat([seen, told], 1), *spread

    return forward


def _asked(stock: Forward, x: Tensor, emb: Tensor, named: Mapping[str, Tensor]) -> Any:
    """The stock norm's answer, called by the name its block has for the embedding, if any."""
    return stock(x, **dict.fromkeys(named, emb)) if named else stock(x, emb)
