"""The `tiny` family: a stock Wan pipeline of small dimensions, made here, offline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from ..core.schedule import Predicts
from .clock import PREDICTS
from .pixel import pixel_vae
from .text import fixed_encoder, learn_tokenizer
from .wan import WanFamily


@dataclass(frozen=True)
class TinySize:
    """dim, heads, layers, ffn: of the transformer; text_dim, text_layers, text_length: of the text encoder, length in
    tokens; temporal, spatial: pixels per latent position; mean, std: pixel normalisation in [-1, 1] units;
    codec: "pixel", or "wan" for a small random AutoencoderKLWan (4 x 8 x 8); patch: latent patch of the transformer.
    """

    dim: int = 256
    heads: int = 8
    layers: int = 6
    ffn: int = 768
    text_dim: int = 64
    text_layers: int = 1
    text_length: int = 16
    temporal: int = 4
    spatial: int = 8
    patch: tuple[int, int, int] = (1, 1, 1)
    codec: str = "pixel"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: float = 0.5
    shift: float = 3.0
    predicts: Predicts = "x0"


class TinyFamily(WanFamily):
    """A Wan family of any dimensions."""

    name = "tiny"

    @classmethod
    def build(cls, size: TinySize, captions: Iterable[str], seed: int = 0) -> TinyFamily:
        """A new, untrained model; the tokenizer is learned from `captions`."""
        tokenizer = learn_tokenizer(captions, length=size.text_length)
        channels = 3 * size.temporal * size.spatial**2
        if size.codec == "pixel":
            vae = pixel_vae(size.temporal, size.spatial, size.mean, size.std)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if size.codec != "pixel":
                vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
                channels = 16
            transformer = WanTransformer3DModel(
                patch_size=size.patch,
                num_attention_heads=size.heads,
                attention_head_dim=size.dim // size.heads,
                in_channels=channels,
                out_channels=channels,
                text_dim=size.text_dim,
                freq_dim=64,
                ffn_dim=size.ffn,
                num_layers=size.layers,
            )
        kind = next(k for k, v in PREDICTS.items() if v == size.predicts)
        scheduler = UniPCMultistepScheduler(prediction_type=kind, use_flow_sigmas=True, flow_shift=size.shift)
        encoder = fixed_encoder(len(tokenizer), size.text_dim, size.text_layers, seed)
        return cls(WanPipeline(tokenizer, encoder, vae, scheduler, transformer))
