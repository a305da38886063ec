"""AnimateDiff: Stable Diffusion with motion modules, the stock UNetMotionModel and its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import UserError
from .kl_codec import KlCodec
from .sd import SdFamily, UNetNet


class MotionNet(UNetNet):
    """Reads "text" [B, L, D]. The seam is the attention inside frames; that of motion modules runs along the clip."""

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        text = self.text(cond).repeat_interleave(x.shape[2], dim=0)
        return self.model(  # type: ignore[no-any-return]
            x.to(self.dtype), timestep, text, timestep_cond=self.scale(cond), return_dict=False
        )[0]

    @property
    def scale_is_ours(self) -> bool:
        return self.takes_scale

    def with_fixed_scale(self, scale: float) -> Self:
        """What the embedding of the scale adds to that of the time goes through a linear layer next: into its bias."""
        embedding = self.model.time_embedding
        if self.takes_scale:
            with torch.no_grad():
                told = Cond({"guidance": torch.tensor([scale], device=embedding.linear_1.weight.device)})
                wave = self.scale(told)
                assert wave is not None
                embedding.linear_1.bias += embedding.linear_1.weight @ embedding.cond_proj(wave)[0]
            embedding.cond_proj = None
            self.model.register_to_config(time_cond_proj_dim=None)
        return self

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        found = super().taps(x, t, cond, layers)  # [B T, N, C]
        return [features.unflatten(0, (len(x), -1)).flatten(1, 2) for features in found]

    def attentions(self) -> Sequence[Any]:
        return [
            module.attn1
            for block in self.blocks()
            for place, module in block.named_modules()
            if type(module).__name__ == "BasicTransformerBlock" and "motion_modules" not in place
        ]


class ClipCodec(KlCodec):
    """Every frame alone; most: frames its motion modules know positions for."""

    most: int = 32

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        if length > self.most:
            what = f"{length} frames, the motion modules know {self.most} positions"
            raise UserError(what, "size", f"at most {self.most} frames")
        return super().shape(length, height, width)


class AnimateDiffFamily(SdFamily):
    """AnimateDiffPipeline: clips of as many frames as its motion modules know, usually 32."""

    name = "animatediff"
    pipelines: ClassVar[tuple[str, ...]] = ("AnimateDiffPipeline",)
    network = MotionNet
    image = False

    def make_codec(self) -> ClipCodec:
        codec = ClipCodec(self.pipe.vae, scale=self.pipe.vae.config.scaling_factor, spatial=self.side, flat=True)
        codec.most = int(self.pipe.unet.config.motion_max_seq_length)
        return codec
