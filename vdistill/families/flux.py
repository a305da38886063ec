"""FLUX.1: stock FluxTransformer2DModel on latents packed 2 x 2. An image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.guided import INPUT
from .kl_codec import KlCodec
from .opening import call_defaults
from .seams import JointSeam
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

LENGTH = 512  # tokens that T5 reads
SCALE = 3.5  # the guidance scale of a network that takes one, when none is told: the pipeline's


def packed(x: Tensor) -> Tensor:
    """[B, C, 1, H, W] -> [B, H/2 W/2, 4 C]."""
    return rearrange(x, "b c 1 (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


class FluxNet(StockNet):
    """Reads "text" [B, L, D], "text.pooled" [B, D] and, where the network was distilled to take it, "guidance" [B]."""

    text_in = "context_embedder"
    rows = 0  # of text, which single blocks find in front of the picture

    @property
    def channels(self) -> int:
        return int(self.model.config.in_channels) // 4

    @property
    def patch(self) -> tuple[int, int, int]:
        return (1, 2, 2)

    @property
    def takes_scale(self) -> bool:
        return bool(self.model.config.guidance_embeds) or self.guidance is not None

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        text, dtype = self.text(cond), self.dtype
        high, wide = x.shape[-2] // 2, x.shape[-1] // 2
        places = torch.cartesian_prod(*(torch.arange(n, device=x.device, dtype=dtype) for n in (1, high, wide)))
        out = self.model(
            packed(x).to(dtype), text, cond.fields["text.pooled"].to(dtype), timestep.to(dtype) / self.clock.steps,
            img_ids=places, txt_ids=places.new_zeros(text.shape[1], 3), guidance=self.scale(x, cond), return_dict=False,
        )[0]  # fmt: skip
        return rearrange(out, "b (h w) (c p q) -> b c 1 (h p) (w q)", h=high, p=2, q=2)

    def scale(self, x: Tensor, cond: Cond) -> Tensor | None:
        """What a network with an embedding of the scale is told."""
        if not self.model.config.guidance_embeds:
            return None
        told = cond.fields.get("guidance")
        return (x.new_full((len(x),), SCALE) if told is None else told).float()

    def blocks(self) -> Sequence[nn.Module]:
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def tapped(self, layer: int, out: Any) -> Tensor:
        return out[1]  # type: ignore[no-any-return]

    def attentions(self) -> Sequence[Any]:
        return [block.attn for block in self.blocks()]

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        self.rows = cond.fields["text"].shape[1]
        return super().forward(x, t, cond, attend)

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return JointSeam(layer, attend, self.rows)

    def with_scale_input(self) -> Self:
        return self if self.takes_scale else super().with_scale_input()


class FluxFamily(StockFamily):
    """FluxPipeline. dev was distilled to take the scale as an input. schnell runs without guidance; a scale above 1 is
    the pipeline's true_cfg_scale, with the negative prompt in place of the caption."""

    name = "flux"
    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    network = FluxNet
    passes_apart = True
    image = True
    long_tokenizer = "tokenizer_2"

    def __init__(self, pipe: Any, negative: str = "") -> None:
        super().__init__(pipe, negative)
        if pipe.transformer.config.guidance_embeds:
            self.guided_by = INPUT

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        return KlCodec(
            self.pipe.vae, scale=config.scaling_factor, shift=config.shift_factor or 0.0,
            spatial=2 ** (len(config.block_out_channels) - 1), flat=True, multiple=2,
        )  # fmt: skip

    def defaults(self) -> dict[str, float]:
        side = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        own = {} if self.guided_by == INPUT else {"guidance": float(call_defaults(type(self.pipe))["true_cfg_scale"])}
        return super().defaults() | {"height": side, "width": side} | own

    @property
    def text_length(self) -> int:
        return min(LENGTH, int(self.pipe.tokenizer_2.model_max_length))

    def encode(self, caption: str) -> Parts:
        text, pooled, _ = self.pipe.encode_prompt(caption, None, max_sequence_length=self.text_length)
        return {"text": text, "text.pooled": pooled}

    def pack(self, x: Tensor) -> Tensor:
        return packed(x)

    def unpack(self, z: Tensor, shape: Sequence[int]) -> Tensor:
        return rearrange(z, "b (h w) (c p q) -> b c 1 (h p) (w q)", h=shape[2] // 2, p=2, q=2)

    def set_timesteps(self, scheduler: Any, steps: int, shape: Sequence[int], device: torch.device) -> None:
        mu = self.mu_of(shape)
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, mu=mu, device=device)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
