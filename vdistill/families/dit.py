"""DiT: stock DiTTransformer2DModel, images of ImageNet's classes. An image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.attention import Attend
from ..core.cond import Cond
from ..core.errors import UserError
from .kl_codec import KlCodec
from .seams import SelfSeam
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet


class DitNet(StockNet):
    """Reads "label" [B], whole numbers; the learned variance is dropped."""

    @property
    def channels(self) -> int:
        return int(self.model.config.in_channels)

    @property
    def patch(self) -> tuple[int, int, int]:
        return (1, self.model.config.patch_size, self.model.config.patch_size)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        out = self.model(
            x[:, :, 0].to(self.model.dtype), timestep.expand(len(x)), cond.fields["label"], return_dict=False
        )[0]
        return out[:, : x.shape[1], None]  # type: ignore[no-any-return]

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return SelfSeam(layer, attend)


class SquareCodec(KlCodec):
    """A codec for a network that makes squares only."""

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        if height != width:
            raise UserError(f"makes squares, found {height}x{width}", "size")
        return super().shape(length, height, width)


class DitFamily(StockFamily):
    """DiTPipeline. A caption is the name of a class or its number; several samples may name different ones."""

    name = "dit"
    pipelines: ClassVar[tuple[str, ...]] = ("DiTPipeline",)
    network = DitNet
    guided_by = "label"
    image = True

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        return SquareCodec(
            self.pipe.vae, scale=config.scaling_factor, spatial=2 ** (len(config.block_out_channels) - 1), flat=True,
            multiple=self.network_of().patch[1],
        )  # fmt: skip

    def encode(self, caption: str) -> Parts:
        return {"label": torch.tensor([self.number(caption)])}

    def encode_null(self) -> Parts:
        return {"label": torch.tensor([int(self.pipe.transformer.config.num_embeds_ada_norm)])}

    def number(self, caption: str) -> int:
        """The class a caption means. UserError for what is none."""
        classes, known = int(self.pipe.transformer.config.num_embeds_ada_norm), self.pipe.labels
        name = caption.strip()
        found = int(name) if name.isdecimal() else known.get(name)
        if found is None or not 0 <= found < classes:
            some = ", ".join(list(known)[:3])
            raise UserError(f"{name!r} is no class", "caption", f"a number below {classes}, or a name such as {some}")
        return int(found)
