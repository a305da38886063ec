"""The codec of most pipelines: a VAE whose latents are shifted and scaled, by one number or by one for each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .overlap import OverlapStream


class KlCodec:
    """latents = (z - shift) * scale of the VAE's z, so that they have the size the network was trained on.

    vae: frozen, of diffusers' interface. flat: it takes images [B, 3, H, W], so every frame goes through alone.
    multiple: latent sides must be multiples of it, for the patches of the network. before, blend: of a stream, see
    `OverlapStream`.
    """

    before, blend = 3, 1

    def __init__(
        self,
        vae: Any,
        *,
        scale: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        temporal: int = 1,
        spatial: int = 8,
        flat: bool = False,
        multiple: int = 1,
    ) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.scale, self.shift, self.flat, self.multiple = scale, shift, flat, multiple
        self.temporal, self.spatial = temporal, spatial
        self.channels = int(vae.config.get("latent_channels") or vae.config.z_dim)

    def _pair(self, like: Tensor) -> tuple[Tensor, Tensor]:
        def spread(value: float | Sequence[float]) -> Tensor:
            return torch.as_tensor(value, device=like.device, dtype=like.dtype).view(-1, *[1] * (like.ndim - 2))

        return spread(self.scale), spread(self.shift)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        return self.encoded(pixels)

    def encoded(self, pixels: Tensor) -> Tensor:
        """As `encode`, and a gradient goes through."""
        frames = pixels.shape[2]
        if self.flat:
            pixels = pixels.transpose(1, 2).flatten(0, 1)
        z = self.raw_encode(pixels.to(self.vae.device, self.vae.dtype)).float()
        scale, shift = self._pair(z)
        z = (z - shift) * scale
        return z.unflatten(0, (-1, frames)).transpose(1, 2) if self.flat else z

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, clipped to [-1, 1]."""
        return self.unclipped(latents).clamp(-1, 1)

    def unclipped(self, latents: Tensor) -> Tensor:
        """Pixels as the VAE says them; a gradient goes through."""
        frames = latents.shape[2]
        if self.flat:
            latents = latents.transpose(1, 2).flatten(0, 1)
        scale, shift = self._pair(latents)
        pixels = self.raw_decode((latents / scale + shift).to(self.vae.dtype)).float()
        return pixels.unflatten(0, (-1, frames)).transpose(1, 2) if self.flat else pixels

    def raw_encode(self, pixels: Tensor) -> Tensor:
        """The most likely z of pixels, as the VAE says it."""
        return self.vae.encode(pixels).latent_dist.mode()  # type: ignore[no-any-return]

    def raw_decode(self, z: Tensor) -> Tensor:
        """Pixels of z, as the VAE says them."""
        return self.vae.decode(z, return_dict=False)[0]  # type: ignore[no-any-return]

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        side = self.spatial * self.multiple
        if self.flat and self.temporal == 1 and length < 1 or (length - 1) % self.temporal:
            raise UserError(
                f"{length} frames do not fit the codec: they must be 1 + k * {self.temporal}", "size",
                f"try {1 + (length - 1) // self.temporal * self.temporal}",
            )  # fmt: skip
        if height % side or width % side:
            near = f"{max(1, height // side) * side}x{max(1, width // side) * side}"
            raise UserError(
                f"{height}x{width} does not divide: sides must be multiples of {side}", "size", f"try {near}"
            )
        return (self.channels, 1 + (length - 1) // self.temporal, height // self.spatial, width // self.spatial)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """A decoder with memory: exact for single frames, in overlapping tiles for a VAE that has none of its own."""
        if self.temporal == 1:
            return self.decode
        return OverlapStream(self.unclipped, (self.temporal, self.spatial), self.before, self.blend)
