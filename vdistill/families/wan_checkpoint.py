"""A public Wan checkpoint on disk: which tensors it holds by diffusers name, and writing them as stock weights.

Only headers are read until weights are written, and then one file's worth of tensors at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.checkpoint import io_error
from ..core.errors import UserError
from .wan_keys import Layout, bare, groups, layout, lora_key, to_diffusers, to_original
from .wan_weights import Shape, linear, lora_module, matrices

WEIGHTS = "diffusion_pytorch_model"
LORA_FILE = "pytorch_lora_weights.safetensors"
SHARD = 5 * 10**9  # bytes of one weights file, and about what is held in memory
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
PICKLES = (b"PK\x03\x04", b"\x80")  # how pickled checkpoints begin, new and old


@dataclass(frozen=True)
class Checkpoint:
    """where: diffusers name -> name in the file; said: diffusers name -> the same without wrappers; shapes: of every
    diffusers name; unknown: names, without wrappers, that are nothing of Wan's; group: the sub-dictionary.

    Diffusers names of a LoRA are those of `lora_fits`.
    """

    path: Path
    group: str
    layout: Layout
    where: Mapping[str, str]
    said: Mapping[str, str]
    shapes: Mapping[str, Shape]
    unknown: tuple[str, ...]
    dtype: torch.dtype


def read_names(path: Path, group: str | None = None) -> Checkpoint:
    """Read a file's header. group: which sub-dictionary; needed if it holds several. UserError, one line, otherwise."""
    with open_tensors(path) as handle:
        keys = list(handle.keys())
        group = choose_group(keys, group, path)
        inside = {key: name for key in keys if (name := bare(key, group)) is not None}
        kind = layout(inside.values())
        if kind is None:
            raise UserError(f"holds no Wan transformer and no LoRA of one: {', '.join(keys[:3])}", str(path))
        named = {key: _diffusers_name(name, kind) for key, name in inside.items()}
        where: dict[str, str] = {}
        for key, name in named.items():
            if name is not None and where.setdefault(name, key) != key:
                raise UserError(f"{where[name]} and {key} are one weight, {name}", str(path), "choose with --keys")
        slices = {name: handle.get_slice(key) for name, key in where.items()}
        shapes = {name: tuple(value.get_shape()) for name, value in slices.items()}
        dtypes = {name: value.get_dtype() for name, value in slices.items()}
    return Checkpoint(
        path, group, kind, where,
        {name: inside[key] for name, key in where.items()}, shapes,
        tuple(sorted(inside[key] for key, name in named.items() if name is None)),
        _common(dtypes, path),
    )  # fmt: skip


def open_tensors(path: Path) -> Any:
    """A safetensors file, opened; nothing is loaded. UserError for a missing, pickled or damaged one."""
    if not path.is_file():
        hint = "name the .safetensors file in it" if path.is_dir() else ""
        raise UserError("no such file", str(path), hint)
    with path.open("rb") as file:
        start = file.read(9)
    if path.suffix in PICKLED or (start.startswith(PICKLES) and start[8:] != b"{"):  # safetensors: length, then JSON
        run = f"python tools/unpickle.py {path} {path.with_suffix('.safetensors').name}"
        raise UserError("is pickled, which can run code; only safetensors are read", str(path), f"first run: {run}")
    try:
        return safe_open(path, "pt")
    except Exception as error:  # SafetensorError, or an OSError for an empty file
        raise UserError(f"not a whole safetensors file ({error})", str(path), "copy it again") from error


def choose_group(keys: list[str], asked: str | None, path: Path) -> str:
    """The sub-dictionary to read. UserError naming them if there are several, or not the one asked for."""
    held = groups(keys)
    if asked is not None:
        if asked not in held:
            raise UserError(f"holds no Wan weights under {asked!r}", str(path), f"it has {', '.join(held) or 'none'}")
        return asked
    if len(held) > 1 and "" not in held:
        raise UserError(f"holds {', '.join(held)}", str(path), f"say which: --keys {held[-1]}")
    return "" if "" in held or not held else held[0]


def _diffusers_name(name: str, kind: Layout) -> str | None:
    if kind == "lora":
        found = lora_key(name, "x")
        return found and found.removeprefix("x.")
    if kind == "original":
        return to_diffusers(name)
    return name if to_original(name) else None


def _common(dtypes: Mapping[str, str], path: Path) -> torch.dtype:
    """The first floating-point type that is stored. UserError for one that is not plain."""
    for name, kind in dtypes.items():
        if kind not in FLOATS and not name.endswith(".alpha"):
            raise UserError(f"{name} is stored as {kind}, expected {', '.join(FLOATS)}", str(path))
    return next((FLOATS[kind] for kind in dtypes.values() if kind in FLOATS), torch.float32)


def write_transformer(
    found: Checkpoint, wanted: Mapping[str, Shape], base: Path, out: Path, dtype: str | None = None
) -> None:
    """All `wanted` weights in files of stock names, beside the base's config; those the file lacks are the base's.

    dtype: a name of torch's; as in the file when left out. UserError for values that are not finite.
    """
    out.mkdir(parents=True)
    config = {k: v for k, v in json.loads((base / "config.json").read_text()).items() if k != "_name_or_path"}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    cast = None if dtype is None else getattr(torch, dtype)
    shards = list(_shards(wanted, (cast or found.dtype).itemsize))
    with ExitStack() as stack:
        take = _reader(found, wanted.keys() - found.where.keys(), base, stack, cast)
        total = 0
        placed: dict[str, str] = {}
        for i, names in enumerate(shards):
            file = f"{WEIGHTS}-{i + 1:05d}-of-{len(shards):05d}.safetensors" if shards[1:] else f"{WEIGHTS}.safetensors"
            tensors = {name: take(name) for name in names}
            _save(tensors, out / file)
            total += sum(t.nbytes for t in tensors.values())
            placed |= dict.fromkeys(names, file)
    if shards[1:]:
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (out / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


@torch.no_grad()
def fill_transformer(found: Checkpoint, transformer: nn.Module) -> None:
    """Put the weights of a checkpoint into a stock transformer that is open; those it lacks stay."""
    with ExitStack() as stack:
        take = _reader(found, set(), found.path.parent, stack)
        for name, value in transformer.state_dict().items():
            if name in found.where:
                value.copy_(take(name))


def write_lora(found: Checkpoint, wanted: Mapping[str, Shape], out: Path, part: str, alpha: float | None = None,
               dtype: str | None = None) -> None:  # fmt: skip
    """The file stock pipelines load, the scale alpha / rank inside B. alpha: where the file has none; else the rank.

    Modules that the base (`wanted`) does not have, and those without both matrices, are left out; UserError if none is
    left. Where one module has a bias, all get one, of zeros: loaders ask for all or none.
    """
    given = {lora_module(name) for name in found.where} & linear(wanted).keys()
    modules = sorted(module for module in given if {*matrices(module)[:2]} <= found.where.keys())
    if not modules:
        raise UserError("changes no module of the base", str(found.path))
    biased = any(matrices(module)[2] in found.where for module in modules)
    cast = None if dtype is None else getattr(torch, dtype)
    tensors: dict[str, Tensor] = {}
    with ExitStack() as stack:
        take = _reader(found, set(), out, stack)
        for module in modules:
            down, up, bias = matrices(module)
            a, b = take(down), take(up)
            own = f"{module}.alpha"
            scale = (float(take(own)) if own in found.where else alpha or len(a)) / len(a)
            pairs = {down: a, up: b if scale == 1 else (b.float() * scale).to(b.dtype)}
            if biased:
                pairs[bias] = take(bias) if bias in found.where else torch.zeros(len(b), dtype=b.dtype)
            tensors |= {f"{part}.{name}": value.to(cast) if cast else value for name, value in pairs.items()}
    _save(tensors, out / LORA_FILE)


def _shards(wanted: Mapping[str, Shape], itemsize: int) -> Iterator[list[str]]:
    """Names in order, cut into files of at most SHARD bytes (or one tensor)."""
    names: list[str] = []
    size = 0
    for name, shape in wanted.items():
        more = math.prod(shape) * itemsize
        if names and size + more > SHARD:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _reader(found: Checkpoint, kept: Set[str], base: Path, stack: ExitStack,
            cast: torch.dtype | None = None) -> Callable[[str], Tensor]:  # fmt: skip
    """diffusers name -> its tensor, from the file or, for `kept` ones, from the base's. UserError if not finite."""
    handle = stack.enter_context(open_tensors(found.path))
    old: dict[str, Any] = {}
    for path in sorted(base.glob("*.safetensors")) if kept else ():
        theirs = stack.enter_context(open_tensors(path))
        old |= dict.fromkeys(kept & {*theirs.keys()}, theirs)

    def take(name: str) -> Tensor:
        if name in found.where:
            value = handle.get_tensor(found.where[name])
        elif name in old:
            value = old[name].get_tensor(name).to(found.dtype)
        else:
            raise UserError(f"has no {name} either", str(base), "it cannot be taken from the base")
        value = value if cast is None else value.to(cast)
        if not torch.isfinite(value).all():
            raise UserError(f"{found.said.get(name, name)} holds values that are not finite", str(found.path))
        return value

    return take


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        raise io_error(error, path) from error
