"""The two HunyuanVideo pipelines with tiny random weights, their language models behind chat templates."""

from __future__ import annotations

import diffusers as d
from transformers import ByT5Tokenizer

from .random_tiny_text import clip, clip_tokenizer, llama, llama_tokenizer, qwen, qwen_tokenizer, t5

HUNYUAN15_SYSTEM = (
    "You are a helpful assistant. Describe the video by detailing the following aspects:         1. The main content "
    "and theme of the video.         2. The color, shape, size, texture, quantity, text, and spatial relationships of "
    "the objects.         3. Actions, events, behaviors temporal relationships, physical movement changes of the "
    "objects.         4. background environment, light, style and atmosphere.         5. camera angles, movements, and "
    "transitions used in the video."
)
"""What the pipeline tells the language model before the caption, for the tokenizer to learn its words."""
HUNYUAN_CLIP_LENGTH = 77
"""The pipeline has this number in its code."""


def hunyuan() -> d.HunyuanVideoPipeline:
    """HunyuanVideo: the guidance scale is an input; a Llama with a chat template, a CLIP for the pooled text."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    tokenizer, pooled = llama_tokenizer(DEFAULT_PROMPT_TEMPLATE["template"]), clip_tokenizer(length=HUNYUAN_CLIP_LENGTH)
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


def hunyuan15() -> d.HunyuanVideo15Pipeline:
    """HunyuanVideo 1.5: a Qwen with a chat template, a byte T5 for text in quotes, a guider as a component.

    4.2 million of its weights are in a projection whose width of 2048 the class does not let one choose.
    """
    from diffusers.guiders import ClassifierFreeGuidance

    glyphs = ByT5Tokenizer()
    transformer = d.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=16,
        image_embed_dim=8,
        rope_axes_dim=(4, 6, 6),
        task_type="t2v",
        target_size=64,
    )
    vae = d.AutoencoderKLHunyuanVideo15(latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1)
    tokenizer = qwen_tokenizer(HUNYUAN15_SYSTEM)
    return d.HunyuanVideo15Pipeline(
        text_encoder=qwen(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=d.FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder_2=t5(len(glyphs), 16),
        tokenizer_2=glyphs,
        guider=ClassifierFreeGuidance(guidance_scale=6.0),
    )
