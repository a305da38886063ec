"""Wan: stock WanTransformer3DModel and its pipelines, 2.1 and 2.2 (with two experts, with a time for every token)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ..core.attention import Attend
from ..core.cond import Cond
from ..core.errors import UserError
from .pixel import PixelVae
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet
from .wan_codec import WanCodec

LENGTH = 512  # tokens of a caption; image conditions of Wan 2.1 take it for granted


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


class WanNet(StockNet):
    """Reads "text" [B, L, D] and, of a folder that starts from an image, "image" [B, L, D] (CLIP) and "first"
    [B, 4 + C, T, H, W] (its mask and latents)."""

    text_in = "condition_embedder.text_embedder.linear_1"
    per_frame = True

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        if timestep.ndim == 2:  # one time per latent frame -> one per token
            _, high, wide = self.patch
            timestep = timestep.repeat_interleave(x.shape[3] // high * (x.shape[4] // wide), dim=1)
        first = cond.fields.get("first")
        seen = x if first is None else torch.cat([x, first.to(x.dtype)], 1)
        return self.model(  # type: ignore[no-any-return]
            seen.to(self.model.dtype), timestep, self.text(cond), cond.fields.get("image"), return_dict=False
        )[0]

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return _Seam(layer, attend)


class WanFamily(StockFamily):
    """Opens WanPipeline folders, with AutoencoderKLWan or our exact pixel patches."""

    name = "wan"
    pipelines: ClassVar[tuple[str, ...]] = ("WanPipeline",)
    network = WanNet

    def make_codec(self) -> WanCodec:
        vae = self.pipe.vae
        if not isinstance(vae, AutoencoderKLWan | PixelVae):
            raise UserError(f"{type(vae).__name__} is not one of AutoencoderKLWan, PixelVae", "vae")
        return WanCodec(vae)

    @property
    def text_length(self) -> int:
        """Tokens of a caption: Wan's, or fewer where the tokenizer says so."""
        return min(LENGTH, int(self.pipe.tokenizer.model_max_length))

    def encode(self, caption: str) -> Parts:
        found, _ = self.pipe.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return {"text": found}

    def make_network(self, parts: Mapping[str, nn.Module]) -> StockNet:
        return WanNet(parts, self.clock)
