"""Opening a diffusers folder: everything that can be wrong with it is one line, before any long work starts."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from ..core.errors import UserError

INDEX = "model_index.json"


def quiet() -> None:
    """No progress bars and no chatter of the libraries."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def pipeline_class(folder: Path) -> str:
    """The pipeline class a folder names. UserError for a folder without a readable index."""
    index = folder / INDEX
    if not index.is_file():
        raise UserError(f"not a diffusers pipeline folder: no {INDEX}", str(folder))
    try:
        return str(json.loads(index.read_text())["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"is no index of a pipeline ({error})", str(index), "copy the folder again") from error


def call_defaults(stock: type[Any] | str) -> dict[str, Any]:
    """What a pipeline class (or its name) takes when it is called: argument -> default."""
    kind = getattr(import_module("diffusers"), stock) if isinstance(stock, str) else stock
    return {name: p.default for name, p in inspect.signature(kind.__call__).parameters.items() if name != "self"}


def open_pipeline(folder: Path, classes: Sequence[str], family: str, dtype: torch.dtype) -> Any:
    """The stock pipeline of a folder, every part in `dtype`. UserError, one line, for what does not open whole."""
    kind = pipeline_class(folder)
    if kind not in classes:
        raise UserError(f"wrong family: holds a {kind}, {family} opens {', '.join(classes)}", str(folder))
    check_parts(folder)
    check_weights(folder)
    quiet()
    stock = getattr(import_module("diffusers"), kind)
    try:
        absent = {k: None for k, v in json.loads((folder / INDEX).read_text()).items() if v == [None, None]}
        pipe = stock.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=dtype, **absent)
    except Exception as error:  # the library raises many kinds; each means the folder is not a whole pipeline
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"does not open as a {kind} ({first[:200]})", str(folder)) from error
    check_filled(pipe, folder)
    return pipe


def check_parts(folder: Path) -> None:
    """UserError naming a part that the index lists and the folder lacks, or that is pickled."""
    listed = {k: v for k, v in json.loads((folder / INDEX).read_text()).items() if isinstance(v, list) and v[0]}
    for part in sorted(listed):
        place = folder / part
        if not place.is_dir():
            raise UserError(f"has no subfolder {part}/, which its {INDEX} lists", str(folder), "copy the folder again")
        if [*place.glob("*.bin"), *place.glob("*.pt")] and not [*place.glob("*.safetensors")]:
            raise UserError("holds pickled .bin weights; only safetensors are read", str(place), "convert it first")


def check_weights(folder: Path) -> None:
    """UserError naming the first safetensors file that is not whole, or a part that mixes floating-point types."""
    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, "pt") as handle:
                kinds = Counter(handle.get_slice(name).get_dtype() for name in handle.keys())  # noqa: SIM118
        except Exception as error:  # SafetensorError, or an OSError for an empty file
            raise UserError(f"not a whole safetensors file ({error})", str(path), "copy it again") from error
        halves = [kind for kind in kinds if kind in ("F16", "BF16")]
        if len(halves) > 1:  # float32 beside one half type is how diffusers keeps sensitive layers
            found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            raise UserError(f"mixed dtypes: {found}", str(path), "save it again in one dtype")


def check_filled(pipe: Any, folder: Path) -> None:
    """UserError for a part whose weights were not all in its files."""
    for part, module in pipe.components.items():
        if isinstance(module, nn.Module):
            missing = [name for name, value in module.named_parameters() if value.is_meta]
            if missing:
                what = f"weights do not fit: {len(missing)} missing {missing[:3]}"
                raise UserError(what, str(folder / part), "copy the folder again")
