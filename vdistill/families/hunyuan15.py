"""HunyuanVideo 1.5, from text: stock HunyuanVideo15Transformer3DModel, guided by two passes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import Net
from ..core.errors import UserError
from .hunyuan import HunyuanFamily, HunyuanNet
from .kl_codec import KlCodec
from .stock import Parts

IMAGE_TOKENS = 729  # of the image condition; the pipeline has this number in its code


class Hunyuan15Net(HunyuanNet):
    """Reads "text" [B, L, D] and "text.mask" [B, L] (Qwen), "text.glyph" and "text.glyph_mask" (ByT5: what stands in
    quotes). Without an image: zeros for its features, and for the channels of the first frame and where it is."""

    image_tokens = IMAGE_TOKENS

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        config, dtype, f = self.model.config, self.dtype, cond.fields
        nothing = x.new_zeros(len(x), config.in_channels - x.shape[1], *x.shape[2:])
        rows = self.image_tokens if f["text.glyph"].shape[1] else 0
        image = x.new_zeros(len(x), rows, config.image_embed_dim, dtype=dtype)
        with self.timed(x, timestep) as timestep:
            return self.model(  # type: ignore[no-any-return]
                torch.cat([x, nothing], 1).to(dtype), timestep.to(dtype), self.text(cond),
                f["text.mask"].to(dtype), encoder_hidden_states_2=f["text.glyph"].to(dtype),
                encoder_attention_mask_2=f["text.glyph_mask"].to(dtype), image_embeds=image, return_dict=False,
            )[0]  # fmt: skip

    def briefly(self, cond: Cond) -> Cond:
        """Without the image's rows too, which go with those of the glyphs."""
        short = super().briefly(cond)
        for name in ("text.glyph", "text.glyph_mask"):
            short = short.with_field(name, cond.fields[name][:, :0])
        return short

    @property
    def embedder(self) -> nn.Module:
        return self.model.time_embed  # type: ignore[no-any-return]

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.transformer_blocks)


class Hunyuan15Codec(KlCodec):
    """One clip after the other: the mask of the stock VAE's attention fits no batch."""

    def raw_encode(self, pixels: Tensor) -> Tensor:
        return torch.cat([super(Hunyuan15Codec, self).raw_encode(each) for each in pixels.split(1)])

    def raw_decode(self, z: Tensor) -> Tensor:
        return torch.cat([super(Hunyuan15Codec, self).raw_decode(each) for each in z.split(1)])


class Hunyuan15Family(HunyuanFamily):
    """HunyuanVideo15Pipeline. Its guider says the default scale and at which steps it acts."""

    name = "hunyuan15"
    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanVideo15Pipeline",)
    network = Hunyuan15Net

    def __init__(self, pipe: Any, negative: str = "") -> None:
        guider = pipe.guider
        if type(guider).__name__ != "ClassifierFreeGuidance" or guider.guidance_rescale:
            found = f"{type(guider).__name__}, guidance_rescale {getattr(guider, 'guidance_rescale', 0)}"
            what = f"the pipeline is guided by {found}; known is ClassifierFreeGuidance without rescaling"
            raise UserError(what, "guider", "save the pipeline with a guider of that kind")
        super().__init__(pipe, negative)

    def make_codec(self) -> KlCodec:
        pipe = self.pipe
        return Hunyuan15Codec(
            pipe.vae, scale=pipe.vae.config.scaling_factor, temporal=int(pipe.vae_scale_factor_temporal),
            spatial=int(pipe.vae_scale_factor_spatial), multiple=self.network_of().patch[1],
        )  # fmt: skip

    @property
    def text_length(self) -> int:
        return int(self.pipe.tokenizer_max_length)

    def check_text(self, captions: Sequence[str]) -> None:
        """As of any family, and what stands in quotes has a limit of its own."""
        from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import extract_glyph_texts  # says a lot

        super().check_text(captions)
        limit = int(self.pipe.tokenizer_2_max_length)
        for caption in () if self.cut_long_text else {*captions} - self._known.keys():
            quoted = extract_glyph_texts(caption)
            found = len(self.pipe.tokenizer_2(quoted).input_ids) if quoted else 0
            if found > limit:
                what = f"{found} bytes in quotes, {self.name} reads {limit}: {caption[:60]!r}"
                raise UserError(what, "caption", "shorten them, or say family.long_text: cut")

    def encode(self, caption: str) -> Parts:
        text, mask, glyph, glyph_mask = self.pipe.encode_prompt(caption, device=self.device)
        return {"text": text, "text.mask": mask, "text.glyph": glyph, "text.glyph_mask": glyph_mask}

    def defaults(self) -> dict[str, float]:
        pipe, guider = self.pipe, self.pipe.guider
        wide, high = pipe.default_aspect_ratio
        height, width = pipe.video_processor.calculate_default_height_width(high, wide, pipe.target_size)
        scale = guider.guidance_scale + (1 if guider.use_original_formulation else 0) if guider._enabled else 1
        return super().defaults() | {"height": int(height), "width": int(width), "guidance": float(scale)}

    def scale_at(self, scale: float, timestep: float, steps: int) -> float:
        """The guider acts from a share of the steps on, until another."""
        place = int((self.pipe.scheduler.timesteps.double() - timestep).abs().argmin())
        guider = self.pipe.guider
        return scale if int(guider._start * steps) <= place < int(guider._stop * steps) else 1.0

    def save(self, net: Net, folder: Path, times: Sequence[float] | None = None) -> None:
        """As of any family; a few-step student runs without guidance, which this pipeline is not told in its call."""
        kept = self.pipe
        if times is not None:
            self.pipe = copy.copy(kept)
            self.pipe.register_modules(guider=type(kept.guider)(guidance_scale=1.0))
        try:
            super().save(net, folder, times)
        finally:
            self.pipe = kept
