"""Wan: stock WanTransformer3DModel and its pipelines, 2.1 and 2.2 (with two experts, with a time for every token)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from ..core.attention import Attend
from ..core.cond import Cond
from ..core.errors import UserError
from .guidance_input import GuidanceEmbedding
from .pixel import PixelVae
from .rope import AxialRope, frequencies
from .stock import Parts, StockFamily, pictures
from .stock_net import Processor, StockNet, dtype_of
from .wan_codec import WanCodec

THETA = 10000.0  # of the rotary positions
LENGTH = 512  # tokens of a caption; image conditions of Wan 2.1 take it for granted


class _Seam:
    """Attention processor that lets an `Attend` answer for one layer."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, layer: int, attend: Attend, time: Tensor) -> None:
        self.layer, self.attend, self.time = layer, attend, time

    @torch.compiler.disable
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        q, k = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        v = attn.to_v(hidden_states)
        rope = None
        if rotary_emb is not None:  # [1, N, 1, D] each
            rope = AxialRope((rotary_emb[0][0, :, 0], rotary_emb[1][0, :, 0]), self.time)
        out = self.attend(self.layer, heads(q), heads(k), heads(v), rope).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out.type_as(hidden_states)))  # type: ignore[no-any-return]


class WanNet(StockNet):
    """Reads "text" [B, L, D] and, of a folder that starts from an image, "image" [B, L, D] (CLIP) and "first": the
    mask and latents [B, 4 + C, T, H, W], or, for a network with a time for every token, its latents [B, C, 1, H, W].

    boundary: with two experts, the smallest t the first one answers for.
    """

    text_in = "condition_embedder.text_embedder.linear_1"
    per_frame = True

    def __init__(self, *given: Any, boundary: float | None = None, **more: Any) -> None:
        super().__init__(*given, **more)
        self.boundary = boundary

    def again(self, guidance: GuidanceEmbedding | None) -> Self:
        return type(self)(self.parts, self.clock, guidance, boundary=self.boundary)

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        if len(self.names) == 1 or self.boundary is None:
            return self.ask(self.model, x, timestep, cond)
        out = torch.empty_like(x)
        for expert, chosen in self.shared_out(timestep):
            if len(chosen) == len(x):
                return self.ask(expert, x, timestep, cond)
            out[chosen] = self.ask(expert, x[chosen], timestep[chosen], cond.select(chosen)).to(x.dtype)
        return out

    def shared_out(self, timestep: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
        """Experts by noise level: (each that has any, the places in the batch it answers for)."""
        late = (timestep if timestep.ndim == 1 else timestep.amax(1)) < (self.boundary or 0) * self.clock.steps
        for expert, chosen in zip(self.parts.values(), (~late, late), strict=False):
            if chosen.any():
                yield expert, chosen.nonzero()[:, 0]

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        if len(self.names) == 1:
            return super().taps(x, t, cond, layers)
        rows: dict[int, tuple[Tensor, ...]] = {}
        t = t.expand(len(x)) if t.ndim == 1 else t
        for expert, chosen in self.shared_out(self.clock.told(t)):
            alone = WanNet({self.names[0]: expert}, self.clock, self.guidance)
            found = alone.taps(x[chosen], t[chosen], cond.select(chosen), layers)
            rows |= dict(zip(chosen.tolist(), zip(*found, strict=True), strict=True))
        return [torch.stack([rows[i][k] for i in range(len(x))]) for k in range(len(layers))]

    def ask(self, network: Any, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """What one stock network says."""
        first = cond.fields.get("first")
        if timestep.ndim == 2 and timestep.shape[1] == 1:  # all positions share it
            timestep = timestep[:, 0]
        if first is not None and first.shape[1] == x.shape[1]:  # it stands in place of the first frame, at time 0
            x = torch.cat([first.to(x.dtype), x[:, :, 1:]], 2)
            timestep = timestep[:, None].repeat(1, x.shape[2]) if timestep.ndim == 1 else timestep.clone()
            timestep[:, 0] = 0
        elif first is not None:
            x = torch.cat([x, first.to(x.dtype)], 1)
        if timestep.ndim == 2:  # one time per latent frame -> one per token
            _, high, wide = self.patch
            timestep = timestep.repeat_interleave(x.shape[3] // high * (x.shape[4] // wide), dim=1)
        image = cond.fields.get("image")
        image = None if image is None else image.to(dtype_of(network))
        return network(  # type: ignore[no-any-return]
            x.to(dtype_of(network)), timestep, self.text(cond), image, return_dict=False
        )[0]

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    def attentions(self) -> Sequence[Any]:
        return [block.attn1 for network in self.parts.values() for block in network.blocks]  # type: ignore[union-attr]

    def readers(self) -> Sequence[Any]:
        return [block.attn2 for block in self.model.blocks]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        return _Seam(layer % len(self.model.blocks), attend, frequencies(self.model.rope.t_dim, THETA))


class WanFamily(StockFamily):
    """Opens WanPipeline and WanImageToVideoPipeline folders, with AutoencoderKLWan or our exact pixel patches.

    scale_2: of the second expert; the same scale as the first when None.
    """

    name = "wan"
    pipelines: ClassVar[tuple[str, ...]] = ("WanPipeline", "WanImageToVideoPipeline")
    networks = ("transformer", "transformer_2")
    network = WanNet
    passes_apart = True
    scale_2: float | None = None

    def make_network(self, parts: Mapping[str, nn.Module]) -> StockNet:
        return WanNet(parts, self.clock, boundary=self.pipe.config.get("boundary_ratio"))

    def make_codec(self) -> WanCodec:
        vae = self.pipe.vae
        if not isinstance(vae, AutoencoderKLWan | PixelVae):
            raise UserError(f"{type(vae).__name__} is not one of AutoencoderKLWan, PixelVae", "vae")
        return WanCodec(vae)

    @property
    def text_length(self) -> int:
        """Tokens of a caption: Wan's, or fewer where the tokenizer says so."""
        if self.pipe.transformer is not None and self.pipe.transformer.config.image_dim is not None:
            return LENGTH
        return min(LENGTH, int(self.pipe.tokenizer.model_max_length))

    def encode(self, caption: str) -> Parts:
        found, _ = self.pipe.encode_prompt(
            caption, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return {"text": found}

    @torch.no_grad()
    def from_image(self, image: Tensor, shape: Sequence[int], generator: torch.Generator | None = None) -> Parts:
        pipe = self.pipe
        if pipe.transformer.config.in_channels == shape[0] and not pipe.config.get("expand_timesteps"):
            return super().from_image(image, shape)
        if pipe.config.get("expand_timesteps"):
            return {"first": self.codec.encode(image[:, :, None])}
        frames = 1 + (shape[1] - 1) * self.codec.temporal
        clip = torch.cat([image[:, :, None], image.new_zeros(*image.shape[:2], frames - 1, *image.shape[2:])], 2)
        mask = torch.zeros(len(image), self.codec.temporal, *shape[1:], device=image.device)
        mask[:, :, 0] = 1
        found = {"first": torch.cat([mask, self.codec.encode(clip)], 1)}
        if pipe.transformer.config.image_dim is not None:
            found["image"] = torch.cat([pipe.encode_image(picture, self.device) for picture in pictures(image)]).float()
        return found

    def finish(self, x: Tensor, cond: Cond) -> Tensor:
        first = cond.fields.get("first")
        if first is None or first.shape[1] != x.shape[1]:
            return x
        return torch.cat([first.to(x.dtype), x[:, :, 1:]], 2)

    def scale_at(self, scale: float, timestep: float, steps: int) -> float:
        boundary = self.pipe.config.get("boundary_ratio")
        late = boundary is not None and timestep < boundary * self.clock.steps
        return self.scale_2 if late and self.scale_2 is not None else scale
