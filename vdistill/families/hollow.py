"""Stock pipelines with shapes but no numbers: what is planned with, however large, in no memory at all.

A hollow module answers as the real one does, with tensors that know shape, type and place in memory only.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..core.errors import UserError
from .opening import INDEX, pipeline_class, quiet
from .published import Published
from .random_tiny import random_tiny
from .skeleton import ENCODERS, part
from .stock import StockFamily

Shapes = Mapping[str, tuple[int, ...]]
WHOLE = "text.mask", "text.glyph_mask", "label"  # conditions of whole numbers
VISION_TOKENS = 257  # of the image encoder of Wan 2.1
GLYPHS = 256  # tokens of HunyuanVideo 1.5 for text in quotes


@contextmanager
def hollow() -> Iterator[None]:
    """Inside, new tensors hold nothing. What was remembered meanwhile (function caches) is forgotten at the end."""
    apply = nn.Module._apply
    nn.Module._apply = _changed  # type: ignore[method-assign,assignment]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]
        for name, module in list(sys.modules.items()):
            if name.startswith("vdistill."):
                for kept in list(vars(module).values()):
                    clear = getattr(kept, "cache_clear", None)
                    if callable(clear):
                        clear()


def _changed(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """In place of PyTorch's own, which would swap a hollow weight with its changed self and cannot."""
    for each in module.modules() if recurse else [module]:
        for held in (each._parameters, each._buffers):
            for name, value in held.items():
                if value is not None:
                    with torch.no_grad():
                        new = change(value)
                    kept = isinstance(value, nn.Parameter) and new is not value
                    held[name] = nn.Parameter(new, value.requires_grad) if kept else new  # type: ignore[assignment]
    return module


def weightless(family: StockFamily, dtype: torch.dtype | None = None) -> StockFamily:
    """The family with all modules of its pipeline on the meta device, in place. dtype: of them, but for layers that
    the library keeps in float32 when weights are halved."""
    for module in family.pipe.components.values():
        if isinstance(module, nn.Module):
            _replace([module], "meta", dtype, _kept(module) if dtype == torch.bfloat16 else ())
    return family


def _kept(module: nn.Module) -> Sequence[str]:
    """Names of layers that from_pretrained leaves in float32 when bfloat16 is asked for."""
    strict = "" if hasattr(module, "load_config") else "_strict"  # transformers means float16 without it
    return getattr(module, f"_keep_in_fp32_modules{strict}", None) or ()


def emptied(modules: Iterable[nn.Module]) -> None:
    """Weights of the modules hollow, in place, those they share still shared; call it inside `hollow`."""
    _replace(modules, "cpu")


def _replace(
    modules: Iterable[nn.Module], device: str, dtype: torch.dtype | None = None, keep: Sequence[str] = ()
) -> None:
    known: dict[int, Tensor] = {}

    def other(value: Tensor, words: set[str]) -> Tensor:
        if id(value) not in known:
            kind = torch.float32 if words & {*keep} else dtype
            kind = kind if kind is not None and value.is_floating_point() else value.dtype
            new = torch.empty(value.shape, dtype=kind, device=device)
            known[id(value)] = nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new
            done[id(known[id(value)])] = known[id(value)]
        return known[id(value)]

    done: dict[int, Tensor] = {}
    for module in modules:
        for place, each in module.named_modules():
            for held in (each._parameters, each._buffers):
                for name, value in held.items():
                    if value is not None and id(value) not in done:
                        held[name] = other(value, {*place.split("."), name})  # type: ignore[assignment]


def published_pipe(p: Published) -> Any:
    """The pipeline of a published teacher on the meta device; tokenizers and scheduler are those of its tiny twin."""
    quiet()
    pipe = random_tiny(p.tiny)
    parts: dict[str, Any] = {name: encoder.build() for name, encoder in p.encoders.items()}
    with torch.device("meta"):
        for name, given in {**p.networks, "vae": p.vae}.items():
            parts[name] = type(getattr(pipe, name))(**given)
    readable(parts["vae"])
    takes = inspect.signature(type(pipe).__init__).parameters
    components = {name: value for name, value in pipe.components.items() if name in takes}
    options = {k: v for k, v in pipe.config.items() if k in takes and k not in components}
    return _made(type(pipe), {**options, **components, **parts}, p.tiny)


def folder_pipe(folder: Path) -> Any:
    """The pipeline of a folder on the meta device; its configs are read, weights need not be there.

    UserError, one line, for a folder whose configs do not open.
    """
    quiet()
    stock = getattr(import_module("diffusers"), pipeline_class(folder))
    index = json.loads((folder / INDEX).read_text())
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2:
            library, kind = value
            if kind is None or name == "safety_checker":
                parts[name] = None
            elif name.startswith(ENCODERS):
                parts[name] = _encoder(folder / name, kind)
            elif name == "vae":
                parts[name] = _vae(folder / name, library, kind)
            else:
                parts[name] = part(folder / name, library, kind)
    options = {k: v for k, v in index.items() if not k.startswith("_") and not isinstance(v, list)}
    return _made(stock, {**options, **parts}, str(folder))


def readable(vae: nn.Module) -> nn.Module:
    """The VAE with ones where it keeps numbers that its codec reads."""
    for each in vae.modules():
        for name, buffer in each._buffers.items():
            if buffer is not None and buffer.is_meta:
                each._buffers[name] = torch.ones(buffer.shape, dtype=buffer.dtype)
    return vae


def _vae(place: Path, library: str, name: str) -> nn.Module:
    module = import_module(library if "." in library else "diffusers")
    try:
        stock = getattr(module, name)
        with torch.device("meta"):
            return readable(stock.from_config(stock.load_config(place)))
    except Exception as error:  # as in `_encoder`
        raise UserError(f"does not open as a {name} ({str(error)[:160]})", str(place)) from error


def _encoder(place: Path, name: str) -> nn.Module:
    """An encoder of transformers by its config.json, on the meta device."""
    library = import_module("transformers")
    try:
        config = library.AutoConfig.from_pretrained(place, local_files_only=True)
        stock = getattr(library, name)
        wanted = getattr(stock, "config_class", None)
        if wanted is not None and not isinstance(config, wanted):
            config = wanted.from_pretrained(place, local_files_only=True)
        with torch.device("meta"):
            return stock(config)  # type: ignore[no-any-return]
    except Exception as error:  # the library raises many kinds; each means that the config does not open
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"does not open as a {name} ({first[:160]})", str(place)) from error


def _made(stock: type[Any], parts: Mapping[str, Any], where: str) -> Any:
    try:
        with torch.device("meta"):
            return stock(**parts)
    except Exception as error:  # constructors raise many kinds; each means that parts do not belong together
        raise UserError(f"its parts make no {stock.__name__} ({str(error)[:160]})", where) from error


# -- conditions ------------------------------------------------------------------------------------------------------


def conditions(family: StockFamily, shape: Sequence[int], length: int) -> dict[str, tuple[int, ...]]:
    """Shape, without the batch, of each condition the network is given. shape: latents [C, T, H, W]; length: tokens."""
    config = family.network_of().model.config
    found = _text(family.name, config, length)
    more = int(config.in_channels) - int(shape[0])
    if family.name in ("wan", "tiny") and config.get("image_dim"):
        found["image"] = (VISION_TOKENS, config.image_dim)
    if family.name in ("wan", "tiny", "cogvideox") and more > 0:
        found["first"] = (more, *shape[1:])
    return found


def _text(name: str, config: Any, length: int) -> dict[str, tuple[int, ...]]:
    if name in ("wan", "tiny"):
        return {"text": (length, config.text_dim)}
    if name == "cogvideox":
        return {"text": (length, config.text_embed_dim)}
    if name == "hunyuan":
        pooled = (config.pooled_projection_dim,)
        return {"text": (length, config.text_embed_dim), "text.mask": (length,), "text.pooled": pooled}
    if name == "hunyuan15":
        own = {"text": (length, config.text_embed_dim), "text.mask": (length,)}
        return {**own, "text.glyph": (GLYPHS, config.text_embed_2_dim), "text.glyph_mask": (GLYPHS,)}
    if name in ("ltx", "pixart"):
        return {"text": (length, config.caption_channels), "text.mask": (length,)}
    if name == "sdxl":
        pooled = (config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim,)
        return {"text": (length, config.cross_attention_dim), "text.pooled": pooled}
    if name in ("sd3", "flux"):
        return {"text": (length, config.joint_attention_dim), "text.pooled": (config.pooled_projection_dim,)}
    if name == "dit":
        return {"label": ()}
    return {"text": (length, config.cross_attention_dim)}


def text_tokens(family: StockFamily) -> int:
    """Tokens of a caption that the network of an opened folder is given."""
    own = int(family.text_length or 0)
    return own + (int(family.pipe.tokenizer_max_length) if family.name == "sd3" else 0)


def empty_conditions(shapes: Shapes, batch: int) -> dict[str, Tensor]:
    """Hollow conditions [batch, *shape]; call it inside `hollow`."""
    return {
        name: torch.zeros((batch, *shape), dtype=torch.int64 if name in WHOLE else torch.float32)
        for name, shape in shapes.items()
    }
