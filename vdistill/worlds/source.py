"""The shapes world as training data: fresh clips for ever, latents and conditions made on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.rng import Rng
from ..core.step import Batch
from .shapes import Shapes

KEY = "shapes/"  # before the number of a clip


def index_of(key: str) -> int:
    """The number of the clip that a batch has under this key."""
    return int(key.removeprefix(KEY))


@dataclass(frozen=True)
class ShapesSource:
    """(step, global micro-batch) -> Batch of `batch` clips never seen before; images: share of one-frame batches."""

    world: Shapes
    codec: Codec
    text: Callable[[Sequence[str]], Cond]
    batch: int
    micro: int = 1
    images: float = 0.0
    seed: int = 0
    image_fields: Callable[[Tensor, Sequence[int]], Mapping[str, Tensor]] | None = None
    """(first frames [B, 3, H, W], shape of the latents) -> conditions, of teachers that start from an image."""

    def __call__(self, step: int, micro: int) -> Batch:
        first = (step * self.micro + micro) * self.batch
        still = float(Rng(self.seed, step, micro, turn="data").uniform("image", ())) < self.images
        indices = range(first, first + self.batch)
        clips = torch.stack([self.world.clip(i, frames=1 if still else None) for i in indices])
        captions = [self.world.caption(i) for i in indices]
        x, cond = self.codec.encode(clips), self.text(captions)
        if self.image_fields is not None:
            shown = self.image_fields(clips[:, :, 0].to(x.device), x.shape[1:])
            cond = replace(cond, fields={**cond.fields, **shown})
        return Batch(x, cond, keys=tuple(f"{KEY}{i}" for i in indices))
