"""Stable Diffusion 3 and 3.5: stock SD3Transformer2DModel. An image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.attention import Attend
from ..core.cond import Cond
from .kl_codec import KlCodec
from .seams import JointSeam
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

LENGTH = 256  # tokens that T5 reads, or, where a folder has none, zeros in their place


class Sd3Net(StockNet):
    """Reads "text" [B, L, D], the tokens of both CLIPs and behind them T5's, and "text.pooled" [B, D]."""

    text_in = "context_embedder"

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        pooled = cond.fields["text.pooled"].to(self.dtype)
        return self.model(  # type: ignore[no-any-return]
            x[:, :, 0].to(self.dtype), self.text(cond), pooled, timestep, return_dict=False
        )[0][:, :, None]

    @property
    def patch(self) -> tuple[int, int, int]:
        return (1, self.model.config.patch_size, self.model.config.patch_size)

    def tapped(self, layer: int, out: Any) -> Tensor:
        return out[1]  # type: ignore[no-any-return]

    def attentions(self) -> Sequence[Any]:
        """Of every block the joint attention; in some blocks of 3.5 medium the picture's own after it."""
        blocks = self.model.transformer_blocks
        return [a for b in blocks for a in (b.attn, getattr(b, "attn2", None)) if a is not None]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return JointSeam(layer, attend, 0)


class Sd3Family(StockFamily):
    """StableDiffusion3Pipeline: two CLIPs side by side, T5 behind them, which a folder may leave out."""

    name = "sd3"
    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusion3Pipeline",)
    network = Sd3Net
    image = True
    long_tokenizer = "tokenizer_3"

    def __init__(self, pipe: Any, negative: str = "") -> None:
        super().__init__(pipe, negative)
        if pipe.text_encoder_3 is None:
            self.long_tokenizer = "tokenizer"

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        return KlCodec(
            self.pipe.vae, scale=config.scaling_factor, shift=config.shift_factor or 0.0,
            spatial=2 ** (len(config.block_out_channels) - 1), flat=True, multiple=self.network_of().patch[1],
        )  # fmt: skip

    @property
    def text_length(self) -> int:
        """What T5 reads; the CLIPs read the beginning of that. Without a T5, what they read."""
        return min(LENGTH, int(getattr(self.pipe, self.long_tokenizer).model_max_length))

    def encode(self, caption: str) -> Parts:
        length = LENGTH if self.pipe.text_encoder_3 is None else self.text_length
        text, _, pooled, _ = self.pipe.encode_prompt(
            caption, None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return {"text": text, "text.pooled": pooled}

    def set_timesteps(self, scheduler: Any, steps: int, shape: Sequence[int], device: torch.device) -> None:
        scheduler.set_timesteps(steps, device=device, **self.mu(scheduler, shape))

    def mu(self, scheduler: Any, shape: Sequence[int]) -> dict[str, float]:
        """The shift that depends on the number of tokens, where the scheduler has one."""
        return {"mu": self.mu_of(shape)} if scheduler.config.get("use_dynamic_shifting") else {}
