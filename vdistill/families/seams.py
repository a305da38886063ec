"""Attention processors that let an `Attend` answer: for self-attention, and for text and picture together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.attention import Attend
from .rope import AxialRope

STILL = torch.zeros(0, dtype=torch.float64)  # frequencies of a sequence of one


def split_heads(x: Tensor, attn: Any) -> Tensor:
    """[B, N, heads D] -> [B, heads, N, D]."""
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def normed(norm: Any, x: Tensor) -> Tensor:
    """A norm that may not be there."""
    return x if norm is None else norm(x)  # type: ignore[no-any-return]


class SelfSeam:
    """Self-attention of a transformer block, without positions of its own."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend) -> None:
        self.layer, self.attend = layer, attend

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Tensor:
        q, k = split_heads(attn.to_q(hidden_states), attn), split_heads(attn.to_k(hidden_states), attn)
        v = split_heads(attn.to_v(hidden_states), attn)
        out = self.attend(self.layer, normed(attn.norm_q, q), normed(attn.norm_k, k), v, None)
        out = out.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


class JointSeam:
    """Text and picture in one attention, each with projections of its own, or already in one sequence, text first.

    prefix: rows of text in a sequence that comes joined. The stock network rotates by what it looked up, and these
    networks make single images: places of a sequence are never moved.
    """

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend, prefix: int) -> None:
        self.layer, self.attend, self.prefix = layer, attend, prefix

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        **more: Any,
    ) -> Any:
        q = normed(attn.norm_q, split_heads(attn.to_q(hidden_states), attn))
        k = normed(attn.norm_k, split_heads(attn.to_k(hidden_states), attn))
        v, rows = split_heads(attn.to_v(hidden_states), attn), self.prefix
        if encoder_hidden_states is not None:
            text, rows = encoder_hidden_states, encoder_hidden_states.shape[1]
            q = torch.cat([normed(attn.norm_added_q, split_heads(attn.add_q_proj(text), attn)), q], 2)
            k = torch.cat([normed(attn.norm_added_k, split_heads(attn.add_k_proj(text), attn)), k], 2)
            v = torch.cat([split_heads(attn.add_v_proj(text), attn), v], 2)
        rope = None if image_rotary_emb is None else AxialRope(image_rotary_emb, STILL)
        out = self.attend(self.layer, q, k, v, rope, prefix=rows).transpose(1, 2).flatten(2).to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return out if getattr(attn, "pre_only", False) else attn.to_out[1](attn.to_out[0](out))
        seen, told = out[:, rows:], out[:, :rows]
        told = told if attn.context_pre_only else attn.to_add_out(told)
        return attn.to_out[1](attn.to_out[0](seen)), told
