"""LTX-Video, from text and from an image: stock LTXVideoTransformer3DModel on latents packed as tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor, nn

from ..core.attention import Attend
from ..core.cond import Cond
from ..core.errors import UserError
from .few_step import source_of
from .guidance_input import GuidanceEmbedding
from .kl_codec import KlCodec
from .rope import turned
from .seams import split_heads
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

LENGTH = 128  # tokens that T5 reads
RATE = 25.0  # frames a second of the network's positions, unless told otherwise: the pipelines' default


def packed(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T H W, C]."""
    return x.flatten(2).transpose(1, 2)


def unpacked(z: Tensor, sides: Sequence[int]) -> Tensor:
    """[B, T H W, C] -> [B, C, T, H, W]; sides: T, H, W."""
    return z.transpose(1, 2).unflatten(2, tuple(sides))


class LtxRope:
    """Rotates [B, heads, N, D] by the model's own cosines and sines [heads, N, D].

    time: (angle at place 0, angle from one place to the next), float64 [m], of the channels that turn with the place
    along the sequence: of the three axes in turn, the first, after `pad` channels that never turn.
    """

    def __init__(self, freqs: tuple[Tensor, Tensor], time: tuple[Tensor, Tensor], pad: int) -> None:
        self.freqs, self.time, self.pad = freqs, time, pad

    def __call__(self, x: Tensor) -> Tensor:
        return turned(x, *self.freqs)

    def at(self, positions: Tensor, rows: int) -> LtxRope:
        """See `core.attention.Rope`."""
        start, each = (value.to(positions.device) for value in self.time)
        angle = start + torch.outer(positions, each)
        cos, sin = (self._rows(*pair, rows) for pair in zip(self.freqs, (angle.cos(), angle.sin()), strict=True))
        return LtxRope((cos, sin), self.time, self.pad)

    def _rows(self, table: Tensor, turn: Tensor, rows: int) -> Tensor:
        """[heads, T rows, D]: turns [T, m] along the sequence and, across it, the table's own."""
        heads, _, wide = table.shape
        flat = table[:, :rows].transpose(0, 1).flatten(1)[None].repeat(len(turn), 1, 1)  # [T, rows, heads D]
        flat[:, :, self.pad :].unflatten(-1, (-1, 3, 2))[..., 0, :] = turn[:, None, :, None].to(
            table.device, table.dtype
        )
        return flat.flatten(0, 1).unflatten(1, (heads, wide)).transpose(0, 1)


class LtxSeam:
    """Self-attention of the clip; the text is read by another, which stays as it is."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend, time: tuple[Tensor, Tensor], pad: int) -> None:
        self.layer, self.attend, self.time, self.pad = layer, attend, time, pad

    @torch.compiler.disable
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        q, k, v = (split_heads(each, attn) for each in (q, k, attn.to_v(hidden_states)))
        rope = None
        if image_rotary_emb is not None:  # [B, N, heads D] each, the same for every sample
            cos, sin = (split_heads(each[:1], attn)[0] for each in image_rotary_emb)
            rope = LtxRope((cos, sin), self.time, self.pad)
        out = self.attend(self.layer, q, k, v, rope).transpose(1, 2).flatten(2).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


class LtxNet(StockNet):
    """Reads "text" [B, L, D], "text.mask" [B, L] and, from an image, "first" [B, C, 1, H, W]: latents that stand in
    place of the first frame, at time 0.

    frame_rate: of the clips, in frames a second; ratios: frames and pixels for one latent position along T and a side.
    """

    text_in = "caption_projection.linear_1"
    per_frame = True

    def __init__(self, *given: Any, frame_rate: float = RATE, ratios: tuple[int, int] = (8, 32), **more: Any) -> None:
        super().__init__(*given, **more)
        self.frame_rate, self.ratios = frame_rate, ratios

    def again(self, guidance: GuidanceEmbedding | None) -> Self:
        return type(self)(self.parts, self.clock, guidance, frame_rate=self.frame_rate, ratios=self.ratios)

    @property
    def patch(self) -> tuple[int, int, int]:
        return (1, 1, 1)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        first, (frames, high, wide) = cond.fields.get("first"), x.shape[2:]
        timestep = timestep.expand(len(x)) if timestep.ndim == 1 else timestep
        if first is not None:
            x = torch.cat([first.to(x.dtype), x[:, :, 1:]], 2)
            timestep = timestep[:, None].repeat(1, frames) if timestep.ndim == 1 else timestep.clone()
            timestep[:, 0] = 0
        if timestep.ndim == 2 and timestep.shape[1] == 1:  # all positions share it
            timestep = timestep[:, 0]
        if timestep.ndim == 2:  # one time per latent frame -> one per token
            timestep = timestep.repeat_interleave(high * wide, dim=1)
        per_frame, side = self.ratios
        out = self.model(
            packed(x).to(self.dtype), self.text(cond), timestep, cond.fields["text.mask"],
            num_frames=frames, height=high, width=wide,
            rope_interpolation_scale=(per_frame / self.frame_rate, side, side), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(out, (frames, high, wide))

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for block in self.model.transformer_blocks]

    def readers(self) -> Sequence[Any]:
        return [block.attn2 for block in self.model.transformer_blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        rope = self.model.rope
        count, each = rope.dim // 6, self.ratios[0] / self.frame_rate * rope.patch_size_t / rope.base_num_frames
        # as the stock network computes them, in float32 until they are angles
        turns = rope.theta ** torch.linspace(0, math.log(rope.theta, rope.theta), count, dtype=torch.float32)
        turns = turns.double() * math.pi / 2
        return LtxSeam(layer, attend, (-turns, 2 * each * turns), rope.dim % 6)


@contextmanager
def settled_draws(device: torch.device) -> Iterator[None]:
    """Inside, torch's own draws are always the same ones; outside, nothing has happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


class LtxCodec(KlCodec):
    """Latents normalised per channel. A VAE that is told a time decodes at `decode_timestep`, with the share
    `decode_noise` of noise in the latents (as much as the time when None), as the pipelines' arguments of these names.

    Draws inside a decoder that makes some, and the noise, are functions of the latents: decoding again gives the same.
    """

    before, blend = 2, 2  # its convolutions look ahead too
    decode_timestep: float = 0.0
    decode_noise: float | None = None

    def normalised(self, z: Tensor) -> Tensor:
        """Latents of the VAE's z."""
        scale, shift = self._pair(z)
        return (z - shift) * scale

    def raw_decode(self, z: Tensor) -> Tensor:
        told = None
        if self.vae.config.timestep_conditioning:
            told = z.new_full((len(z),), self.decode_timestep)
            share = self.decode_timestep if self.decode_noise is None else self.decode_noise
            if share:
                noise = torch.stack([source_of(each).normal("decode", each.shape, like=each) for each in z])
                z = (1 - share) * z + share * noise
        with settled_draws(z.device) if any(self.vae.config.decoder_inject_noise) else nullcontext():
            return self.vae.decode(z, told, return_dict=False)[0]  # type: ignore[no-any-return]


class LtxFamily(StockFamily):
    """LTXPipeline and LTXImageToVideoPipeline. The scheduler's shift follows the number of tokens.

    A clip that starts from an image has its first latent frame given: the scheduler walks the others only.
    """

    name = "ltx"
    pipelines: ClassVar[tuple[str, ...]] = ("LTXPipeline", "LTXImageToVideoPipeline")
    network = LtxNet

    def make_network(self, parts: Mapping[str, nn.Module]) -> StockNet:
        pipe = self.pipe
        ratios = (int(pipe.vae_temporal_compression_ratio), int(pipe.vae_spatial_compression_ratio))
        return LtxNet(parts, self.clock, ratios=ratios)

    @property
    def frame_rate(self) -> float:
        """Frames a second of the network's positions."""
        network = self.network_of()
        assert isinstance(network, LtxNet)
        return network.frame_rate

    @frame_rate.setter
    def frame_rate(self, rate: float) -> None:
        if not 0 < rate < float("inf"):
            raise UserError(f"must be above 0, found {rate}", "family.frame_rate")
        self.network_of().frame_rate = rate  # type: ignore[assignment]

    def make_codec(self) -> LtxCodec:
        vae = self.pipe.vae
        if not isinstance(vae, AutoencoderKLLTXVideo):
            raise UserError(f"{type(vae).__name__} is not an AutoencoderKLLTXVideo", "vae")
        return LtxCodec(
            vae, scale=(vae.config.scaling_factor / vae.latents_std.float()).tolist(),
            shift=vae.latents_mean.float().tolist(), temporal=int(vae.temporal_compression_ratio),
            spatial=int(vae.spatial_compression_ratio),
        )  # fmt: skip

    @property
    def text_length(self) -> int:
        return min(LENGTH, int(self.pipe.tokenizer.model_max_length))

    def encode(self, caption: str) -> Parts:
        text, mask, *_ = self.pipe.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return {"text": text, "text.mask": mask}

    @torch.no_grad()
    def from_image(self, image: Tensor, shape: Sequence[int], generator: torch.Generator | None = None) -> Parts:
        if not self.needs_image:
            return super().from_image(image, shape)
        codec, vae = self.codec, self.pipe.vae
        assert isinstance(codec, LtxCodec)
        posterior = vae.encode(image[:, :, None].to(vae.device, vae.dtype)).latent_dist
        z = (posterior.mode() if generator is None else posterior.sample(generator)).float()
        return {"first": codec.normalised(z)}

    def pack(self, x: Tensor) -> Tensor:
        return x[:, :, 1:] if self.needs_image else packed(x)

    def unpack(self, z: Tensor, shape: Sequence[int]) -> Tensor:
        return torch.cat([torch.zeros_like(z[:, :, :1]), z], 2) if self.needs_image else unpacked(z, shape[1:])

    def finish(self, x: Tensor, cond: Cond) -> Tensor:
        first = cond.fields.get("first")
        return x if first is None else torch.cat([first.to(x.dtype), x[:, :, 1:]], 2)

    def set_timesteps(self, scheduler: Any, steps: int, shape: Sequence[int], device: torch.device) -> None:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=self.mu_of(shape), device=device)
