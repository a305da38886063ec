"""CogVideoX 2B, 5B and 1.5, from text and from an image: stock CogVideoXTransformer3DModel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from diffusers import CogVideoXDPMScheduler
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor

from ..core.attention import Attend
from ..core.cond import Cond
from ..core.errors import UserError
from .kl_codec import KlCodec
from .seams import Rope, normed, split_heads
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

LENGTH = 226  # tokens that T5 reads
OFS = 2.0  # what the 1.5 image-to-video network is told


@lru_cache(maxsize=16)
def positions(
    head: int, grid: tuple[int, int, int], base: tuple[int, int], sliced: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T H W, head] of a grid of tokens (T, H, W); base: the grid (H, W) of training, which 1.0 crops
    and resizes to, and 1.5 cuts from (sliced)."""
    if sliced:
        return get_3d_rotary_pos_embed(  # type: ignore[no-any-return]
            head, None, grid[1:], grid[0], grid_type="slice", max_size=base, device=device
        )
    crops = get_resize_crop_region_for_grid(grid[1:], base[1], base[0])
    return get_3d_rotary_pos_embed(head, crops, grid[1:], grid[0], device=device)  # type: ignore[no-any-return]


class CogSeam:
    """Text and clip in one attention with shared projections, text first."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend) -> None:
        self.layer, self.attend = layer, attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        rows = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], 1)
        q, k, v = (split_heads(project(both), attn) for project in (attn.to_q, attn.to_k, attn.to_v))
        rope = None if image_rotary_emb is None else Rope(image_rotary_emb, rows)
        out = self.attend(self.layer, normed(attn.norm_q, q), normed(attn.norm_k, k), v, rope, prefix=rows)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2).to(both.dtype)))
        return out[:, rows:], out[:, :rows]


class CogNet(StockNet):
    """Reads "text" [B, L, D] and, from an image, "first" [B, C, T, H, W]: its latents, followed by zeros."""

    text_in = "patch_embed.text_proj"

    @property
    def patch(self) -> tuple[int, int, int]:
        config = self.model.config
        return (config.patch_size_t or 1, config.patch_size, config.patch_size)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        config, dtype = self.model.config, self.model.dtype
        seen = x.to(dtype)
        if "first" in cond.fields:
            seen = torch.cat([seen, cond.fields["first"].to(dtype)], 1)
        ofs = None if config.ofs_embed_dim is None else seen.new_full((1,), OFS)
        rope = self.rope(x) if config.use_rotary_positional_embeddings else None
        out = self.model(
            seen.transpose(1, 2), self.text(cond), timestep.expand(len(x)), ofs=ofs, image_rotary_emb=rope,
            return_dict=False,
        )[0]  # fmt: skip
        return out.transpose(1, 2)  # type: ignore[no-any-return]

    def rope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of latents [B, C, T, H, W]."""
        config, (p_t, p, _) = self.model.config, self.patch
        grid = (-(-x.shape[2] // p_t), x.shape[3] // p, x.shape[4] // p)
        base = (config.sample_height // p, config.sample_width // p)
        return positions(config.attention_head_dim, grid, base, config.patch_size_t is not None, x.device)

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return CogSeam(layer, attend)


class CogCodec(KlCodec):
    """Clips of 1.5 carry copies of their first latent frame in front, to fill its temporal patch; they are not decoded.

    spare: how many.
    """

    def __init__(self, vae: Any, *, spare: int, **more: Any) -> None:
        super().__init__(vae, **more)
        self.spare = spare

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        channels, frames, high, wide = super().shape(length, height, width)
        if (frames - 1) % (self.spare + 1):
            step = self.temporal * (self.spare + 1)
            near = 1 + (length - 1) // step * step
            raise UserError(f"{length} frames do not fit: they must be 1 + k * {step}", "size", f"try {near}")
        return channels, frames + self.spare, high, wide

    def encode(self, pixels: Tensor) -> Tensor:
        z = super().encode(pixels)
        return torch.cat([*[z[:, :, :1]] * self.spare, z], 2)

    def decode(self, latents: Tensor) -> Tensor:
        return super().decode(latents[:, :, self.spare :])

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Exact where the first chunk has 2 or 3 latent frames (and the spare ones) and the others even numbers: the
        VAE normalises over the chunks of its own decoding."""
        return _CogStream(self)


class _CogStream:
    def __init__(self, codec: CogCodec) -> None:
        self.codec, self.first, self.memory = codec, True, None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        codec, vae = self.codec, self.codec.vae
        latents = latents[:, :, codec.spare :] if self.first else latents
        odd = latents.shape[2] % 2
        if odd and not self.first:
            raise UserError(f"a chunk of {latents.shape[2]} latent frames; after the first they must be even", "stream")
        z, out = (latents / float(vae.config.scaling_factor)).to(vae.dtype), []
        z = z if vae.post_quant_conv is None else vae.post_quant_conv(z)
        cuts = [0, *range(2 + odd, z.shape[2], 2), z.shape[2]]
        for start, end in zip(cuts, cuts[1:], strict=False):
            frames, self.memory = vae.decoder(z[:, :, start:end], conv_cache=self.memory)
            out.append(frames)
        self.first = False
        return torch.cat(out, 2).float().clamp(-1, 1)


class CogVideoXFamily(StockFamily):
    """dynamic_guidance: grow the scale on the way, as the pipeline does with use_dynamic_cfg."""

    name = "cogvideox"
    pipelines: ClassVar[tuple[str, ...]] = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
    network = CogNet

    def make_codec(self) -> CogCodec:
        vae, patch = self.pipe.vae, self.network_of().patch
        return CogCodec(
            vae, scale=vae.config.scaling_factor, temporal=int(vae.config.temporal_compression_ratio),
            spatial=2 ** (len(vae.config.block_out_channels) - 1), multiple=patch[1], spare=patch[0] - 1,
        )  # fmt: skip

    @property
    def text_length(self) -> int:
        return min(LENGTH, int(self.pipe.transformer.config.max_text_seq_length))

    def encode(self, caption: str) -> Parts:
        text, _ = self.pipe.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return {"text": text}

    @torch.no_grad()
    def from_image(self, image: Tensor, shape: Sequence[int], generator: torch.Generator | None = None) -> Parts:
        if not self.needs_image:
            return super().from_image(image, shape)
        vae, posterior = self.pipe.vae, self.pipe.vae.encode(image[:, :, None].to(self.pipe.vae.dtype)).latent_dist
        z = (posterior.mode() if generator is None else posterior.sample(generator)).float()
        z = z / vae.config.scaling_factor if vae.config.invert_scale_latents else z * vae.config.scaling_factor
        return {"first": torch.cat([z, z.new_zeros(len(z), z.shape[1], shape[1] - 1, *z.shape[3:])], 2)}

    def pack(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)

    def unpack(self, z: Tensor, shape: Sequence[int]) -> Tensor:
        return z.transpose(1, 2)

    def noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        channels, frames, *sides = shape
        return torch.randn((1, frames, channels, *sides), generator=generator).transpose(1, 2)

    def advance(
        self, scheduler: Any, prediction: Tensor, i: int, z: Tensor, generator: Any, memory: dict[str, Any]
    ) -> Tensor:
        if not isinstance(scheduler, CogVideoXDPMScheduler):
            return super().advance(scheduler, prediction, i, z, generator, memory)
        times = scheduler.timesteps
        z, memory["x0"] = scheduler.step(
            prediction, memory.get("x0"), times[i], times[i - 1] if i else None, z, generator=generator,
            return_dict=False,
        )  # fmt: skip
        return z

    def scale_at(self, scale: float, timestep: float, steps: int) -> float:
        if not self.dynamic_guidance:
            return scale
        return 1 + scale * (1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2
