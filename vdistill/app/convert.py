"""`vdistill convert`: a public few-step or causal Wan checkpoint -> a stock pipeline folder, its times inside."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UserError

if TYPE_CHECKING:  # the command line reads `arguments` without paying for torch
    from ..families.wan_checkpoint import Checkpoint
    from ..families.wan_presets import Preset
    from ..families.wan_weights import Fit, Shape

CAUSAL_FILE = "causal.json"
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
WAN_CLIP = (81, 480, 832)  # frames, height, width of Wan's own, for a base that states none
TIMES_NOTE = "Times: {}; no guidance. The scheduler that holds them needs the package `vdistill`."
CAUSAL_NOTE = (
    "This student was trained to make a clip block by block (causal.json says how); a stock pipeline lets every frame "
    "see every other, which is not what it learned."
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `vdistill convert`."""
    from ..families.wan_presets import PRESETS

    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", type=Path, help="a .safetensors file: all weights, or a LoRA")
    add("--base", metavar="FOLDER", type=Path, required=True, help="the Wan pipeline it was made from")
    add("--out", metavar="OUT", type=Path, required=True, help="folder to write")
    add("--preset", choices=PRESETS, help="whose times and blocks; the base's scheduler stays without it")
    add("--keys", metavar="NAME", help="which of several sub-dictionaries, such as generator_ema")
    add("--allow", metavar="KEY_PREFIX", nargs="+", action="extend", default=[],
        help="missing names that stay the base's, unexpected ones that are left out; * matches anything")  # fmt: skip
    add("--part", choices=("transformer", "transformer_2"), help="which expert, where the base has two")
    add("--alpha", metavar="A", type=float, help="of a LoRA whose file states none (default: its rank)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights on disk (default: the file's)")


def run(args: argparse.Namespace) -> int:
    """Convert; prints the folder. Nothing is left behind when it fails. UserError for what does not fit."""
    from ..families.wan_checkpoint import read_names, write_lora, write_transformer
    from ..families.wan_presets import PRESETS
    from ..families.wan_weights import transformer_shapes
    from .convert_adapters import convert_adapters, holds_adapters
    from .models import model_folder

    out, base = Path(args.out), model_folder(args.base)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("exists and is not empty", str(out), "name a new folder")
    if holds_adapters(Path(args.checkpoint)):
        convert_adapters(Path(args.checkpoint), base, out)
        print(out)
        return 0
    part = choose_part(base, args.part)
    found = read_names(Path(args.checkpoint), args.keys)
    wanted = transformer_shapes(base / part)
    fit = check(found, wanted, args)
    preset = PRESETS[args.preset] if args.preset else None
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.absolute().with_name(f".{out.absolute().name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        if found.layout == "lora":
            write_lora(found, wanted, scratch, part, args.alpha, args.dtype)
        else:
            copy_parts(base, scratch, part)
            write_transformer(found, wanted, base / part, scratch / part, args.dtype)
        write_scheduler(base, scratch, preset)
        write_notes(base, scratch, found, preset, args)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(out)
    tell(found, fit, preset)
    return 0


def choose_part(base: Path, asked: str | None) -> str:
    """The transformer that is replaced. UserError for a base that is no whole Wan pipeline, or that has two experts."""
    from ..families.opening import INDEX, check_parts, pipeline_class

    if (kind := pipeline_class(base)) not in PIPELINES:
        raise UserError(f"wrong family: holds a {kind}, expected {' or '.join(PIPELINES)}", str(base))
    check_parts(base)
    listed = json.loads((base / INDEX).read_text())
    parts = [name for name in ("transformer", "transformer_2") if (listed.get(name) or [None])[0]]
    if asked is None and len(parts) > 1:
        raise UserError("has two experts", str(base), f"say which the checkpoint is: --part {' or '.join(parts)}")
    if (part := asked or parts[0]) not in parts:
        raise UserError(f"has no {part}", str(base), f"it has {', '.join(parts)}")
    return part


def check(found: Checkpoint, wanted: Mapping[str, Shape], args: argparse.Namespace) -> Fit:
    """How the checkpoint fits the base. UserError, in one line, where it does not."""
    from ..families.wan_keys import EXTRA_HEADS
    from ..families.wan_weights import fits, lora_fits

    if args.alpha is not None and not (found.layout == "lora" and args.alpha > 0):
        what = "must be above 0" if found.layout == "lora" else "is for a LoRA; this checkpoint holds all weights"
        raise UserError(what, f"--alpha {args.alpha:g}")
    compare = lora_fits if found.layout == "lora" else fits
    fit = compare(found.shapes, found.said, wanted, found.unknown, args.allow)
    if fit.whole:
        return fit
    if fit.shapes:
        hint = "is it a checkpoint of another size, or of another kind (text or image to video)?"
    elif any(name.startswith(EXTRA_HEADS) for name in fit.unexpected):
        hint = f"heads of a GAN variant are left out by --allow {' '.join(EXTRA_HEADS)}"
    else:
        hint = "--allow KEY_PREFIX keeps the base's weights for missing ones and leaves unexpected ones out"
    raise UserError(f"does not fit the base: {fit}", str(found.path), hint)


def copy_parts(base: Path, out: Path, part: str) -> None:
    """Everything of the base but its transformer and its scheduler."""
    from ..families.opening import INDEX

    index = json.loads((base / INDEX).read_text())
    for name, value in index.items():
        if isinstance(value, list) and value[0] and name not in (part, "scheduler"):
            shutil.copytree(base / name, out / name)
    for licence in base.glob("LICENSE*"):
        shutil.copy(licence, out / licence.name)
    (out / INDEX).write_text(json.dumps({k: v for k, v in index.items() if k != "_name_or_path"}, indent=2) + "\n")


def write_scheduler(base: Path, out: Path, preset: Preset | None) -> None:
    """The preset's times as a scheduler of the pipeline; the base's own without a preset."""
    from ..families.opening import INDEX

    if preset is None:
        shutil.copytree(base / "scheduler", out / "scheduler")
        return
    scheduler = preset.scheduler()
    scheduler.save_pretrained(out / "scheduler")
    if (out / INDEX).is_file():
        index = json.loads((out / INDEX).read_text())
        index["scheduler"] = [type(scheduler).__module__, type(scheduler).__name__]
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_notes(base: Path, out: Path, found: Checkpoint, preset: Preset | None, args: argparse.Namespace) -> None:
    """vdistill.json, causal.json of a causal preset, and a card that says what this is."""
    from .about import FILE, About, about

    known = about(base)
    clip = (known.frames, known.height, known.width) if (base / FILE).is_file() else WAN_CLIP
    known = replace(known, frames=clip[0], height=clip[1], width=clip[2])
    if preset is not None:
        known = About(*clip, steps=len(preset.steps), guidance=1.0, method=args.preset)
    known.write(out)
    given = base / CAUSAL_FILE
    causal = preset.describe(args.preset) if preset else json.loads(given.read_text()) if given.is_file() else None
    if causal:
        (out / CAUSAL_FILE).write_text(json.dumps(causal, indent=1) + "\n")
    final = out.name.removeprefix(".").removesuffix(".tmp")
    adapter = found.layout == "lora"
    lines = [
        f"# {final}", "",
        f"Converted by vdistill from `{found.path.name}`{f' ({found.group})' if found.group else ''}"
        f"{f', preset {args.preset}' if args.preset else ''}: "
        f"{'a LoRA for the transformer of' if adapter else 'its transformer in'} `{base.name}`.", "",
        *([TIMES_NOTE.format(", ".join(f"{t:.4f}" for t in preset.times())), ""] if preset else []),
        *([CAUSAL_NOTE, ""] if causal else []),
        "The licence is that of the checkpoint. Its quality was not measured here.", "",
    ]  # fmt: skip
    (out / "README.md").write_text("\n".join(lines))


def tell(found: Checkpoint, fit: Fit, preset: Preset | None) -> None:
    """What was done, on stderr."""
    names = {"original": "original Wan names", "diffusers": "diffusers names", "lora": "a LoRA"}
    group = f" of {found.group}" if found.group else ""
    counts = f"{len(fit.kept)} missing, {len(fit.let_go)} unexpected"
    print(f"{len(found.where)} tensors{group}, {names[found.layout]}: {counts}", file=sys.stderr)
    for allowed, what in ((fit.kept, "missing, the base's kept"), (fit.let_go, "unexpected, left out")):
        if allowed:
            shown = ", ".join(allowed[:5]) + (", ..." if len(allowed) > 5 else "")
            print(f"allowed: {len(allowed)} {what}: {shown}", file=sys.stderr)
    if preset and preset.causal:
        print(f"note: {CAUSAL_NOTE}", file=sys.stderr)
