"""Stable Diffusion 1.x, 2.x and XL: the stock UNet and its pipelines. An image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..core.attention import Attend
from ..core.cond import Cond
from .kl_codec import KlCodec
from .seams import SelfSeam
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

SCALE_WIDTH = 256  # of the guidance embedding a UNet is given, as in LCM


def frequencies(count: int) -> Tensor:
    """From 1 down to 1/10000, to the last bit the pipelines': angles are in the thousands."""
    step = torch.tensor(10000.0).log() / (count - 1)
    return (torch.arange(count, dtype=torch.float32) * -step).exp()


class UNetNet(StockNet):
    """Reads "text" [B, L, D] and, of XL, "text.pooled" [B, D] and, if given, "time_ids" [B, 6]: original height and
    width, top and left of the crop, target height and width, in pixels. side: pixels of a latent position."""

    side: int = 8

    @property
    def patch(self) -> tuple[int, int, int]:
        return (1, 1, 1)

    @property
    def takes_scale(self) -> bool:
        return self.model.config.time_cond_proj_dim is not None

    @property
    def can_take_scale(self) -> bool:
        return True

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        out = self.model(
            x[:, :, 0].to(self.dtype), timestep, self.text(cond), timestep_cond=self.scale(cond),
            added_cond_kwargs=self.added(x, cond), return_dict=False,
        )[0]  # fmt: skip
        return out[:, :, None]  # type: ignore[no-any-return]

    def scale(self, cond: Cond) -> Tensor | None:
        """The embedding of w = s - 1 of stock pipelines (LCM, Luo et al. 2023): sines, then cosines, of 1000 w f."""
        if not self.takes_scale or "guidance" not in cond.fields:
            return None
        told = 1000.0 * (cond.fields["guidance"].double() - 1).float()
        angles = told[:, None] * frequencies(self.model.config.time_cond_proj_dim // 2).to(told.device)
        return torch.cat([angles.sin(), angles.cos()], 1).to(self.dtype)

    def added(self, x: Tensor, cond: Cond) -> dict[str, Tensor] | None:
        """Added conditions of XL: the pooled text and the sizes."""
        if self.model.config.addition_embed_type != "text_time":
            return None
        height, width = x.shape[-2] * self.side, x.shape[-1] * self.side
        ids = cond.fields.get("time_ids")
        if ids is None:
            ids = x.new_tensor([[height, width, 0, 0, height, width]]).expand(len(x), -1)
        return {"text_embeds": cond.fields["text.pooled"].to(self.dtype), "time_ids": ids.to(self.dtype)}

    def text(self, cond: Cond) -> Tensor:
        return cond.fields["text"].to(self.dtype)

    # -- where things are --

    def blocks(self) -> Sequence[nn.Module]:
        unet = self.model
        return [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks]

    def tapped(self, layer: int, out: Any) -> Tensor:
        shown = out if isinstance(out, Tensor) else out[0]
        return shown.flatten(2).transpose(1, 2)

    def width(self, layer: int) -> int:
        widths = list(self.model.config.block_out_channels)
        middle = [widths[-1]] if self.model.mid_block is not None else []
        return int([*widths, *middle, *reversed(widths)][layer])

    def attentions(self) -> Sequence[Any]:
        return [
            module.attn1
            for block in self.blocks()
            for module in block.modules()
            if type(module).__name__ == "BasicTransformerBlock"
        ]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return SelfSeam(layer, attend)

    # -- the guidance scale as an input, where stock pipelines look for it --

    def with_scale_input(self) -> Self:
        if not self.takes_scale:
            embedding = self.model.time_embedding
            width = embedding.linear_1.in_features
            embedding.cond_proj = nn.Linear(SCALE_WIDTH, width, bias=False).to(embedding.linear_1.weight)
            nn.init.zeros_(embedding.cond_proj.weight)
            self.model.register_to_config(time_cond_proj_dim=SCALE_WIDTH)
        return self

    def scale_module(self) -> nn.Module | None:
        found = self.model.time_embedding.cond_proj
        return found if isinstance(found, nn.Module) else None

    def with_fixed_scale(self, scale: float) -> Self:
        return self


class SdFamily(StockFamily):
    """Stable Diffusion 1.x and 2.x, eps or v."""

    name = "sd"
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    networks = ("unet",)
    network = UNetNet
    image = True

    @property
    def side(self) -> int:
        """Pixels of a latent position."""
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    def make_network(self, parts: Mapping[str, nn.Module]) -> StockNet:
        network = super().make_network(parts)
        network.side = self.side  # type: ignore[assignment]
        return network

    def make_codec(self) -> KlCodec:
        return KlCodec(self.pipe.vae, scale=self.pipe.vae.config.scaling_factor, spatial=self.side, flat=True)

    @property
    def text_length(self) -> int:
        return int(self.pipe.tokenizer.model_max_length)

    def encode(self, caption: str) -> Parts:
        found, _ = self.pipe.encode_prompt(caption, self.device, 1, False)
        return {"text": found}


@contextmanager
def wide(vae: Any) -> Iterator[None]:
    """Inside, a VAE that says it overflows in float16 is in float32, as in the pipeline of XL."""
    narrow = vae.dtype == torch.float16 and vae.config.force_upcast
    if narrow:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if narrow:
            vae.to(torch.float16)


class XlCodec(KlCodec):
    """Of XL: in float32 where half precision overflows."""

    def raw_encode(self, pixels: Tensor) -> Tensor:
        with wide(self.vae):
            return super().raw_encode(pixels.to(self.vae.dtype))

    def raw_decode(self, z: Tensor) -> Tensor:
        with wide(self.vae):
            return super().raw_decode(z.to(self.vae.dtype))


class SdxlFamily(SdFamily):
    """Stable Diffusion XL; where its VAE states means and deviations of channels, latents are normalised by them."""

    name = "sdxl"
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return XlCodec(self.pipe.vae, scale=config.scaling_factor, spatial=self.side, flat=True)
        scale = [config.scaling_factor / deviation for deviation in std]
        return XlCodec(self.pipe.vae, scale=scale, shift=mean, spatial=self.side, flat=True)

    def encode(self, caption: str) -> Parts:
        text, _, pooled, _ = self.pipe.encode_prompt(
            caption, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"text": text, "text.pooled": pooled}

    def encode_null(self) -> Parts:
        found = self.encode(self.negative)
        if not self.negative and self.pipe.config.get("force_zeros_for_empty_prompt"):
            return {name: torch.zeros_like(value) for name, value in found.items()}
        return found
