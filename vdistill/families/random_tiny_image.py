"""Image pipelines of tiny random weights: stock classes, schedulers configured as the published folders are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d

from .random_tiny_text import clip, clip_tokenizer, t5, t5_tokenizer

SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _vae(scaling: float, shift: float | None = None, **other: Any) -> d.AutoencoderKL:
    """8 x 8, four channels."""
    return d.AutoencoderKL(
        block_out_channels=(4, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=scaling,
        shift_factor=shift,
        **other,
    )


def _unet(**other: Any) -> d.UNet2DConditionModel:
    return d.UNet2DConditionModel(
        **{
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "sample_size": 8,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            "attention_head_dim": 2,
            "norm_num_groups": 2,
        }
        | other
    )


def unet_parts() -> tuple[Any, Any, Any, Any]:
    """VAE, text encoder, tokenizer and UNet of Stable Diffusion 1.5."""
    tokenizer = clip_tokenizer()
    return _vae(0.18215), clip(tokenizer), tokenizer, _unet()


def sd15() -> d.StableDiffusionPipeline:
    """Stable Diffusion 1.5."""
    scheduler = d.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **SCALED_LINEAR)
    return d.StableDiffusionPipeline(*unet_parts(), scheduler, None, None, requires_safety_checker=False)


def sdxl() -> d.StableDiffusionXLPipeline:
    """Stable Diffusion XL: two text encoders, the sizes and the pooled text as added conditions."""
    first, second = clip_tokenizer(), clip_tokenizer("!")
    unet = _unet(
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return d.StableDiffusionXLPipeline(
        vae=_vae(0.13025),
        text_encoder=clip(first),
        text_encoder_2=clip(second, 32, projection=32),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=d.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **SCALED_LINEAR),
    )


def sd3() -> d.StableDiffusion3Pipeline:
    """Stable Diffusion 3: two CLIPs beside each other, a T5 behind them."""
    first, second, third = clip_tokenizer(), clip_tokenizer("!"), t5_tokenizer()
    transformer = d.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    return d.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(1.5305, 0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(first, 16, projection=16),
        tokenizer=first,
        text_encoder_2=clip(second, 16, projection=16),
        tokenizer_2=second,
        text_encoder_3=t5(len(third), 32),
        tokenizer_3=third,
    )


def flux() -> d.FluxPipeline:
    """FLUX.1 dev: the guidance scale is an input, the shift depends on the number of tokens."""
    first, second = clip_tokenizer(), t5_tokenizer()
    transformer = d.FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=True,
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    vae = _vae(0.3611, 0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return d.FluxPipeline(scheduler, vae, clip(first), first, t5(len(second)), second, transformer)


def _pixart(kind: type, **other: Any) -> Any:
    tokenizer = t5_tokenizer()
    transformer = d.PixArtTransformer2DModel(
        num_attention_heads=3,  # three conditions share the width
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=48,
        caption_channels=32,
        **other,
    )
    scheduler = d.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return kind(tokenizer, t5(len(tokenizer)), _vae(0.13025), transformer, scheduler)


def pixart() -> d.PixArtAlphaPipeline:
    """PixArt-alpha at 1024: resolution and aspect ratio are added conditions, which its class ties to that size."""
    return _pixart(d.PixArtAlphaPipeline, sample_size=128, use_additional_conditions=True)


def pixart_sigma() -> d.PixArtSigmaPipeline:
    """PixArt-sigma: without added conditions."""
    return _pixart(d.PixArtSigmaPipeline, sample_size=8, use_additional_conditions=False)


def dit() -> d.DiTPipeline:
    """DiT: a class instead of a caption; class 1000 stands for none, a number the pipeline has in its code."""
    transformer = d.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = d.DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    labels = {0: "tench, Tinca tinca", 1: "goldfish", 2: "great white shark, white shark"}
    pipe = d.DiTPipeline(transformer, _vae(0.18215), scheduler, id2label=labels)
    pipe.register_to_config(id2label=labels)  # else saving forgets them; the published index lists them
    return pipe


IMAGE: dict[str, Callable[[], Any]] = {
    "sd15": sd15,
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "pixart": pixart,
    "pixart-sigma": pixart_sigma,
    "dit": dit,
}
