"""The codec of CogVideoX: lengths it can hold, the spare latent frame of 1.5, and decoding as a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .kl_codec import KlCodec


class CogCodec(KlCodec):
    """Latents of clips of 1 + 8 k frames: an odd number of latent frames, as the VAE makes 4 n frames of an even one.

    spare: latent frames in front of a clip of 1.5, to fill its temporal patch: copies of the first, not decoded.
    most: the largest height and width of latents that the network has positions for; only: for that size alone.
    """

    def __init__(
        self, vae: Any, *, spare: int = 0, most: tuple[int, int] | None = None, only: bool = False, **more: Any
    ) -> None:
        super().__init__(vae, **more)
        self.spare, self.most, self.only = spare, most, only

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        step = 2 * self.temporal
        if length < 1 or (length - 1) % step:
            near = max(1, 1 + (length - 1) // step * step)
            raise UserError(f"{length} frames do not fit the codec: they must be 1 + k * {step}", "size", f"try {near}")
        channels, frames, high, wide = super().shape(length, height, width)
        self._check_size(high, wide)
        return channels, frames + self.spare, high, wide

    def _check_size(self, high: int, wide: int) -> None:
        if self.most is None:
            return
        if (high, wide) == self.most or not self.only and high <= self.most[0] and wide <= self.most[1]:
            return
        size = "x".join(str(side * self.spatial) for side in self.most)
        found = f"{high * self.spatial}x{wide * self.spatial}"
        bound = "" if self.only else "up to "
        raise UserError(f"the network has positions for clips of {bound}{size}, found {found}", "size", f"try {size}")

    def encode(self, pixels: Tensor) -> Tensor:
        z = super().encode(pixels)
        return torch.cat([*[z[:, :, :1]] * self.spare, z], 2)

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents[:, :, self.spare :])

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Equal to decoding the whole. The first chunk has an odd number of latent frames, at least 3 (and the spare
        ones in front), every other chunk an even number; UserError for any other: the VAE normalises over each part it
        decodes, first three latent frames and then two by two, so other parts would give other pixels."""
        return _CogStream(self)


class _CogStream:
    """The memory of the causal convolutions, kept between chunks."""

    def __init__(self, codec: CogCodec) -> None:
        self.codec, self.first, self.memory = codec, True, None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        codec, vae = self.codec, self.codec.vae
        latents = latents[:, :, codec.spare :] if self.first else latents
        parts = self.parts(latents.shape[2])
        scale, _ = codec._pair(latents)
        z, out = (latents / scale).to(vae.dtype), []
        for part in z.split(parts, 2):
            part = part if vae.post_quant_conv is None else vae.post_quant_conv(part)
            pixels, self.memory = vae.decoder(part, conv_cache=self.memory)
            out.append(pixels)
        self.first = False
        return torch.cat(out, 2).float().clamp(-1, 1)

    def parts(self, frames: int) -> list[int]:
        """How the VAE itself would divide a chunk of so many latent frames. UserError where it would not."""
        least, wanted = (3, "3, 5, 7, ... in the first") if self.first else (2, "2, 4, 6, ... after the first")
        if frames < least or (frames - least) % 2:
            raise UserError(f"a chunk of {frames} latent frames has no exact decoding", "stream", f"give {wanted}")
        return [least, *[2] * ((frames - least) // 2)]
