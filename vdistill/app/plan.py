"""`vdistill plan`: what a run would hold and compute, and how long it would take, before anything is loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..families.hollow import folder_pipe, published_pipe, text_tokens
from ..families.opening import INDEX
from ..families.published import PUBLISHED, published, shape_of_folder
from ..families.stock import StockFamily
from .build_avatar import opened_adapters, with_adapters
from .build_family import make_family
from .catalog import FAMILIES, PIPELINES, find
from .config import load
from .plan_flops import Gpu, gpu_named
from .plan_memory import Opened, Simulated
from .plan_step import simulate
from .schema import Config
from .schema_family import FamilyAnalytic, FamilyStock
from .texts import parts_of, text_folders

GIB = 1 << 30


def run(args: argparse.Namespace) -> int:
    """Print the plan. 0 whether it fits or not. UserError for a config, a shape or a GPU that is not known."""
    config, gpu = load(args.config, args.set), gpu_named(args.gpu)
    if args.gpus < 1:
        raise UserError(f"must be at least 1, found {args.gpus}", "--gpus")
    if not 0 < args.mfu <= 1:
        raise UserError(f"must be in (0, 1], found {args.mfu:g}", "--mfu")
    planned = Planned(args.shape, args.gpus)
    found = planned(config)
    other = planned(recomputing(config)) if found.can_recompute else None
    told = report(config, found, other, gpu, args)
    if not told["fits"]:
        told["changes"] = [*changes(config, planned, gpu)]
    print(json.dumps(told, indent=2) if args.json else "\n".join(lines(told)))
    return 0


class Planned:
    """Steps of configs, each acted out once."""

    def __init__(self, shape: str | None, gpus: int) -> None:
        self.shape, self.gpus = shape, gpus
        self.known: dict[str, Simulated] = {}

    def __call__(self, config: Config) -> Simulated:
        key = config.model_dump_json()
        if key not in self.known:
            self.known[key] = simulate(config, opened(config, self.shape), gpus=self.gpus)
        return self.known[key]


# -- the model ------------------------------------------------------------------------------------------------------


def opened(config: Config, shape: str | None = None) -> Opened:
    """The family of a config without its weights, from its folder's configs, from the table of published teachers, or
    a small one as it is. UserError for one that none of them knows."""
    f, released = config.family, len(text_folders(config)) == len(parts_of(config))
    if isinstance(f, FamilyAnalytic):
        raise UserError("the analytic family makes points, there is nothing to plan", "family.name")
    if not isinstance(f, FamilyStock) or f.random_tiny:
        family = make_family(config, texts=False)
        released = released and family.folder is not None  # type: ignore[union-attr]
        return Opened(family, text_tokens(family), None, released)  # type: ignore[arg-type]
    folder, dtype = Path(f.path or ""), getattr(torch, f.dtype)
    if shape is None and (folder / INDEX).is_file():
        pipe = folder_pipe(folder)
        family = find(FAMILIES, checked(type(pipe).__name__, f.name))(pipe)
        return Opened(hearing(family, config, folder), text_tokens(family), dtype, released)
    name = shape or shape_of_folder(folder)
    if name is None:
        own = ", ".join(short for short, p in PUBLISHED.items() if p.family == f.name)
        raise UserError(f"nothing at {f.path!r}", "family.path", f"name a published teacher with --shape: {own}")
    p = published(name)
    pipe = published_pipe(p)
    family = find(FAMILIES, checked(type(pipe).__name__, f.name))(pipe)
    return Opened(hearing(family, config, folder), p.length, dtype, released)


def hearing(family: StockFamily, config: Config, folder: Path) -> StockFamily:
    """The family with the adapters of its folder, or new ones that the config asks for."""
    assert isinstance(config.family, FamilyStock)
    with torch.device("meta"):
        return with_adapters(opened_adapters(family, folder), config.family.adapters)


def checked(pipeline: str, family: str) -> str:
    """The family that opens a pipeline. UserError when it is not the config's."""
    known = PIPELINES.get(pipeline, "not known")
    if known != family:
        raise UserError(f"wrong family: a {pipeline} is {known}, not {family}", "family.name")
    return known


# -- other ways to train it ---------------------------------------------------------------------------------------


def altered(config: Config, **sections: dict[str, Any]) -> Config:
    """The config with some keys of its sections changed. ValueError for what does not fit together."""
    plain = json.loads(config.model_dump_json())
    for name, keys in sections.items():
        plain[name] = keys if "name" in keys else {**plain[name], **keys}
    return Config.model_validate(plain)


def recomputing(config: Config) -> Config:
    """The config with gradient checkpointing the other way."""
    return altered(config, train={"gradient_checkpointing": not config.train.gradient_checkpointing})


def steps_down(config: Config) -> Iterator[tuple[str, Config]]:
    """Ways to need less memory, each on top of those before."""
    train, stock = config.train, isinstance(config.family, FamilyStock)
    tries: list[tuple[str, dict[str, dict[str, Any]]]] = []
    if not train.gradient_checkpointing:
        tries.append(("train.gradient_checkpointing=true", {"train": {"gradient_checkpointing": True}}))
    if train.precision == "no":
        tries.append(("train.precision=bf16", {"train": {"precision": "bf16"}}))
    if stock and config.family.dtype == "float32":  # type: ignore[union-attr]
        tries.append(("family.dtype=bfloat16", {"family": {"dtype": "bfloat16"}}))
    if train.guidance_batch is None and train.batch > 1:
        tries.append(("train.guidance_batch=1", {"train": {"guidance_batch": 1}}))
    if train.batch > 1:
        less = {"batch": 1, "micro": train.batch * train.micro}
        tries.append((f"train.batch=1 train.micro={less['micro']}", {"train": less}))
    if config.scope.name == "full":
        tries.append(("scope.name=lora", {"scope": {"name": "lora"}}))
    if stock and not config.family.fp8:  # type: ignore[union-attr]
        tries.append(("family.fp8=true", {"family": {"fp8": True}}))
    if stock and config.family.offload == "none":  # type: ignore[union-attr]
        tries.append(("family.offload=block", {"family": {"offload": "block"}}))
    for name, sections in tries:
        config = altered(config, **sections)
        yield name, config


def changes(config: Config, planned: Planned, gpu: Gpu) -> Iterator[dict[str, Any]]:
    """Each change and the memory it leads to, up to the first that fits."""
    for name, changed in steps_down(config):
        peak = planned(changed).peak
        yield {"set": name, "peak": peak, "fits": peak <= gpu.room}
        if peak <= gpu.room:
            return


# -- what is told -----------------------------------------------------------------------------------------------------


def report(
    config: Config, found: Simulated, other: Simulated | None, gpu: Gpu, args: argparse.Namespace
) -> dict[str, Any]:
    """Everything as plain data; bytes, operations, seconds."""
    train = config.train
    seconds = gpu.seconds(found.flops, args.mfu)
    on = found if train.gradient_checkpointing else other
    off = other if train.gradient_checkpointing else found
    return {
        "name": config.name,
        "parameters": dict(found.parts),
        "memory": dict(found.memory),
        "resident": found.resident,
        "working": {name: update.working for name, update in found.updates.items()},
        "between": dict(found.between),
        "peak": found.peak,
        "peak_with_gradient_checkpointing": on.peak if on else None,
        "peak_without_gradient_checkpointing": off.peak if off else None,
        "updates": {
            name: {
                "per_step": update.often,
                "flops": update.flops.total(),
                "passes": {
                    role: {"samples": p.samples, "flops": p.flops.total(), "working": p.working}
                    for role, p in update.passes.items()
                },
            }
            for name, update in found.updates.items()
        },
        "flops": {str(kind).removeprefix("torch."): count for kind, count in found.flops.items()},
        "samples": train.batch * train.micro * args.gpus,
        "gpu": args.gpu,
        "gpus": args.gpus,
        "room": gpu.room,
        "fits": found.peak <= gpu.room,
        "mfu": args.mfu,
        "seconds": seconds,
        "steps": train.steps,
        "hours": seconds * train.steps / 3600,
    }


def lines(told: dict[str, Any]) -> Iterator[str]:
    """The report in words."""
    yield f"{told['name']}: parameters"
    for name, count in told["parameters"].items():
        yield f"  {name:<28} {count / 1e6:12.2f} million"
    yield "memory on each GPU"
    for name, size in told["memory"].items():
        yield f"  {name:<28} {gib(size)}"
    for name, size in told["working"].items():
        yield f"  {f'working, update of {name}':<28} {gib(size)}"
    for name, size in told["between"].items():
        yield f"  {f'working, {name}':<28} {gib(size)}"
    yield f"  {'most at once':<28} {gib(told['peak'])}"
    for how in ("with", "without"):
        if (peak := told[f"peak_{how}_gradient_checkpointing"]) is not None:
            yield f"  {f'{how} checkpointing':<28} {gib(peak)}"
    yield f"work of a step, {told['samples']} samples"
    for name, update in told["updates"].items():
        yield f"  update of {name}, {update['per_step']:.2g} a step: {update['flops'] / 1e12:.4g} TFLOP on each GPU"
        for role, p in update["passes"].items():
            often = f"{p['samples']:g} samples forward"
            yield f"    {role:<20} {often:<24} {p['flops'] / 1e12:10.4g} TFLOP, {gib(p['working']).strip()} at once"
    pace = f"{told['gpus']} x {told['gpu']} at {100 * told['mfu']:.0f} % of its peak"
    yield f"{pace}: {told['seconds']:.3g} s a step, {told['hours']:.3g} h for {told['steps']} steps"
    yield from verdict(told)


def verdict(told: dict[str, Any]) -> Iterator[str]:
    """Whether it fits, and what to change if not."""
    room = f"{gib(told['room']).strip()} of {told['gpu']} that can be filled"
    if told["fits"]:
        yield f"fits: {gib(told['peak']).strip()} in {room}"
        return
    yield f"does not fit: {gib(told['peak']).strip()} in {room}"
    encoders = sum(v for k, v in told["memory"].items() if k.startswith("weights: text_encoder"))
    if encoders:
        yield f"  text encoders, {gib(encoders).strip()}, leave memory where data has vdistill prepare --text"
    for change in told["changes"]:
        word = "fits" if change["fits"] else "still too much"
        yield f"  and --set {change['set']:<36} {gib(change['peak'])}  {word}"
    if not any(change["fits"] for change in told["changes"]):
        yield "  nothing here makes it fit; take a larger GPU, shorter clips or a smaller picture"


def gib(size: float) -> str:
    """Bytes in a unit that fits them."""
    return f"{size / GIB:9.2f} GiB" if abs(size) >= GIB / 10 else f"{size / (1 << 20):9.2f} MiB"
