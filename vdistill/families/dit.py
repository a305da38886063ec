"""DiT: stock DiTTransformer2DModel, images of ImageNet's classes. An image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
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
        out = self.model(x[:, :, 0].to(self.dtype), timestep.expand(len(x)), cond.fields["label"], return_dict=False)[0]
        return out[:, : x.shape[1], None]  # type: ignore[no-any-return]

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return SelfSeam(layer, attend)


class OneSizeCodec(KlCodec):
    """A codec for a network that makes squares of one size: `side` pixels."""

    side: int

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        if (height, width) != (self.side, self.side):
            only = f"{self.side}x{self.side}"
            raise UserError(f"its pipeline makes {only} only, found {height}x{width}", "size", f"ask for {only}")
        return super().shape(length, height, width)


class DitFamily(StockFamily):
    """DiTPipeline. A caption is the name of a class, in letters of any case, or its number.

    Guidance goes without the class, the number behind the last one; as in the pipeline, it guides all latent channels.
    """

    name = "dit"
    pipelines: ClassVar[tuple[str, ...]] = ("DiTPipeline",)
    network = DitNet
    guided_by = "label"
    image = True

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        codec = OneSizeCodec(
            self.pipe.vae, scale=config.scaling_factor, spatial=2 ** (len(config.block_out_channels) - 1), flat=True,
            multiple=self.network_of().patch[1],
        )  # fmt: skip
        codec.side = codec.spatial * int(self.pipe.transformer.config.sample_size)
        return codec

    def encode(self, caption: str) -> Parts:
        return {"label": torch.tensor([self.number(caption)])}

    def encode_null(self) -> Parts:
        return {"label": torch.tensor([int(self.pipe.transformer.config.num_embeds_ada_norm)])}

    def number(self, caption: str) -> int:
        """The class a caption means. UserError for what is none."""
        classes, known = int(self.pipe.transformer.config.num_embeds_ada_norm), self.pipe.labels
        name = caption.strip()
        if name.isdecimal():
            found = int(name)
        else:
            found = known.get(name, {k.lower(): v for k, v in known.items()}.get(name.lower(), classes))
        if found >= classes:
            near = get_close_matches(name, known) or list(known)[:3]
            some = f", or a name such as {', '.join(near)}" if near else ""
            raise UserError(f"{name!r} is no class", "caption", f"a number below {classes}{some}")
        return int(found)
