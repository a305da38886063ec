"""Names of Wan's weights: public checkpoints -> stock diffusers, and back. Names only; no tensor is touched.

Checkpoints of Wan itself and of the few-step and causal students made from it (CausVid, Self-Forcing, LongLive, ...)
share one set of names inside wrappers that training left around them: `generator_ema.model._fsdp_wrapped_module.blocks
.0.self_attn.q.weight` is `blocks.0.attn1.to_q.weight` of WanTransformer3DModel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

Layout = Literal["original", "diffusers", "lora"]

INNER = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
"""Segments that wrappers put anywhere into a name."""
OUTER = {"model", "module", "diffusion_model", "base_model", "transformer", "transformer_2"}
"""Segments that stand before a whole network."""
EXTRA_HEADS = ("_cls_pred_branch", "_register_tokens", "_gan_ca_blocks")
"""What variants trained with a GAN hang beside the network; no part of it, so unexpected unless allowed."""

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
IN_BLOCK = {
    **{f"self_attn.{a}": f"attn1.{b}" for a, b in _ATTENTION.items()},
    **{f"cross_attn.{a}": f"attn2.{b}" for a, b in (_ATTENTION | _IMAGE).items()},
    "norm3": "norm2",  # the affine one before cross-attention; the original's norm1 and norm2 have no weights
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
"""Modules and parameters of one block: original -> diffusers."""
OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
"""The same, beside the blocks."""

_BLOCK = re.compile(r"(blocks\.\d+)\.(.+)")
_ROOT = re.compile(r"(?:^|\.)blocks\.\d+\.(?:(self_attn|cross_attn)|attn1|attn2)\.")
_LORA = re.compile(r"(?P<module>.+)\.(?:lora_(?P<which>A|B|down|up)(?:\.default)?\.weight|(?P<other>alpha|diff_b))")
_SUFFIX = {
    "A": "lora_A.weight",
    "down": "lora_A.weight",
    "B": "lora_B.weight",
    "up": "lora_B.weight",
    "diff_b": "lora_B.bias",  # what is added to the layer's bias, whatever the scale
    "alpha": "alpha",
}


def bare(key: str, group: str = "") -> str | None:
    """A name without its wrappers; None for one outside of `group`, the dotted name of a sub-dictionary."""
    clean = _without_inner(key)
    if group:
        if not clean.startswith(f"{group}."):
            return None
        clean = clean.removeprefix(f"{group}.")
    parts = clean.split(".")
    while len(parts) > 1 and parts[0] in OUTER:
        del parts[0]
    return ".".join(parts)


def groups(keys: Iterable[str]) -> list[str]:
    """The sub-dictionaries that hold a Wan transformer or a LoRA of one, "" for keys at the top."""
    found = set()
    for key in keys:
        if root := _ROOT.search(clean := _without_inner(key)):
            parts = clean[: root.start()].split(".")
            while parts and parts[-1] in OUTER:
                del parts[-1]
            found.add(".".join(parts))
    return sorted(found)


def layout(keys: Iterable[str]) -> Layout | None:
    """How bare names are written; None where nothing of Wan is among them."""
    roots = [(key, root) for key in keys if (root := _ROOT.search(key))]
    if any(_LORA.fullmatch(key) for key, _ in roots):
        return "lora"
    if not roots:
        return None
    return "original" if any(root[1] for _, root in roots) else "diffusers"


def to_diffusers(key: str) -> str | None:
    """A bare original name -> diffusers; None for a name that is not of Wan. LoRA suffixes go along."""
    return _rename(key, IN_BLOCK, OUTSIDE)


def to_original(key: str) -> str | None:
    """The inverse of `to_diffusers`."""
    return _rename(key, {b: a for a, b in IN_BLOCK.items()}, {b: a for a, b in OUTSIDE.items()})


def lora_key(key: str, part: str = "transformer") -> str | None:
    """A bare LoRA name -> what stock pipelines load, `<part>.<module>.lora_A.weight`, `.lora_B.weight`, `.lora_B.bias`,
    or `.alpha`, the scale times the rank; None for a name that is no LoRA's.

    Takes both ways to name the two matrices (lora_A, lora_B; lora_down, lora_up) and both layouts of the modules.
    """
    if not (found := _LORA.fullmatch(key)):
        return None
    module = found["module"]
    named = to_diffusers(module) or (module if to_original(module) else None)
    return named and f"{part}.{named}.{_SUFFIX[found['which'] or found['other']]}"


def _without_inner(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in INNER)


def _rename(key: str, in_block: Mapping[str, str], outside: Mapping[str, str]) -> str | None:
    block = _BLOCK.fullmatch(key)
    front, rest, table = (f"{block[1]}.", block[2], in_block) if block else ("", key, outside)
    for old, new in table.items():
        if rest == old or rest.startswith(f"{old}."):
            return f"{front}{new}{rest.removeprefix(old)}"
    return None
