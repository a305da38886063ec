"""A pipeline folder opened without its weights: enough to know its sizes, and to find what is wrong with it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from .opening import INDEX, check_parts, check_weights, pipeline_class, quiet

ENCODERS = ("text_encoder", "image_encoder", "safety_checker")  # beginnings of the names of parts that are left out


def skeleton(folder: Path) -> Any:
    """The stock pipeline with networks on the meta device, its VAE with random weights, and no encoders.

    UserError, one line, for a folder that lacks parts or whose files are damaged.
    """
    quiet()
    kind = pipeline_class(folder)
    check_parts(folder)
    check_weights(folder)
    index = json.loads((folder / INDEX).read_text())
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2:
            parts[name] = None if value[0] is None or name.startswith(ENCODERS) else part(folder / name, *value)
    options = {k: v for k, v in index.items() if not k.startswith("_") and not isinstance(v, list)}
    try:
        return getattr(import_module("diffusers"), kind)(**parts, **options)
    except Exception as error:  # constructors raise many kinds; each means that parts do not belong together
        raise UserError(f"its parts make no {kind} ({str(error)[:160]})", str(folder)) from error


def part(place: Path, library: str, name: str) -> Any:
    """One part by its class: networks on the meta device, everything else as it is saved, without its weights."""
    try:
        module = import_module(library if "." in library or library in ("diffusers", "transformers") else "diffusers")
        stock = getattr(module, name)
        if hasattr(stock, "from_config") and hasattr(stock, "load_config") and issubclass(stock, torch.nn.Module):
            with torch.device("cpu" if place.name == "vae" else "meta"):
                return stock.from_config(stock.load_config(place))
        return stock.from_pretrained(place, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # the libraries raise many kinds; each means that the part does not open
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"does not open as a {name} ({first[:160]})", str(place)) from error
