"""Dimensions of the text and image encoders of published teachers, as transformers' classes take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Encoder:
    """model, config: classes of transformers; sizes: what the config is given."""

    model: str
    config: str
    sizes: Mapping[str, Any]

    def build(self) -> nn.Module:
        """The encoder on the meta device: shapes without weights."""
        library = import_module("transformers")
        with torch.device("meta"):
            built: nn.Module = getattr(library, self.model)(getattr(library, self.config)(**self.sizes))
        return built


def _t5(model: str, config: str, vocabulary: int, width: int, inner: int, layers: int, heads: int) -> Encoder:
    sizes = {
        "vocab_size": vocabulary, "d_model": width, "d_kv": 64, "d_ff": inner, "num_layers": layers,
        "num_heads": heads, "feed_forward_proj": "gated-gelu",
    }  # fmt: skip
    return Encoder(model, config, sizes)


def _clip(model: str, width: int, layers: int, heads: int, **other: Any) -> Encoder:
    sizes = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads, **other,
    }  # fmt: skip
    return Encoder(model, "CLIPVisionConfig" if "Vision" in model else "CLIPTextConfig", sizes)


T5 = _t5("T5EncoderModel", "T5Config", 32128, 4096, 10240, 24, 64)
"""T5 1.1 XXL."""
UMT5 = _t5("UMT5EncoderModel", "UMT5Config", 256384, 4096, 10240, 24, 64)
"""UMT5 XXL."""
BYT5 = _t5("T5EncoderModel", "T5Config", 1510, 1472, 3584, 12, 6)
"""ByT5 small, with words for fonts and colours."""
CLIP = _clip("CLIPTextModel", 768, 12, 12)
"""CLIP ViT-L/14, text."""
CLIP_PROJECTED = _clip("CLIPTextModelWithProjection", 768, 12, 12, projection_dim=768)
BIG_CLIP = _clip("CLIPTextModelWithProjection", 1280, 32, 20, projection_dim=1280)
"""OpenCLIP ViT-bigG/14, text."""
CLIP_VISION = _clip("CLIPVisionModel", 1280, 32, 16, patch_size=14, image_size=224)
"""OpenCLIP ViT-H/14, images."""
LLAMA = Encoder(
    "LlamaModel",
    "LlamaConfig",
    {
        "vocab_size": 128320, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
)  # fmt: skip
"""Llama 3 8B, without its last layer."""
QWEN = Encoder(
    "Qwen2_5_VLTextModel",
    "Qwen2_5_VLTextConfig",
    {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4,
    },
)  # fmt: skip
"""Qwen 2.5 VL 7B, its language model."""
