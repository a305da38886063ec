"""A codec without weights: space-time to depth, so that small teachers work on pixels and an image is one latent frame.

Frames come as 1 + k * temporal; the first stands alone (repeated inside its latent frame), as in causal video VAEs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor


class PixelVae(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Stands where a pipeline expects its VAE: pixels [B, 3, 1 + k p, H, W] <-> latents [B, 3 p s s, 1 + k, H/s, W/s].

    scale_factor_temporal p and scale_factor_spatial s: patch of one latent position; latents_mean, latents_std: what
    normalises latents, one number per channel. Decoding what was encoded is exact.
    """

    @register_to_config
    def __init__(
        self,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 8,
        z_dim: int = 768,
        latents_mean: Sequence[float] = (),
        latents_std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.register_buffer("anchor", torch.zeros(1))  # gives the module a dtype and a device

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[IdentityDistribution]:
        """x: [B, 3, T, H, W] in [-1, 1]."""
        p, s = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        x = torch.cat([x[:, :, :1].expand(-1, -1, p - 1, -1, -1), x], 2)
        latents = rearrange(x, "b c (t p) (h i) (w j) -> b (c p i j) t h w", p=p, i=s, j=s)
        posterior = IdentityDistribution(latents)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """z: latents, first latent frame first; returns pixels, unclipped."""
        x = torch.cat([self.decode_chunk(z[:, :, :1], first=True), self.decode_chunk(z[:, :, 1:])], 2)
        return DecoderOutput(sample=x) if return_dict else (x,)

    def decode_chunk(self, z: Tensor, first: bool = False) -> Tensor:
        """Pixels of some latent frames; `first`: the chunk begins with the clip's first latent frame."""
        p, s = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        x = rearrange(z, "b (c p i j) t h w -> b c (t p) (h i) (w j)", p=p, i=s, j=s)
        return torch.cat([x[:, :, :p].mean(2, keepdim=True), x[:, :, p:]], 2) if first else x


def pixel_vae(temporal: int, spatial: int, mean: Sequence[float], std: float) -> PixelVae:
    """A PixelVae that subtracts an RGB mean and divides by one std (both in pixel units [-1, 1])."""
    per_channel = [m for m in mean for _ in range(temporal * spatial**2)]
    return PixelVae(temporal, spatial, len(per_channel), per_channel, [std] * len(per_channel))
