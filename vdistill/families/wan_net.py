"""Stock WanTransformer3DModel as a network: per-frame times, attention seam, taps, guidance as an input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.errors import UserError


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


class _Rope:
    """Rotates [B, heads, N, D] by the model's own cosines and sines [1, N, 1, D]."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos, self.sin = cos[..., 0::2].transpose(1, 2), sin[..., 1::2].transpose(1, 2)

    def __call__(self, x: Tensor) -> Tensor:
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([even * self.cos - odd * self.sin, even * self.sin + odd * self.cos], -1)
        return turned.flatten(-2).type_as(x)


class _Seam:
    """Attention processor that lets an `Attend` answer for one layer."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend) -> None:
        self.layer, self.attend = layer, attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        v = attn.to_v(hidden_states)
        rope = _Rope(*rotary_emb) if rotary_emb is not None else None
        out = self.attend(self.layer, heads(q), heads(k), heads(v), rope).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out.type_as(hidden_states)))  # type: ignore[no-any-return]


class WanNet(nn.Module):
    """x [B, C, T, H, W], t [B] or [B, T] -> prediction. Reads Cond fields "text" [B, L, D] and, if it was given an
    embedding for it, "guidance" [B]."""

    def __init__(self, transformer: WanTransformer3DModel, guidance: GuidanceEmbedding | None = None) -> None:
        super().__init__()
        self.transformer, self.guidance = transformer, guidance

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        text = cond.fields["text"]
        if self.guidance is not None and "guidance" in cond.fields:
            text = text + self.guidance(cond.fields["guidance"]).to(text.dtype)
        time = (1000 * t).to(torch.float32)
        if time.ndim == 2:  # one time per latent frame -> one per token
            _, high, wide = self.transformer.config.patch_size
            time = time.repeat_interleave(x.shape[3] // high * (x.shape[4] // wide), dim=1)
        with self._attending(attend):
            return self.transformer(x, time, text, return_dict=False)[0]  # type: ignore[no-any-return]

    @contextmanager
    def _attending(self, attend: Attend) -> Iterator[None]:
        if attend is full:
            yield
            return
        stock = [block.attn1.processor for block in self.transformer.blocks]
        for layer, block in enumerate(self.transformer.blocks):
            block.attn1.processor = _Seam(layer, attend)
        try:
            yield
        finally:
            for block, processor in zip(self.transformer.blocks, stock, strict=True):
                block.attn1.processor = processor

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        """Features [B, N, C] after the given blocks."""
        blocks, found = self.transformer.blocks, {}
        if not all(0 <= layer < len(blocks) for layer in layers):
            raise UserError(f"layers {list(layers)} asked for, the network has 0..{len(blocks) - 1}", "taps")

        def keep(layer: int) -> Any:
            def hook(module: nn.Module, args: Any, out: Tensor) -> None:
                found[layer] = out

            return hook

        hooks = [blocks[layer].register_forward_hook(keep(layer)) for layer in layers]
        try:
            self(x, t, cond)
        finally:
            for hook in hooks:
                hook.remove()
        return [found[layer] for layer in layers]
