"""HunyuanVideo: stock HunyuanVideoTransformer3DModel, which was distilled to take the guidance scale as an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..core.attention import Attend
from ..core.cond import Cond
from ..core.guided import INPUT
from . import times
from .kl_codec import KlCodec
from .opening import call_defaults
from .overlap import OverlapStream
from .rope import AxialRope, frequencies
from .seams import normed, split_heads
from .stock import Parts, StockFamily
from .stock_net import Processor, StockNet

LENGTH = 256  # tokens that the Llama reads, without its template
SCALE = 6.0  # the guidance scale when none is told: the pipeline's


class HunyuanSeam:
    """Clip and text in one attention. The stock order is clip, text; an `Attend` sees text, clip."""

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
        rows, own = encoder_hidden_states.shape[1], attn.add_q_proj is not None

        def both(clip: nn.Module, text: nn.Module | None, clip_norm: Any, text_norm: Any) -> Tensor:
            told = normed(text_norm, split_heads((text or clip)(encoder_hidden_states), attn))
            return torch.cat([told, normed(clip_norm, split_heads(clip(hidden_states), attn))], 2)

        q = both(attn.to_q, attn.add_q_proj, attn.norm_q, attn.norm_added_q if own else attn.norm_q)
        k = both(attn.to_k, attn.add_k_proj, attn.norm_k, attn.norm_added_k if own else attn.norm_k)
        v = both(attn.to_v, attn.add_v_proj, None, None)
        rope = None if image_rotary_emb is None else AxialRope(image_rotary_emb, self.time, rows)
        mask = None
        if attention_mask is not None:
            flat = attention_mask.flatten(1).bool()  # [B, clip + text], or [B, text]
            if flat.shape[1] == rows:
                flat = torch.cat([flat.new_ones(len(flat), hidden_states.shape[1]), flat], 1)
            mask = torch.cat([flat[:, -rows:], flat[:, :-rows]], 1)
        out = self.attend(self.layer, q, k, v, rope, prefix=rows, mask=mask).transpose(1, 2).flatten(2)
        told, seen = out.to(hidden_states.dtype).split([rows, out.shape[1] - rows], 1)
        if getattr(attn, "to_out", None) is not None:
            seen = attn.to_out[1](attn.to_out[0](seen))
        if getattr(attn, "to_add_out", None) is not None:
            told = attn.to_add_out(told)
        return seen, told


def _first_time(stock: times.Forward) -> times.Forward:
    """The embedder of the text, told the text's time."""
    return lambda text, timestep, mask: stock(text, timestep[:, 0], mask)


def _each_time(stock: times.Forward) -> times.Forward:
    """Embedding of the times [B, 1 + P] and of what is one for each sample: [B, 1 + P, D]."""

    def forward(timestep: Tensor, *others: Tensor | None, **named: Any) -> Any:
        count = timestep.shape[1]
        spread = [None if other is None else other.repeat_interleave(count, 0) for other in others]
        out = stock(timestep.flatten(), *spread, **named)
        if isinstance(out, Tensor):
            return out.unflatten(0, (-1, count))
        return out[0].unflatten(0, (-1, count)), *out[1:]

    return forward


class HunyuanNet(StockNet):
    """Reads "text" [B, L, D], "text.mask" [B, L], "text.pooled" [B, D] and "guidance" [B]."""

    text_in = "context_embedder.proj_in"
    per_frame = True
    text_mean_in = "context_embedder.time_text_embed.text_embedder.linear_1"
    """The linear layer that the mean of the text tokens goes through."""

    @property
    def patch(self) -> tuple[int, int, int]:
        config = self.model.config
        return (config.patch_size_t, config.patch_size, config.patch_size)

    @property
    def takes_scale(self) -> bool:
        return self.hears_scale or self.guidance is not None

    @property
    def hears_scale(self) -> bool:
        """Whether the stock network was distilled to take the scale."""
        return bool(self.model.config.get("guidance_embeds"))

    def predict(self, x: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        dtype, f = self.dtype, cond.fields
        with self.timed(x, timestep) as timestep:
            return self.model(  # type: ignore[no-any-return]
                x.to(dtype), timestep, self.text(cond), f["text.mask"].to(dtype), f["text.pooled"].to(dtype),
                guidance=self.scale(x, cond), return_dict=False,
            )[0]  # fmt: skip

    def briefly(self, cond: Cond) -> Cond:
        text, mask = (cond.fields[name][:, :1] for name in ("text", "text.mask"))
        return cond.with_field("text", text).with_field("text.mask", torch.ones_like(mask))

    @contextmanager
    def timed(self, x: Tensor, timestep: Tensor) -> Iterator[Tensor]:
        """[B] -> [B] for a batch as large as x; [B, T] -> [B, 1 + P], which the network understands inside."""
        if timestep.ndim == 1:
            yield timestep.expand(len(x))
            return
        frames, (p_t, high, wide) = x.shape[2], self.patch
        tokens = frames // p_t * (x.shape[3] // high) * (x.shape[4] // wide)
        with times.replaced(self.by_position(tokens)):
            yield times.with_text(timestep, len(x), frames, p_t)

    def by_position(self, tokens: int) -> dict[nn.Module, times.Forward]:
        """What answers for its modules while times are by position. tokens: of the clip."""
        model = self.model
        found = {
            model.context_embedder: _first_time(model.context_embedder.forward),
            model.norm_out: times.of_clip(model.norm_out),
            self.embedder: _each_time(self.embedder.forward),
        }
        block: Any
        for block in self.blocks():
            if hasattr(block, "norm"):
                found[block.norm] = times.of_both(block.norm, tokens)
            else:
                found |= {
                    block.norm1: times.of_clip(block.norm1),
                    block.norm1_context: times.of_text(block.norm1_context),
                }
        return found

    @property
    def embedder(self) -> nn.Module:
        """What embeds the time for all blocks."""
        return self.model.time_text_embed  # type: ignore[no-any-return]

    def scale(self, x: Tensor, cond: Cond) -> Tensor | None:
        """What the network is told of the guidance scale: a thousand times it."""
        if not self.hears_scale:
            return None
        told = cond.fields.get("guidance")
        return 1000.0 * (x.new_full((len(x),), SCALE) if told is None else told).to(self.dtype)

    def blocks(self) -> Sequence[nn.Module]:
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def attentions(self) -> Sequence[Any]:
        return [block.attn for block in self.blocks()]

    def seam(self, layer: int, attend: Attend, stock: Processor) -> Processor:
        config = self.model.config
        return HunyuanSeam(layer, attend, frequencies(config.rope_axes_dim[0], config.rope_theta))

    def with_scale_input(self) -> Self:
        return self if self.takes_scale else super().with_scale_input()

    def with_fixed_scale(self, scale: float) -> Self:
        """As of any network; the shift of all tokens is one of their mean too, which has a layer of its own."""
        if self.guidance is not None:
            for module in self.parts.values():
                first = module.get_submodule(self.text_mean_in)
                assert isinstance(first, nn.Linear)
                with torch.no_grad():
                    shift = self.guidance(torch.tensor([scale], device=first.weight.device))[0, 0]
                    first.bias.add_(first.weight @ shift.to(first.weight.dtype))
        return super().with_fixed_scale(scale)


class HunyuanCodec(KlCodec):
    """The stock VAE decodes a clip in tiles that overlap in time, so a stream of the same tiles is exact."""

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Equal to decoding the whole. Its tiles wait for latent frames: three at a time, after the first five."""
        vae, temporal = self.vae, self.temporal
        if not vae.use_framewise_decoding:
            return super().stream()
        tile, stride = vae.tile_sample_min_num_frames // temporal, vae.tile_sample_stride_num_frames // temporal
        return OverlapStream(self.one_tile, (temporal, self.spatial), 1, tile - stride, stride)

    def one_tile(self, latents: Tensor) -> Tensor:
        """Pixels of latents that are not divided in time."""
        self.vae.use_framewise_decoding = False
        try:
            return self.unclipped(latents)
        finally:
            self.vae.use_framewise_decoding = True


class HunyuanFamily(StockFamily):
    """HunyuanVideoPipeline, guided by the scale it is told. A network that is told none runs without guidance; a scale
    above 1 is then the pipeline's true_cfg_scale, with the negative prompt in place of the caption."""

    name = "hunyuan"
    pipelines: ClassVar[tuple[str, ...]] = ("HunyuanVideoPipeline",)
    network = HunyuanNet
    passes_apart = True

    def __init__(self, pipe: Any, negative: str = "") -> None:
        super().__init__(pipe, negative)
        network = self.network_of()
        if isinstance(network, HunyuanNet) and network.hears_scale:
            self.guided_by = INPUT

    def make_codec(self) -> KlCodec:
        config = self.pipe.vae.config
        return HunyuanCodec(
            self.pipe.vae, scale=config.scaling_factor, temporal=int(config.temporal_compression_ratio),
            spatial=int(config.spatial_compression_ratio), multiple=self.network_of().patch[1],
        )  # fmt: skip

    def defaults(self) -> dict[str, float]:
        said = super().defaults()
        if self.guided_by == INPUT:
            return said
        return said | {"guidance": float(call_defaults(type(self.pipe)).get("true_cfg_scale", 1.0))}

    @property
    def text_length(self) -> int:
        return min(LENGTH, int(self.pipe.tokenizer.model_max_length))

    def encode(self, caption: str) -> Parts:
        text, pooled, mask = self.pipe.encode_prompt(caption, device=self.device, max_sequence_length=self.text_length)
        return {"text": text, "text.pooled": pooled, "text.mask": mask}

    def set_timesteps(self, scheduler: Any, steps: int, shape: Sequence[int], device: torch.device) -> None:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=device)
