"""A public audio-driven Wan checkpoint -> the base it was made for, with its adapters beside."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..avatar.adapters import Adapters
from ..avatar.fantasy_talking import is_fantasy_talking, read_fantasy_talking
from ..core.errors import UserError
from ..families.wan_checkpoint import open_tensors
from .models import hollow_model


def holds_adapters(path: Path) -> bool:
    """Whether a file holds adapters for sound alone. UserError for one that is no whole safetensors file."""
    with open_tensors(path) as handle:
        return is_fantasy_talking(set(handle.keys()))


def convert_adapters(path: Path, base: Path, out: Path) -> Adapters:
    """The base's folder copied to `out`, with the adapters of a file. UserError where they do not fit it."""
    made = read_fantasy_talking(path)
    layers = hollow_model(base).network_of().readers()
    if not layers:
        raise UserError("holds no network that reads its text apart", str(base), "name a Wan pipeline")
    wanted = (int(layers[0].to_q.out_features), len(layers))
    if wanted != (made.size.dim, made.size.layers):
        has = f"{made.size.layers} blocks of width {made.size.dim}"
        raise UserError(f"is for {has}, the base has {wanted[1]} of width {wanted[0]}", str(path))
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.absolute().with_name(f".{out.absolute().name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        shutil.copytree(base, scratch)
        made.write(scratch)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return made
