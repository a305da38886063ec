"""Text and image encoders of the random tiny pipelines: the stock classes, small, and tokenizers learned here.

The chat tokenizers count the tokens of the two HunyuanVideo prompt templates exactly as Llama 3 and Qwen 2 do (95 and
108), since the pipelines cut off that many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
)

from .text import learn_tokenizer

CAPTIONS = tuple(
    f"a {colour} {shape} {deed} {place}"
    for colour in ("red", "green", "blue")
    for shape in ("circle", "square", "cat")
    for deed, place in (("moves", "to the left"), ("jumps", "over a fence"), ("sleeps", "in the warm sun"))
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
"""Where Llama 3 and Qwen 2 split a text before they merge bytes."""
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LENGTH = 16
"""Tokens a text may have, where the pipeline lets one choose."""


def t5_tokenizer(length: int = LENGTH) -> PreTrainedTokenizerFast:
    """Of the T5 and UMT5 encoders."""
    return learn_tokenizer(CAPTIONS, length=length)


def t5(vocabulary: int, dim: int = 32) -> T5EncoderModel:
    """A T5 v1.1 encoder of one layer; output [B, L, dim]."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=dim,
            d_kv=8,
            d_ff=2 * dim,
            num_layers=1,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def _bpe(texts: Iterable[str], specials: list[str], words: str) -> Tokenizer:
    """Byte-level BPE that makes one token of every word in `texts`, and of each special token."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=specials, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def clip_tokenizer(pad: str = "<|endoftext|>", length: int = LENGTH) -> PreTrainedTokenizerFast:
    """As CLIP's: lower case, a token before and after. pad: the second one of SDXL pads with "!"."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = _bpe(CAPTIONS, [start, end, "!"], r"\s*\p{L}+|\s*\p{N}|\s*[^\s\p{L}\p{N}]+")
    tokenizer.normalizer = normalizers.Lowercase()
    ids = [(name, tokenizer.token_to_id(name)) for name in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=pad, model_max_length=length
    )


def clip(
    tokenizer: PreTrainedTokenizerFast, dim: int = 32, projection: int = 0, length: int = LENGTH
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text model of two layers; with its projection where `projection` is its width."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        intermediate_size=2 * dim,
        projection_dim=projection or dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def llama_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Llama 3's way of splitting; every word of `template` is one token, a begin token stands first."""
    marks = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|pad|>"]
    tokenizer = _bpe(_plain([template, *CAPTIONS], marks), marks, WORDS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{marks[0]} $A", special_tokens=[(marks[0], 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=marks[0],
        eos_token=marks[1],
        pad_token=marks[4],
        additional_special_tokens=marks[2:4],
        padding_side="right",
        model_max_length=512,
    )


def _plain(texts: Iterable[str], marks: Iterable[str]) -> list[str]:
    """The texts without special tokens, each cut where one stood."""
    cut = re.compile("|".join(re.escape(mark) for mark in marks))
    return [piece for text in texts for piece in cut.split(text) if piece]


def llama(vocabulary: int, dim: int = 16) -> LlamaModel:
    """Three layers: the pipeline reads the hidden states two before the last."""
    return LlamaModel(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            intermediate_size=2 * dim,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=4,
        )
    )


def qwen_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Qwen 2's way of splitting and its chat template; every word of `template` is one token."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    roles = ["system\n", "user\n", "assistant\n"]
    tokenizer = _bpe([template, *roles, *CAPTIONS], marks, WORDS.replace("{1,3}", ""))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=marks[2],
        pad_token=marks[0],
        additional_special_tokens=marks[1:2],
        padding_side="right",
        model_max_length=2048,
        chat_template=QWEN_CHAT,
    )


def qwen(vocabulary: int, dim: int = 16) -> Qwen2_5_VLTextModel:
    """The language part of Qwen 2.5 VL; three layers: the pipeline reads the hidden states two before the last."""
    return Qwen2_5_VLTextModel(
        Qwen2_5_VLTextConfig(
            vocab_size=vocabulary,
            hidden_size=dim,
            intermediate_size=2 * dim,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def clip_vision(dim: int = 32, pixels: int = 32) -> tuple[Any, CLIPVisionModel]:
    """What cuts images to the size of a CLIP image encoder, and the encoder, of two layers."""
    from transformers import CLIPImageProcessor  # warns, without torchvision, as soon as it is imported

    config = CLIPVisionConfig(
        hidden_size=dim,
        intermediate_size=2 * dim,
        projection_dim=dim,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=pixels,
        patch_size=8,
    )
    return CLIPImageProcessor(size={"shortest_edge": pixels}, crop_size=pixels), CLIPVisionModel(config)


@torch.no_grad()
def fill(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """eval(), no gradients, and an output that depends on every input: weights that start as constants
    (zero-initialised outputs and modulations, ones in norms) get small random offsets, linear layers times `gain`.
    """
    for value in module.parameters():
        if value.is_floating_point() and value.min() == value.max():
            value.add_(0.1 * torch.randn_like(value))
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(gain)
    return module.eval().requires_grad_(False)
