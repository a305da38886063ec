"""`vdistill check`: everything wrong with a config at once; or every key there is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ..core.errors import UserError
from .config import checked, missing_paths, tree_of
from .config_faults import UNIONS
from .schema import Config, Validation
from .schema_family import FamilyAnalytic, FamilyStock
from .section import section_in


def run(args: argparse.Namespace) -> int:
    """0 when every config is right, 2 when one is not. Paths that are not there yet are said, not counted."""
    if args.schema:
        print(json.dumps(Config.model_json_schema(), indent=2))
        return 0
    if args.keys:
        print("\n".join(key_lines()))
        return 0
    configs = [c for c in args.configs if "=" not in c or Path(c).exists()]
    overrides = [*args.set, *(c for c in args.configs if c not in configs)]
    if not configs:
        raise UserError("name one config or more, or say --keys or --schema", "check")
    return max([check(Path(config), overrides) for config in configs])


def check(path: Path, overrides: list[str]) -> int:
    """Print the verdict on one config; 0 or 2."""
    try:
        tree = tree_of(path, overrides)
        config = checked(tree, str(path))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    missing = missing_paths(config, tree)
    for fault in missing:
        print(f"note: {fault}", file=sys.stderr)
    if not any(fault.key == "family.path" for fault in missing):
        try:
            if isinstance(config.family, FamilyStock):
                look_into(config.family, config.validation, config.causal is not None)
            if getattr(config.method, "judge", None) or getattr(config.method, "gan_weight", 0):
                look_at_judge(config)
        except UserError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
    parts = ", ".join(part.name for part in (config.method, config.family, config.data, config.scope))
    print(f"{path}: ok ({parts}; {config.train.steps} steps x {config.train.batch * config.train.micro} samples)")
    return 0


def look_into(f: FamilyStock, v: Validation, causal: bool = False) -> None:
    """Open a published teacher without its weights. UserError for a folder, a scheduler, a size or a validation that
    does not fit, or a network that cannot be causal where it has to be."""
    from .build_causal import unit_of
    from .models import clip_shape, hollow_model, random_model
    from .validate import check_image

    if f.random_tiny:
        import torch

        family = random_model(f.random_tiny, f.name, 0, torch.float32, "")
    else:
        family = hollow_model(f.path or "", f.name)
    clip_shape(family, *f.clip)
    check_image(v, family)
    if causal:
        unit_of(family)


def look_at_judge(config: Config) -> None:
    """UserError for a judge of layers or of a text that the network of the folder does not have."""
    from .build_judge import check_judge
    from .models import hollow_model

    m: Any = config.method  # one with a judge
    f = config.family
    if not isinstance(f, FamilyAnalytic) and f.path:
        check_judge(m, hollow_model(f.path, f.name).network_of())


def key_lines() -> Iterator[str]:
    """Every key of a config with its default, meaning and unit."""
    for name, field in Config.model_fields.items():
        if name in UNIONS:
            for each, model in UNIONS[name].items():
                yield f"\n{name}: (name: {each})    {model.__doc__}"
                yield from _fields(model, f"{name}.")
        elif section := section_in(field.annotation):
            yield f"\n{name}:    {section.__doc__}"
            yield from _fields(section, f"{name}.")
        else:
            yield _line(name, field.default, field.description)


def _fields(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if section := section_in(field.annotation):
            yield f"  {prefix}{name}:    {section.__doc__}"
            yield from _fields(section, f"{prefix}{name}.")
        elif name != "name" or prefix == "optim.":
            yield _line(f"{prefix}{name}", field.default, field.description)


def _line(key: str, default: object, text: str | None) -> str:
    shown = "required" if default is PydanticUndefined else json.dumps(default)
    return f"  {key:<34} {shown:<12} {text}"
