"""A stock cross-attention that reads sound and a reference beside its text, with its own queries and its own output.

attn(h) = O [A(Q h, text) + A(Q h, reference) + sum_i M_i A(Q h, sound_i)]: the decoupled cross-attention of IP-Adapter
(Ye et al. 2023), for sound and for each latent frame apart as FantasyTalking (Wang et al. 2025) has it. New keys and
values read the new tokens; values are born zero, so that a newborn network says exactly what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Processor = Callable[..., Tensor]
FEW = 16
"""Keys up to which plain matrix products are quicker than a fused kernel (measured on CPUs)."""


@dataclass(frozen=True)
class Push:
    """r -> n + gain (r - n), of what is read and what would be read of the null: guidance within one pass, as
    normalized attention guidance (Chen et al. 2025) without its norm. gain: [B], [B, D], or [B, places, D] of several
    places; null: its token, [W]."""

    gain: Tensor
    null: Tensor

    def __call__(self, read: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """read: [k B, n, D], the k rows of a sample side by side; of: what reads a null, [W] -> [D]."""
        none = of(self.null).to(read.dtype)
        gain = self.gain.to(read.dtype).repeat_interleave(len(read) // len(self.gain), 0)
        return read + (gain.view(len(read), 1, -1) - 1) * (read - none)  # at gains of 1 what was read, to the bit

    def at(self, place: int) -> Push:
        """That of one place."""
        return self if self.gain.ndim == 1 else Push(self.gain[:, place], self.null)


@dataclass(frozen=True)
class Told:
    """What the layers of one forward pass are told. audio: tokens [B, T, N, S, W] of N speakers, T latent frames or 1
    for all; where: [B, T, N, n], share of each of a frame's n tokens that is a speaker's, None: all is one speaker's;
    ref: tokens [B, m, W]; louder, nearer: how far what is read of either is pushed from its null."""

    audio: Tensor | None = None
    where: Tensor | None = None
    ref: Tensor | None = None
    louder: Push | None = None
    nearer: Push | None = None

    def at(self, place: int) -> Told:
        """What one place is told."""
        louder, nearer = (push and push.at(place) for push in (self.louder, self.nearer))
        return replace(self, louder=louder, nearer=nearer)


class Reader(nn.Module):
    """Keys and values of one kind of tokens, for queries of width `dim`. Values are zero at birth."""

    def __init__(self, width: int, dim: int, key_norm: bool) -> None:
        super().__init__()
        self.to_k = nn.Linear(width, dim, bias=False)
        self.to_v = nn.Linear(width, dim, bias=False)
        self.norm_k = nn.RMSNorm(dim, eps=1e-6) if key_norm else nn.Identity()
        nn.init.zeros_(self.to_v.weight)

    def forward(self, q: Tensor, tokens: Tensor, heads: int, push: Push | None = None) -> Tensor:
        """q: [B, n, dim], normed; tokens: [B, m, W] -> [B, n, dim], before the output layer."""
        read = self.read(q, tokens, heads)
        return read if push is None else push(read, self.value)

    def value(self, token: Tensor) -> Tensor:
        """What a token says where it is the only one."""
        return self.to_v(token.to(self.to_v.weight.dtype))  # type: ignore[no-any-return]

    def read(self, q: Tensor, tokens: Tensor, heads: int) -> Tensor:
        """As it was learned."""
        x = tokens.to(self.to_k.weight.dtype)
        k, v = self.norm_k(self.to_k(x)).to(q.dtype), self.to_v(x).to(q.dtype)
        if k.shape[1] == 1:
            return v.expand_as(q)  # one key: all attention is its
        return attention(*(rearrange(y, "b n (h d) -> b h n d", h=heads) for y in (q, k, v))).transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt d) v; all [B, heads, n, d]."""
    if k.shape[2] > FEW:
        return scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1).to(v.dtype) @ v


class BlockReaders(nn.Module):
    """What one block reads beside its text; a kind that is not wanted is None."""

    def __init__(self, width: int, dim: int, audio: bool, ref: bool, key_norm: bool) -> None:
        super().__init__()
        self.audio = Reader(width, dim, key_norm) if audio else None
        self.ref = Reader(width, dim, key_norm) if ref else None

    def forward(self, q: Tensor, told: Told, heads: int) -> Tensor | None:
        """What is added before the block's output layer, [B, n, dim]; None for nothing."""
        found = None
        if self.ref is not None and told.ref is not None:
            found = self.ref(q, told.ref, heads, told.nearer)
        if self.audio is not None and told.audio is not None:
            heard = hear(self.audio, q, told.audio, told.where, heads, told.louder)
            found = heard if found is None else found + heard
        return found


def hear(
    reader: Reader, q: Tensor, audio: Tensor, where: Tensor | None, heads: int, push: Push | None = None
) -> Tensor:
    """sum_i M_i A(q, a_i), every latent frame with its own sound. q: [B, T n, dim]; audio, where: see `Told`."""
    count, frames = audio.shape[:2]
    rows = rearrange(q, "b (t n) c -> (b t) n c", t=frames)
    parts: Sequence[Tensor] = [
        rearrange(reader(rows, audio[:, :, i].flatten(0, 1), heads, push), "(b t) n c -> b (t n) c", b=count)
        for i in range(audio.shape[2])
    ]
    if where is None:
        return sum(parts[1:], parts[0])
    shares = where.to(q.dtype)
    weighted = [part * rearrange(shares[:, :, i], "b t n -> b (t n) 1") for i, part in enumerate(parts)]
    return sum(weighted[1:], weighted[0])


class Reading:
    """The processor of a stock cross-attention, which answers as before, with more in front of the output layer."""

    def __init__(self, stock: Processor, readers: BlockReaders, told: Told) -> None:
        self.stock, self.readers, self.told = stock, readers, told

    def __call__(self, attn: Any, *given: Any, **named: Any) -> Tensor:
        return self.stock(_Listening(attn, self.readers, self.told), *given, **named)


class _Listening:
    """A stock attention module that lends its queries to `readers` and sends their answers through its output layer."""

    def __init__(self, attn: Any, readers: BlockReaders, told: Told) -> None:
        self.attn, self.readers, self.told = attn, readers, told
        self.more: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.attn, name)

    def norm_q(self, q: Tensor) -> Tensor:
        normed = self.attn.norm_q(q)
        self.more = self.readers(normed, self.told, self.attn.heads)
        return normed  # type: ignore[no-any-return]

    @property
    def to_out(self) -> list[Callable[[Tensor], Tensor]]:
        first, *rest = self.attn.to_out

        def joined(text: Tensor) -> Tensor:
            return first(text if self.more is None else text + self.more.to(text.dtype))  # type: ignore[no-any-return]

        return [joined, *rest]
