"""Video pipelines of tiny random weights: the stock classes, schedulers configured as the published folders have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d
from transformers import UMT5EncoderModel

from .random_tiny_text import clip, clip_tokenizer, llama, llama_tokenizer, t5, t5_tokenizer
from .text import fixed_encoder

HUNYUAN_CLIP_LENGTH = 77
"""The pipeline has this number in its code."""


def _umt5() -> tuple[Any, UMT5EncoderModel]:
    tokenizer = t5_tokenizer()
    return tokenizer, fixed_encoder(len(tokenizer), 32)


def _wan_scheduler(shift: float) -> d.UniPCMultistepScheduler:
    return d.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _wan_vae() -> d.AutoencoderKLWan:
    """4 x 8 x 8, 16 channels, the published means and deviations."""
    return d.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def _wan_transformer(**other: Any) -> d.WanTransformer3DModel:
    return d.WanTransformer3DModel(
        **dict(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=64,
            ffn_dim=48,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=64,
        )
        | other
    )


def wan(**other: Any) -> d.WanPipeline:
    """Wan 2.1 T2V."""
    tokenizer, encoder = _umt5()
    return d.WanPipeline(tokenizer, encoder, _wan_vae(), _wan_scheduler(3.0), _wan_transformer(), **other)


def _cog_vae() -> d.AutoencoderKLCogVideoX:
    """4 x 8 x 8, four channels."""
    return d.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=0.7,
    )


def _cog_transformer(**other: Any) -> d.CogVideoXTransformer3DModel:
    return d.CogVideoXTransformer3DModel(
        **dict(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=32,
            num_layers=2,
            sample_width=6,
            sample_height=8,
            sample_frames=9,
            max_text_seq_length=16,
            use_rotary_positional_embeddings=True,
        )
        | other
    )


def _cog_scheduler(kind: type, snr_shift_scale: float) -> Any:
    return kind(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=snr_shift_scale,
        timestep_spacing="trailing",
    )


def cogvideox_5b() -> d.CogVideoXPipeline:
    """CogVideoX-5B: rotary positions, its DPM scheduler."""
    tokenizer = t5_tokenizer()
    scheduler = _cog_scheduler(d.CogVideoXDPMScheduler, 1.0)
    return d.CogVideoXPipeline(tokenizer, t5(len(tokenizer)), _cog_vae(), _cog_transformer(), scheduler)


def hunyuan() -> d.HunyuanVideoPipeline:
    """HunyuanVideo: the guidance scale is an input; a Llama with a chat template, a CLIP for the pooled text."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    tokenizer, pooled = llama_tokenizer(DEFAULT_PROMPT_TEMPLATE["template"]), clip_tokenizer(length=77)
    transformer = d.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    vae = d.AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    return d.HunyuanVideoPipeline(
        text_encoder=llama(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip(pooled, 16, length=HUNYUAN_CLIP_LENGTH),
        tokenizer_2=pooled,
    )


def ltx() -> d.LTXPipeline:
    """LTX-Video 0.9: 8 x 32 x 32, the shift depends on the number of tokens."""
    tokenizer = t5_tokenizer()
    transformer = d.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    )
    vae = d.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    return d.LTXPipeline(scheduler, vae, t5(len(tokenizer)), tokenizer, transformer)


VIDEO: dict[str, Callable[[], Any]] = {
    "wan": wan,
    "cogvideox-5b": cogvideox_5b,
    "hunyuan": hunyuan,
    "ltx": ltx,
}
