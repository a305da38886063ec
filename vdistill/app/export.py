"""`vdistill export RUN --to diffusers|lora OUT`: a folder that opens in stock diffusers, with the schedule inside."""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.scope import AdapterWeights
from ..families.guidance_tokens import SIZES as TOKENS
from ..families.lora_file import LORA_FILE
from ..families.stock import GUIDANCE_FILE
from .about import About, about
from .build import Built
from .card import write_card
from .causal_file import read_causal
from .models import hollow_model, model_folder, open_model

INNER = "net."  # where the transformer hangs in a Denoiser
BESIDE = "beside."  # where the network holds what acts from beside it


def run(args: argparse.Namespace) -> int:
    """Export; prints the folder. Nothing is left behind when it fails."""
    source, out = model_folder(args.run), Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("exists and is not empty", str(out), "name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        known = about(source)
        if args.to == "lora":
            export_lora(source, scratch)
        else:
            export_pipeline(source, scratch, known, args.guidance, args.dtype)
        known.write(scratch)
        if (causal := read_causal(source)) is not None:
            causal.write(scratch)
        write_card(scratch, Path(args.run), known, lora=args.to == "lora")
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(out)
    print(f"see {out / 'README.md'} for how to run it", file=sys.stderr)
    if (out / TOKENS).is_file():
        print("its scales are told by tokens, which only vdistill reads: use vdistill sample", file=sys.stderr)
    return 0


def export_pipeline(source: Path, out: Path, known: About, scale: float | None, dtype: str) -> None:
    """All weights, as a stock pipeline. scale: fixes a guidance input for good."""
    family = open_model(source)
    net = family.net
    takes_scale = family.network_of().scale_is_ours
    if scale is not None and not takes_scale:
        raise UserError("this model does not take the guidance scale as an input", "--guidance", "leave it out")
    if takes_scale:
        fixed = copy.deepcopy(family.network_of()).with_fixed_scale(known.guidance if scale is None else scale)
        net = family.as_net(fixed)
    if dtype != "float32":
        for part in family.encoders:
            if isinstance(module := getattr(family.pipe, part, None), nn.Module):
                module.to(getattr(torch, dtype))
        net = copy.deepcopy(net).to(getattr(torch, dtype))
    family.save(net, out, family.times)


def export_lora(source: Path, out: Path) -> None:
    """The adapter alone, and the few-step scheduler it was trained for."""
    if not (source / LORA_FILE).is_file():
        raise UserError("this model was not trained as an adapter", str(source), "use --to diffusers")
    told = (source / GUIDANCE_FILE).is_file() or (source / TOKENS).is_file()
    if told or hollow_model(source).network_of().scale_module() is not None:
        raise UserError(
            "an adapter with a guidance input does not fit into a LoRA file", str(source), "use --to diffusers"
        )
    shutil.copy(source / LORA_FILE, out / LORA_FILE)
    shutil.copytree(source / "scheduler", out / "scheduler")


def adapter_tensors(built: Built) -> dict[str, Tensor]:
    """The student's adapter under the names stock pipelines load: transformer.<layer>.lora_A.weight."""
    module: nn.Module = built.method.learners["student"]
    weights = next(m for m in module.modules() if isinstance(m, AdapterWeights))
    named = {name.removeprefix(INNER): t.contiguous() for name, t in weights.tensors().items()}
    return {name: t for name, t in named.items() if not name.startswith(BESIDE)}  # what is beside is saved merged


def open_exported(folder: Path) -> DiffusionPipeline:
    """The stock pipeline of an exported folder."""
    return open_model(folder).pipe
