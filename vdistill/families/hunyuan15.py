"""HunyuanVideo 1.5, from text: stock HunyuanVideo15Transformer3DModel, guided by two passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.attention import Attend
from ..core.cond import Cond
from .hunyuan import HunyuanSeam
from .kl_codec import KlCodec
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet


class Hunyuan15Net(StockNet):
    """Reads "text" [B, L, D] and "text.mask" [B, L] (Qwen), "text.glyph" and "text.glyph_mask" (ByT5: what stands in
    quotes). image: tokens and width of the image condition, which is zeros here, as are first frame and its mask."""

    image = (729, 1152)

    @property
    def patch(self) -> tuple[int, int, int]:
        config = self.model.config
        return (config.patch_size_t, config.patch_size, config.patch_size)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        dtype, f = self.model.dtype, cond.fields
        nothing = x.new_zeros(len(x), self.model.config.in_channels - x.shape[1], *x.shape[2:])
        return self.model(  # type: ignore[no-any-return]
            torch.cat([x, nothing], 1).to(dtype), timestep.expand(len(x)).to(dtype), self.text(cond),
            f["text.mask"].to(dtype), encoder_hidden_states_2=f["text.glyph"].to(dtype),
            encoder_attention_mask_2=f["text.glyph_mask"].to(dtype),
            image_embeds=x.new_zeros(len(x), *self.image, dtype=dtype), return_dict=False,
        )[0]  # fmt: skip

    def attentions(self) -> Sequence[Any]:
        return [block.attn for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return HunyuanSeam(layer, attend)


class Hunyuan15Family(StockFamily):
    """HunyuanVideo15Pipeline; its guider says the default scale."""

    name = "hunyuan15"
    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanVideo15Pipeline",)
    network = Hunyuan15Net

    def make_codec(self) -> KlCodec:
        pipe, network = self.pipe, self.network_of()
        assert isinstance(network, Hunyuan15Net)
        network.image = (int(pipe.vision_num_semantic_tokens), int(pipe.vision_states_dim))
        return KlCodec(
            pipe.vae, scale=pipe.vae.config.scaling_factor, temporal=int(pipe.vae_scale_factor_temporal),
            spatial=int(pipe.vae_scale_factor_spatial), multiple=network.patch[1],
        )  # fmt: skip

    @property
    def text_length(self) -> int:
        return int(self.pipe.tokenizer_max_length)

    def encode(self, caption: str) -> Parts:
        text, mask, glyph, glyph_mask = self.pipe.encode_prompt(caption, device=self.device)
        return {"text": text, "text.mask": mask, "text.glyph": glyph, "text.glyph_mask": glyph_mask}

    def set_timesteps(self, scheduler: Any, steps: int, shape: Sequence[int], device: torch.device) -> None:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=device)

    def defaults(self) -> dict[str, float]:
        return {**super().defaults(), "guidance": float(getattr(self.pipe.guider, "guidance_scale", 1.0))}
