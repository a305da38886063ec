"""Adapters out of a public audio-driven Wan checkpoint, in the layout of FantasyTalking (Wang et al. 2025).

    proj_model.proj.weight [W, F]                                   features of wav2vec 2.0 -> tokens, no bias
    proj_model.norm.weight, .bias [W]                               their LayerNorm
    audio_processor.blocks.{i}.cross_attn.processor.k_proj.weight [D, W], and v_proj, of every block

Its blocks add A(q, sound) to A(q, text) + A(q, image) before the output layer, each latent frame hearing its own tokens
and the queries being the text's: what `reading` does, with keys that are not normed. Its pass without sound adds
nothing, which is a null of zeros here. At the ends of a clip it masks places where there is no sound; here windows
repeat the last sound instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..core.checkpoint import fill, read_tensors
from ..core.errors import UserError
from .adapters import Adapters, AdapterSize

ENCODER = "wav2vec2"
OUTSIDE = {
    "proj_model.proj.weight": "audio.proj.weight",
    "proj_model.norm.weight": "audio.norm.weight",
    "proj_model.norm.bias": "audio.norm.bias",
}
IN_BLOCK = {"k_proj": "to_k", "v_proj": "to_v"}
_BLOCK = re.compile(r"audio_processor\.blocks\.(\d+)\.cross_attn\.processor\.(\w+)\.weight")


def is_fantasy_talking(keys: Mapping[str, object] | set[str]) -> bool:
    """Whether names are those of this layout."""
    return "proj_model.proj.weight" in keys and any(_BLOCK.fullmatch(key) for key in keys)


def ours(key: str) -> str | None:
    """A name of the checkpoint -> ours; None for one that is no part of it."""
    if key in OUTSIDE:
        return OUTSIDE[key]
    found = _BLOCK.fullmatch(key)
    if found is None or found[2] not in IN_BLOCK:
        return None
    return f"blocks.{found[1]}.audio.{IN_BLOCK[found[2]]}.weight"


def from_fantasy_talking(tensors: Mapping[str, Tensor], where: str = "checkpoint") -> Adapters:
    """Adapters with these weights, in their type. UserError naming what is missing, unexpected, or of a wrong shape."""
    if not is_fantasy_talking(tensors):
        raise UserError("holds no adapters in FantasyTalking's layout", where, "see vdistill/avatar/fantasy_talking.py")
    named = {key: ours(key) for key in tensors}
    if unknown := sorted(key for key, name in named.items() if name is None):
        raise UserError(f"{len(unknown)} unexpected {unknown[:3]}", where)
    layers = len({found[1] for key in tensors if (found := _BLOCK.fullmatch(key))})
    width, features = tensors["proj_model.proj.weight"].shape
    dim = next(len(value) for key, value in tensors.items() if _BLOCK.fullmatch(key))
    size = AdapterSize(
        dim, layers, channels=0, features=features, slots=0, width=width, projector="linear", ref=False, near=False,
        key_norm=False, encoder=ENCODER,
    )  # fmt: skip
    made = Adapters(size).to(tensors["proj_model.proj.weight"].dtype)
    born = {name: made.state_dict()[name] for name in ("audio.null", "audio.listening")}  # zeros
    fill(made, {**born, **{str(name): tensors[key] for key, name in named.items()}}, where)
    return made


def read_fantasy_talking(path: Path) -> Adapters:
    """Adapters of a .safetensors file. UserError for a missing, pickled, damaged or different one."""
    return from_fantasy_talking(read_tensors(path), str(path))
