"""The codec of Wan-like pipelines: any VAE of that interface with its latent mean and std."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..core.errors import UserError
from .pixel import PixelVae


class WanCodec:
    """pixels [B, 3, T, H, W] in [-1, 1] <-> latents normalised per channel; vae: one of Wan's interface, frozen."""

    def __init__(self, vae: AutoencoderKLWan | PixelVae) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.temporal, self.spatial = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial

    def scales(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, 1 / std) of latents, broadcastable; the reciprocal, as pipelines take it, for equal bits."""
        config = self.vae.config
        mean, std = (
            torch.tensor(v, device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
            for v in (config.latents_mean, config.latents_std)
        )
        return mean, 1.0 / std

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        return self.encoded(pixels)

    def encoded(self, pixels: Tensor) -> Tensor:
        """As `encode`, and a gradient goes through."""
        z = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode().float()
        mean, inverse = self.scales(z)
        return (z - mean) * inverse

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, clipped to [-1, 1]."""
        return self.unclipped(latents).clamp(-1, 1)

    def unclipped(self, latents: Tensor) -> Tensor:
        """Pixels as the VAE says them; a gradient goes through."""
        mean, inverse = self.scales(latents)
        return self.vae.decode((latents / inverse + mean).to(self.vae.dtype), return_dict=False)[0].float()  # type: ignore[no-any-return]

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        if (frames - 1) % self.temporal or height % self.spatial or width % self.spatial:
            raise UserError(
                f"{frames} frames of {height}x{width} do not fit the codec: frames must be 1 + k * {self.temporal}, "
                f"sides multiples of {self.spatial}",
                "size",
            )
        return (self.vae.config.z_dim, 1 + (frames - 1) // self.temporal, height // self.spatial, width // self.spatial)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Decode chunk by chunk with the decoder's own memory; equal to decoding the whole."""
        return _PixelStream(self) if isinstance(self.vae, PixelVae) else _WanStream(self)


class _PixelStream:
    """Only the first latent frame differs from the others."""

    def __init__(self, codec: WanCodec) -> None:
        self.codec, self.first = codec, True

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        mean, inverse = self.codec.scales(latents)
        pixels = self.codec.vae.decode_chunk(latents / inverse + mean, first=self.first)
        self.first = False
        return pixels.clamp(-1, 1)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        return {"first": torch.tensor(self.first)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.first = bool(state["first"])


class _WanStream:
    """Causal convolutions of AutoencoderKLWan, their caches kept between chunks."""

    def __init__(self, codec: WanCodec) -> None:
        self.codec, self.first = codec, True
        codec.vae.clear_cache()
        self.memory: list[Any] = codec.vae._feat_map

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        vae, out = self.codec.vae, []
        mean, inverse = self.codec.scales(latents)
        z = vae.post_quant_conv(latents / inverse + mean)
        for i in range(z.shape[2]):
            frame = vae.decoder(z[:, :, i : i + 1], feat_cache=self.memory, feat_idx=[0], first_chunk=self.first)
            out.append(frame)
            self.first = False
        return torch.cat(out, 2).clamp(-1, 1)

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes: the ends of what every convolution has seen."""
        kept = {f"memory.{i}": m for i, m in enumerate(self.memory) if isinstance(m, Tensor)}
        words = [i for i, m in enumerate(self.memory) if isinstance(m, str)]  # "Rep": seen one frame, which it repeats
        return kept | {"first": torch.tensor(self.first), "repeats": torch.tensor(words, dtype=torch.int64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.first = bool(state["first"])
        self.memory[:] = [state.get(f"memory.{i}") for i in range(len(self.memory))]
        for i in state["repeats"].tolist():
            self.memory[i] = "Rep"
