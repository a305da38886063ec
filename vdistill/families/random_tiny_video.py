"""Video pipelines of tiny random weights: stock classes, schedulers configured as the published folders are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d
from transformers import UMT5EncoderModel

from .random_tiny_hunyuan import hunyuan, hunyuan15
from .random_tiny_image import unet_parts
from .random_tiny_text import clip_vision, fill, t5, t5_tokenizer
from .text import fixed_encoder


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
        **{
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 32,
            "freq_dim": 64,
            "ffn_dim": 48,
            "num_layers": 2,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "rope_max_seq_len": 64,
        }
        | other
    )


def wan(**other: Any) -> d.WanPipeline:
    """Wan 2.1 T2V."""
    tokenizer, encoder = _umt5()
    return d.WanPipeline(tokenizer, encoder, _wan_vae(), _wan_scheduler(3.0), _wan_transformer(), **other)


def wan_i2v() -> d.WanImageToVideoPipeline:
    """Wan 2.1 I2V: mask and first frame as 20 more channels, a CLIP's view of the first frame as more tokens."""
    tokenizer, encoder = _umt5()
    processor, vision = clip_vision(32)
    transformer = _wan_transformer(in_channels=36, image_dim=32, added_kv_proj_dim=24)
    return d.WanImageToVideoPipeline(
        tokenizer, encoder, _wan_vae(), _wan_scheduler(3.0), processor, vision, transformer
    )


def wan22_ti2v() -> d.WanPipeline:
    """Wan 2.2 TI2V-5B: a time for every token, a VAE of 4 x 16 x 16 with 48 channels."""
    tokenizer, encoder = _umt5()
    vae = d.AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.02 * (i - 24) for i in range(48)],
        latents_std=[0.5 + 0.01 * i for i in range(48)],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    transformer = _wan_transformer(in_channels=48, out_channels=48)
    return d.WanPipeline(tokenizer, encoder, vae, _wan_scheduler(5.0), transformer, expand_timesteps=True)


def wan22_a14b() -> d.WanPipeline:
    """Wan 2.2 T2V-A14B: one expert above noise level 0.875, another below."""
    return wan(transformer_2=_wan_transformer(), boundary_ratio=0.875)


def _cog_vae(scaling: float = 0.7, **other: Any) -> d.AutoencoderKLCogVideoX:
    """4 x 8 x 8, four channels."""
    return d.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        scaling_factor=scaling,
        **other,
    )


def _cog_transformer(**other: Any) -> d.CogVideoXTransformer3DModel:
    return d.CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "num_layers": 2,
            "sample_width": 6,
            "sample_height": 8,
            "sample_frames": 9,
            "max_text_seq_length": 16,
            "use_rotary_positional_embeddings": True,
        }
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


def _cogvideox(kind: type, vae: Any, transformer: Any, scheduler: Any) -> Any:
    tokenizer = t5_tokenizer()
    return kind(tokenizer, t5(len(tokenizer)), vae, transformer, scheduler)


def cogvideox_2b() -> d.CogVideoXPipeline:
    """CogVideoX-2B: fixed sinusoidal positions, DDIM."""
    transformer = _cog_transformer(use_rotary_positional_embeddings=False)
    scheduler = _cog_scheduler(d.CogVideoXDDIMScheduler, 3.0)
    return _cogvideox(d.CogVideoXPipeline, _cog_vae(1.15258426), transformer, scheduler)


def cogvideox_5b() -> d.CogVideoXPipeline:
    """CogVideoX-5B: rotary positions, its DPM scheduler."""
    scheduler = _cog_scheduler(d.CogVideoXDPMScheduler, 1.0)
    return _cogvideox(d.CogVideoXPipeline, _cog_vae(), _cog_transformer(), scheduler)


def cogvideox15_5b() -> d.CogVideoXPipeline:
    """CogVideoX 1.5 5B: patches of two latent frames."""
    transformer = _cog_transformer(patch_size_t=2, patch_bias=False)
    scheduler = _cog_scheduler(d.CogVideoXDPMScheduler, 1.0)
    return _cogvideox(d.CogVideoXPipeline, _cog_vae(invert_scale_latents=True), transformer, scheduler)


def cogvideox_i2v() -> d.CogVideoXImageToVideoPipeline:
    """CogVideoX-5B-I2V: the first frame as more channels; learned positions, so one size only."""
    transformer = _cog_transformer(in_channels=8, use_learned_positional_embeddings=True)
    scheduler = _cog_scheduler(d.CogVideoXDPMScheduler, 1.0)
    return _cogvideox(d.CogVideoXImageToVideoPipeline, _cog_vae(), transformer, scheduler)


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


def animatediff() -> d.AnimateDiffPipeline:
    """AnimateDiff: the image UNet of Stable Diffusion 1.5 with motion modules between its layers."""
    vae, encoder, tokenizer, unet = unet_parts()
    motion = d.MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=2,
        motion_max_seq_length=32,
    )
    scheduler = d.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        timestep_spacing="linspace",
        steps_offset=1,
    )
    return d.AnimateDiffPipeline(vae, encoder, tokenizer, unet, fill(motion), scheduler)


VIDEO: dict[str, Callable[[], Any]] = {
    "wan": wan,
    "wan-i2v": wan_i2v,
    "wan22-ti2v": wan22_ti2v,
    "wan22-a14b": wan22_a14b,
    "cogvideox-2b": cogvideox_2b,
    "cogvideox-5b": cogvideox_5b,
    "cogvideox15-5b": cogvideox15_5b,
    "cogvideox-i2v": cogvideox_i2v,
    "hunyuan": hunyuan,
    "hunyuan15": hunyuan15,
    "ltx": ltx,
    "animatediff": animatediff,
}
