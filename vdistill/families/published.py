"""Dimensions of published teachers: enough to build their networks without weights. Facts, by short name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .published_encoders import BIG_CLIP, BYT5, CLIP, CLIP_PROJECTED, CLIP_VISION, LLAMA, QWEN, T5, UMT5, Encoder

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Published:
    """tiny: the random_tiny variant of the same classes. networks, vae: what differs from the defaults of those
    classes. length: tokens of a caption the network is given. folders: names its folder goes by. options: of the
    pipeline."""

    family: str
    tiny: str
    networks: Mapping[str, Options]
    vae: Options
    encoders: Mapping[str, Encoder]
    length: int
    folders: tuple[str, ...] = ()
    options: Options = field(default_factory=dict)


WAN_LARGE: Options = {}  # the defaults of its class
WAN_VAE_48 = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12,
    "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}  # fmt: skip
COG_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
COG_15 = {
    **COG_5B, "patch_size_t": 2, "patch_bias": False, "sample_height": 300, "sample_width": 300, "sample_frames": 81,
}  # fmt: skip
IMAGE_VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
IMAGE_VAE_16 = {**IMAGE_VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
SD15_UNET = {"cross_attention_dim": 768, "sample_size": 64}
SDXL_UNET = {
    "block_out_channels": (320, 640, 1280), "sample_size": 128, "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SD3_MEDIUM = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192,
}  # fmt: skip
PIXART = {"caption_channels": 4096, "use_additional_conditions": True}
SIGMA = {"caption_channels": 4096, "use_additional_conditions": False, "interpolation_scale": 2}


def _wan(network: Options, *folders: str, **other: Any) -> Published:
    given = {
        "networks": {"transformer": network},
        "vae": {},
        "encoders": {"text_encoder": UMT5},
        "tiny": "wan",
        **other,
    }
    return Published("wan", length=512, folders=folders, **given)


def _cog(tiny: str, network: Options, *folders: str) -> Published:
    return Published("cogvideox", tiny, {"transformer": network}, {}, {"text_encoder": T5}, 226, folders)


PUBLISHED: dict[str, Published] = {
    "wan2.1-1.3b": _wan(
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, "Wan2.1-T2V-1.3B-Diffusers"
    ),
    "wan2.1-14b": _wan(WAN_LARGE, "Wan2.1-T2V-14B-Diffusers"),
    "wan2.1-i2v-14b": _wan(
        {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
        "Wan2.1-I2V-14B-480P-Diffusers", "Wan2.1-I2V-14B-720P-Diffusers",
        tiny="wan-i2v", encoders={"text_encoder": UMT5, "image_encoder": CLIP_VISION},
    ),
    "wan2.2-ti2v-5b": _wan(
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
        "Wan2.2-TI2V-5B-Diffusers", tiny="wan22-ti2v", vae=WAN_VAE_48,
    ),
    "wan2.2-a14b": _wan(
        WAN_LARGE, "Wan2.2-T2V-A14B-Diffusers", tiny="wan22-a14b",
        networks={"transformer": WAN_LARGE, "transformer_2": WAN_LARGE},
    ),
    "cogvideox-2b": _cog("cogvideox-2b", {}, "CogVideoX-2b"),
    "cogvideox-5b": _cog("cogvideox-5b", COG_5B, "CogVideoX-5b"),
    "cogvideox-1.5-5b": _cog("cogvideox15-5b", COG_15, "CogVideoX1.5-5B"),
    "hunyuanvideo": Published(
        "hunyuan", "hunyuan", {"transformer": {}}, {}, {"text_encoder": LLAMA, "text_encoder_2": CLIP}, 256,
        ("HunyuanVideo",),
    ),
    "hunyuanvideo-1.5": Published(
        "hunyuan15", "hunyuan15", {"transformer": {"task_type": "t2v"}}, {},
        {"text_encoder": QWEN, "text_encoder_2": BYT5}, 1000,
        ("HunyuanVideo-1.5-Diffusers-480p_t2v", "HunyuanVideo-1.5-Diffusers-720p_t2v"),
    ),
    "ltx-video-2b": Published(
        "ltx", "ltx", {"transformer": {}}, {}, {"text_encoder": T5}, 128, ("LTX-Video", "LTX-Video-0.9")
    ),
    "animatediff": Published(
        "animatediff", "animatediff", {"unet": SD15_UNET}, IMAGE_VAE, {"text_encoder": CLIP}, 77, ("AnimateDiff",)
    ),
    "sd15": Published(
        "sd", "sd15", {"unet": SD15_UNET}, IMAGE_VAE, {"text_encoder": CLIP}, 77, ("stable-diffusion-v1-5",)
    ),
    "sdxl": Published(
        "sdxl", "sdxl", {"unet": SDXL_UNET}, IMAGE_VAE, {"text_encoder": CLIP, "text_encoder_2": BIG_CLIP}, 77,
        ("stable-diffusion-xl-base-1.0",),
    ),
    "sd3-medium": Published(
        "sd3", "sd3", {"transformer": SD3_MEDIUM}, IMAGE_VAE_16,
        {"text_encoder": CLIP_PROJECTED, "text_encoder_2": BIG_CLIP, "text_encoder_3": T5}, 77 + 256,
        ("stable-diffusion-3-medium-diffusers",),
    ),
    "flux-dev": Published(
        "flux", "flux", {"transformer": {"guidance_embeds": True}}, IMAGE_VAE_16,
        {"text_encoder": CLIP, "text_encoder_2": T5}, 512, ("FLUX.1-dev",),
    ),
    "pixart-alpha-xl-2-1024": Published(
        "pixart", "pixart", {"transformer": PIXART}, IMAGE_VAE, {"text_encoder": T5}, 120, ("PixArt-XL-2-1024-MS",)
    ),
    "pixart-sigma": Published(
        "pixart", "pixart-sigma", {"transformer": SIGMA}, IMAGE_VAE, {"text_encoder": T5}, 300,
        ("PixArt-Sigma-XL-2-1024-MS",),
    ),
    "dit-xl-2-256": Published(
        "dit", "dit", {"transformer": {"out_channels": 8}}, IMAGE_VAE, {}, 0, ("DiT-XL-2-256",)
    ),
}  # fmt: skip


def published(name: str) -> Published:
    """A published teacher by its short name. UserError listing them for another name."""
    if name not in PUBLISHED:
        raise UserError(f"no published teacher is called {name!r}", "--shape", f"there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def shape_of_folder(folder: str | Path) -> str | None:
    """The short name of a folder called as it is published; None for another folder."""
    name = re.sub(r"^models--.*--", "", Path(folder).name).lower()
    found = [short for short, p in PUBLISHED.items() if name in (short, *(each.lower() for each in p.folders))]
    return found[0] if found else None
