"""What a judge of single pictures is shown: it decodes latents, and looks at some frames through features of images.

As in MCM and ADD. The clip is decoded whole, with the activations a gradient needs; where a codec decodes every latent
frame by itself, only those that are looked at are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.rng import Rng
from .augment import Augment, in_turn

ImageFeatures = Callable[[Tensor], Sequence[Tensor]]
"""Images [N, 3, H, W] in [-1, 1] -> features [N, L, C] of some layers; a gradient goes through to the images."""


@dataclass(frozen=True)
class Pictures:
    """A `Look` at clean latents: features [B, count L, C] of each layer, of `count` decoded frames.

    decode: latents -> pixels [B, 3, T, H, W], with a gradient; apart: it decodes each latent frame by itself; augment:
    changes of pixels. Frames are evenly spread until `drawn` says which.
    """

    decode: Callable[[Tensor], Tensor]
    features: ImageFeatures
    count: int = 2
    apart: bool = False
    augment: Augment = in_turn(())
    rng: Rng | None = None

    def drawn(self, rng: Rng) -> Pictures:
        """With frames and changes of its own; the same whenever it looks."""
        return replace(self, rng=rng)

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond) -> Sequence[Tensor]:
        images = self.images(xt)
        found = self.features(images.flatten(0, 1))
        return [f.unflatten(0, (len(xt), -1)).flatten(1, 2) for f in found]

    def images(self, x: Tensor) -> Tensor:
        """The frames that are looked at [B, count, 3, H, W], changed alike along a clip."""
        frames = self.decode(self._chosen(x)) if self.apart else self._chosen(self.decode(x))
        if self.rng is not None:
            frames = self.augment(frames, self.rng)
        return frames.transpose(1, 2)

    def _chosen(self, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, C, count, H, W], in order."""
        b, length = len(x), x.shape[2]
        even = (torch.arange(self.count, device=x.device) + 0.5) / self.count
        place = even.expand(b, -1) if self.rng is None else self.rng.uniform("frames", (b, self.count), like=x)
        index = (place * length).long().sort(1).values
        return x.gather(2, index.view(b, 1, -1, 1, 1).expand(-1, x.shape[1], -1, *x.shape[3:]))


def of_images(look: Callable[[Tensor, Tensor, Cond], Sequence[Tensor]]) -> ImageFeatures:
    """Features of clips [N, 3, 1, H, W] as features of images, for looks that need neither time nor condition."""

    def features(images: Tensor) -> Sequence[Tensor]:
        return look(images[:, :, None], images.new_zeros(len(images)), Cond())

    return features
