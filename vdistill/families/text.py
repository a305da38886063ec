"""A small text encoder without downloads: byte-level BPE learned from captions, a tiny UMT5 of fixed weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

PAD, END = "<pad>", "</s>"


def learn_tokenizer(captions: Iterable[str], vocabulary: int = 512, length: int = 16) -> PreTrainedTokenizerFast:
    """Byte-level BPE: frequent words become one token, any text has some tokens. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(captions)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=length, padding_side="right"
    )


def fixed_encoder(vocabulary: int, dim: int, layers: int = 1, seed: int = 0) -> UMT5EncoderModel:
    """A UMT5 encoder with seeded random weights, never trained: enough to tell words and their order apart."""
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=dim,
        d_kv=dim // 4,
        d_ff=2 * dim,
        num_layers=layers,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UMT5EncoderModel(config).eval().requires_grad_(False)
