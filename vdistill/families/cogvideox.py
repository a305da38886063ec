"""CogVideoX 2B, 5B and 1.5, from text and from an image: stock CogVideoXTransformer3DModel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar

import torch
from diffusers import CogVideoXDPMScheduler
from diffusers.models.embeddings import get_1d_sincos_pos_embed_from_grid, get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn

from ..core.attention import Attend, Placed
from ..core.cond import Cond
from ..core.errors import UserError
from . import times
from .cogvideox_codec import CogCodec
from .rope import AxialRope, frequencies
from .seams import normed, split_heads
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet
from .told import Read

LENGTH = 226  # tokens that T5 reads
THETA = 10000.0  # of the rotary positions
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


def placed(embed: Any, numbers: Tensor) -> times.Forward:
    """The stock embedding of patches with the sines and cosines of frames `numbers` [T], not of 0, 1, 2, ..."""
    stock = embed.forward

    def forward(text: Tensor, clip: Tensor) -> Tensor:
        embed.use_positional_embeddings = False
        try:
            both = stock(text, clip)
        finally:
            embed.use_positional_embeddings = True
        rows, (high, wide) = text.shape[1], clip.shape[3:]
        same = (high, wide) == (embed.sample_height, embed.sample_width)
        known = embed.pos_embedding if same else embed._get_positional_embeddings(high, wide, 1, device=clip.device)
        count, width = (both.shape[1] - rows) // len(numbers), embed.embed_dim // 4
        across = known[0, embed.max_text_seq_length :][:count, width:].to(both)
        at = numbers.to(clip.device, torch.float32) / embed.temporal_interpolation_scale
        along = get_1d_sincos_pos_embed_from_grid(width, at).to(both)
        table = torch.cat([along[:, None].expand(-1, count, -1), across.expand(len(at), -1, -1)], 2).flatten(0, 1)
        return torch.cat([both[:, :rows], both[:, rows:] + table], 1)

    return forward


def _by_position(norm: nn.Module) -> times.Forward:
    """CogVideoXLayerNormZero of clip and text with times [B, 1 + P, D]."""
    stock = norm.forward

    def forward(clip: Tensor, text: Tensor, temb: Tensor) -> tuple[Tensor, Tensor, times.Spread, Tensor]:
        count = temb.shape[1] - 1
        clip = times.folded(clip, count)
        seen, _, gate, _ = stock(clip, clip[:, :0], temb[:, 1:].flatten(0, 1))
        _, told, _, other = stock(text[:, :0], text, temb[:, 0])
        return times.unfolded(seen, count), told, times.Spread(times.unfolded(gate[:, 0], count)), other

    return forward


class CogSeam:
    """Text and clip in one attention with shared projections, text first."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend, time: Tensor) -> None:
        self.layer, self.attend, self.time = layer, attend, time

    @torch.compiler.disable
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
        rope = None if image_rotary_emb is None else AxialRope(image_rotary_emb, self.time, rows)
        out = self.attend(self.layer, normed(attn.norm_q, q), normed(attn.norm_k, k), v, rope, prefix=rows)
        out = attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2).to(both.dtype)))
        return out[:, rows:], out[:, :rows]


class CogNet(StockNet):
    """Reads "text" [B, L, D] and, from an image, "first" [B, C, T, H, W]: its latents, followed by zeros."""

    text_in = "patch_embed.text_proj"
    per_frame = True

    @property
    def patch(self) -> tuple[int, int, int]:
        config = self.model.config
        return (config.patch_size_t or 1, config.patch_size, config.patch_size)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        config, dtype = self.model.config, self.dtype
        seen = x.to(dtype)
        if "first" in cond.fields:
            seen = torch.cat([seen, cond.fields["first"].to(dtype)], 1)
        ofs = None if config.ofs_embed_dim is None else seen.new_full((1,), OFS)
        rope = self.rope(x) if config.use_rotary_positional_embeddings else None
        with self.timed(x, timestep) as timestep:
            out = self.model(
                seen.transpose(1, 2), self.text(cond), timestep, ofs=ofs, image_rotary_emb=rope, return_dict=False
            )[0]
        return out.transpose(1, 2)  # type: ignore[no-any-return]

    def briefly(self, cond: Cond) -> Cond:
        return cond.with_field("text", cond.fields["text"][:, :1])

    @contextmanager
    def timed(self, x: Tensor, timestep: Tensor) -> Iterator[Tensor]:
        """[B] -> [B] for a batch as large as x; [B, T] -> [B (1 + P)], which the network understands inside."""
        if timestep.ndim == 1:
            yield timestep.expand(len(x))
            return
        model, told = self.model, times.with_text(timestep, len(x), x.shape[2], self.patch[0])
        embed = model.time_embedding.forward
        forwards: dict[nn.Module, times.Forward] = {
            model.time_embedding: lambda *args: embed(*args).unflatten(0, told.shape),
            model.norm_out: times.of_clip(model.norm_out),
        }
        forwards |= {
            norm: _by_position(norm) for block in model.transformer_blocks for norm in (block.norm1, block.norm2)
        }
        with times.replaced(forwards):
            yield told.flatten()

    @contextmanager
    def attending(self, attend: Attend, read: Read | None = None) -> Iterator[None]:
        """Positions that are not rotary are added to the clip before the first block, wherever `attend` has it."""
        embed, config = self.model.patch_embed, self.model.config
        added = config.use_learned_positional_embeddings or not config.use_rotary_positional_embeddings
        with super().attending(attend, read):
            if not added or not isinstance(attend, Placed):
                yield
                return
            if config.use_learned_positional_embeddings:
                raise UserError("the network learned the positions of one length", "causal", "take another folder")
            if attend.numbers is None:
                what = "positions are part of what this network remembers: they stay as made"
                raise UserError(what, "causal.places", "say absolute")
            with times.replaced({embed: placed(embed, attend.numbers)}):
                yield

    def rope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of latents [B, C, T, H, W]."""
        config, (p_t, p, _) = self.model.config, self.patch
        grid = (-(-x.shape[2] // p_t), x.shape[3] // p, x.shape[4] // p)
        base = (config.sample_height // p, config.sample_width // p)
        return positions(config.attention_head_dim, grid, base, config.patch_size_t is not None, x.device)

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return CogSeam(layer, attend, frequencies(self.model.config.attention_head_dim // 4, THETA))


class CogVideoXFamily(StockFamily):
    """dynamic_guidance: grow the scale on the way, as the pipeline does with use_dynamic_cfg."""

    name = "cogvideox"
    pipelines: ClassVar[tuple[str, ...]] = ("CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
    network = CogNet

    def make_codec(self) -> CogCodec:
        vae, patch, config = self.pipe.vae, self.network_of().patch, self.pipe.transformer.config
        learned = bool(config.use_learned_positional_embeddings)
        bounded = learned or (config.use_rotary_positional_embeddings and config.patch_size_t is not None)
        return CogCodec(
            vae, scale=vae.config.scaling_factor, temporal=int(vae.config.temporal_compression_ratio),
            spatial=2 ** (len(vae.config.block_out_channels) - 1), multiple=patch[1], spare=patch[0] - 1, only=learned,
            most=(int(config.sample_height), int(config.sample_width)) if bounded else None,
        )  # fmt: skip

    def defaults(self) -> dict[str, float]:
        config, side = self.pipe.transformer.config, self.codec.spatial
        size = {"height": side * int(config.sample_height), "width": side * int(config.sample_width)}
        return super().defaults() | size | {"frames": int(config.sample_frames)}

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
        scale = vae.config.scaling_factor
        z = z * (1 / scale if vae.config.invert_scale_latents else scale)
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
        if not self.dynamic_guidance or scale <= 1:  # up to 1 the pipeline runs without guidance
            return scale
        return 1 + scale * (1 - math.cos(math.pi * ((steps - timestep) / steps) ** 5.0)) / 2
