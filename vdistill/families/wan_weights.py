"""Do weights by name and shape fit a Wan transformer: what is missing, unexpected or of another shape."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel

from ..core.errors import UserError

Shape = tuple[int, ...]
KIND = "WanTransformer3DModel"


def transformer_shapes(folder: Path) -> dict[str, Shape]:
    """Every weight of the transformer that a folder's config.json describes -> its shape. UserError if it is no Wan."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError("no such file", str(path), "--base takes a whole Wan pipeline folder")
    try:
        config = json.loads(path.read_text())
        if config["_class_name"] != KIND:
            raise UserError(f"describes a {config['_class_name']}, expected a {KIND}", str(path))
        with torch.device("meta"):
            model = WanTransformer3DModel.from_config(config)
    except UserError:
        raise
    except Exception as error:  # whatever the class makes of bad values
        raise UserError(f"does not describe a {KIND} ({str(error)[:200]})", str(path)) from error
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@dataclass(frozen=True)
class Fit:
    """missing, unexpected: names that are not allowed; shapes: sentences; let_go, kept: allowed names, of the file and
    of the base."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]
    let_go: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        def some(names: Collection[str], what: str) -> str:
            return f"{len(names)} {what}" + (
                f" ({', '.join([*names][:3])}{', ...' * (len(names) > 3)})" if names else ""
            )

        found = [some(self.missing, "missing"), some(self.unexpected, "unexpected")]
        return ", ".join(found + ([some(self.shapes, "of another shape")] if self.shapes else []))

    @property
    def whole(self) -> bool:
        """Nothing stands against it."""
        return not (self.missing or self.unexpected or self.shapes)


def fits(found: Mapping[str, Shape], said: Mapping[str, str], wanted: Mapping[str, Shape], unknown: Collection[str],
         allow: Collection[str]) -> Fit:  # fmt: skip
    """Compare a checkpoint's weights, by diffusers name, with a transformer's.

    said: diffusers name -> the file's; unknown: names in the file without one; allow: prefixes, * matches anything.
    """
    missing = sorted(wanted.keys() - found.keys())
    strange = [*unknown, *(said[name] for name in found.keys() - wanted.keys())]
    shapes = [
        f"{name} {found[name]}, the base has {wanted[name]}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    return _judged(missing, strange, shapes, allow)


def lora_fits(found: Mapping[str, Shape], said: Mapping[str, str], wanted: Mapping[str, Shape],
              unknown: Collection[str], allow: Collection[str]) -> Fit:  # fmt: skip
    """The same for a LoRA: `<module>.lora_A.weight` [r, in], `<module>.lora_B.weight` [out, r], and perhaps
    `<module>.lora_B.bias` [out] and `<module>.alpha`."""
    modules = linear(wanted)
    strange, missing, shapes = [*unknown], [], []
    for module in sorted({lora_module(name) for name in found}):
        a, b, bias = matrices(module)
        if module not in modules or not {a, b} & found.keys():
            strange += [said[name] for name in (a, b, bias, f"{module}.alpha") if name in found]
        elif not {a, b} <= found.keys():
            missing += [name for name in (a, b) if name not in found]
        else:
            (rows, columns), rank = modules[module], found[b][-1]
            shapes += [
                f"{name} {found[name]}, the base has {shape}"
                for name, shape in ((a, (rank, columns)), (b, (rows, rank)), (bias, (rows,)))
                if found.get(name, shape) != shape
            ]
    return _judged(missing, strange, shapes, allow)


def linear(wanted: Mapping[str, Shape]) -> dict[str, Shape]:
    """Modules that a LoRA may change -> shapes [out, in] of their weights."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in wanted.items()
        if name.endswith(".weight") and len(shape) == 2
    }


def lora_module(name: str) -> str:
    """The module of `<module>.lora_A.weight`, `<module>.alpha` and so on."""
    return name.removesuffix(".alpha").split(".lora_")[0]


def matrices(module: str) -> tuple[str, str, str]:
    """Names of a LoRA's two matrices and of its bias, x -> B A x + b."""
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight", f"{module}.lora_B.bias"


def _judged(missing: Collection[str], strange: Collection[str], shapes: list[str], allow: Collection[str]) -> Fit:
    def allowed(name: str) -> bool:
        return any(fnmatchcase(name, f"{prefix}*") for prefix in allow)

    return Fit(
        tuple(n for n in missing if not allowed(n)),
        tuple(n for n in sorted(strange) if not allowed(n)),
        tuple(shapes),
        tuple(n for n in sorted(strange) if allowed(n)),
        tuple(n for n in missing if allowed(n)),
    )
