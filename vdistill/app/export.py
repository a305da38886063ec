"""`vdistill export RUN --to diffusers|lora OUT`: a folder that opens in stock diffusers, with the schedule inside."""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from pathlib import Path

import torch
from diffusers import WanPipeline
from torch import Tensor, nn

from ..core.denoiser import Net
from ..core.errors import UserError
from ..core.scope import AdapterWeights
from ..families.tiny import GUIDANCE_FILE, TinyFamily
from ..families.wan_net import WanNet
from .about import About, about
from .build import Built
from .card import write_card
from .models import model_folder, open_model

LORA_FILE = "pytorch_lora_weights.safetensors"
INNER = "net."  # where the transformer hangs in a Denoiser


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
        write_card(scratch, Path(args.run), known, lora=args.to == "lora")
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(out)
    print(f"see {out / 'README.md'} for how to run it", file=sys.stderr)
    return 0


def export_pipeline(source: Path, out: Path, known: About, scale: float | None, dtype: str) -> None:
    """All weights, as a stock pipeline. scale: fixes a guidance input for good."""
    family = open_model(source)
    net = family.net
    takes_scale = isinstance(net.net, WanNet) and net.net.guidance is not None
    if scale is not None and not takes_scale:
        raise UserError("this model does not take the guidance scale as an input", "--guidance", "leave it out")
    if takes_scale:
        net = with_fixed_scale(net, known.guidance if scale is None else scale)
    if dtype != "float32":
        family.pipe.text_encoder.to(getattr(torch, dtype))
        net = copy.deepcopy(net).to(getattr(torch, dtype))
    family.save(net, out, family.times)


def with_fixed_scale(net: Net, scale: float) -> Net:
    """A plain network that answers as this one does at one guidance scale.

    The embedding adds one vector d to every text token; the first layer of the text projection is linear, so adding
    W d to its bias is the same.
    """
    inner = copy.deepcopy(net.net)
    assert isinstance(inner, WanNet) and inner.guidance is not None
    first = inner.transformer.condition_embedder.text_embedder.linear_1
    with torch.no_grad():
        shift = inner.guidance(torch.tensor([scale]))[0, 0]
        first.bias += first.weight @ shift
    return Net(WanNet(inner.transformer), net.schedule, net.predicts)


def export_lora(source: Path, out: Path) -> None:
    """The adapter alone, and the few-step scheduler it was trained for."""
    if not (source / LORA_FILE).is_file():
        raise UserError("this model was not trained as an adapter", str(source), "use --to diffusers")
    if (source / GUIDANCE_FILE).is_file():
        raise UserError(
            "an adapter with a guidance input does not fit into a LoRA file", str(source), "use --to diffusers"
        )
    shutil.copy(source / LORA_FILE, out / LORA_FILE)
    shutil.copytree(source / "scheduler", out / "scheduler")


def adapter_tensors(built: Built) -> dict[str, Tensor]:
    """The student's adapter under the names stock pipelines load: transformer.<layer>.lora_A.weight."""
    module: nn.Module = built.method.learners["student"]
    weights = next(m for m in module.modules() if isinstance(m, AdapterWeights))
    return {name.removeprefix(INNER): t.contiguous() for name, t in weights.tensors().items()}


def open_exported(folder: Path) -> WanPipeline:
    """The stock pipeline of an exported folder."""
    family: TinyFamily = open_model(folder)
    return family.pipe
