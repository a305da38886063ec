"""PixArt-alpha and PixArt-sigma: stock PixArtTransformer2DModel. An image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..core.attention import Attend
from ..core.cond import Cond
from .kl_codec import KlCodec
from .seams import SelfSeam
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}  # tokens that T5 reads


class PixArtNet(StockNet):
    """Reads "text" [B, L, D] and "text.mask" [B, L]; the learned variance is dropped. side: pixels of a position."""

    text_in = "caption_projection.linear_1"
    side = 8

    @property
    def channels(self) -> int:
        return int(self.model.config.in_channels)

    @property
    def patch(self) -> tuple[int, int, int]:
        return (1, self.model.config.patch_size, self.model.config.patch_size)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        out = self.model(
            x[:, :, 0].to(self.dtype), self.text(cond), timestep.expand(len(x)), self.sizes(x),
            encoder_attention_mask=cond.fields["text.mask"], return_dict=False,
        )[0]  # fmt: skip
        return out[:, : x.shape[1], None]  # type: ignore[no-any-return]

    def sizes(self, x: Tensor) -> dict[str, Tensor | None]:
        """Added conditions of networks that have them: height and width in pixels, and their ratio."""
        if not self.model.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height, width = self.side * x.shape[-2], self.side * x.shape[-1]
        told = x.new_tensor([[height, width]], dtype=self.dtype).expand(len(x), -1)
        ratio = x.new_tensor([[height / width]], dtype=self.dtype).expand(len(x), -1)
        return {"resolution": told, "aspect_ratio": ratio}

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return SelfSeam(layer, attend)


class PixArtFamily(StockFamily):
    """Both pipelines, called with use_resolution_binning=False and clean_caption=False."""

    name = "pixart"
    pipelines: ClassVar[tuple[str, ...]] = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    network = PixArtNet
    image = True

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        side = 2 ** (len(config.block_out_channels) - 1)
        self.network_of().side = side
        return KlCodec(
            self.pipe.vae, scale=config.scaling_factor, spatial=side, flat=True, multiple=self.network_of().patch[1]
        )

    @property
    def text_length(self) -> int:
        return min(LENGTHS[type(self.pipe).__name__], int(self.pipe.tokenizer.model_max_length))

    def encode(self, caption: str) -> Parts:
        text, mask, _, _ = self.pipe.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return {"text": text, "text.mask": mask}
