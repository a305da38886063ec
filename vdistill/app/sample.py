"""`vdistill sample MODEL --prompt ... --out DIR`: clips as MP4, one a prompt, and what made them as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import UserError
from ..data.encode import png
from ..data.media import write_video
from ..data.prompts import read_prompts
from .generate import plan_of, size_of
from .lock import as_folder
from .long import of_length
from .models import about_model, device_of, finite, model_folder, open_model, whole_number


def run(args: argparse.Namespace) -> int:
    """Sample; prints the path of every clip."""
    prompts = list(args.prompt or ())
    if args.prompts:
        prompts += read_prompts(Path(args.prompts))
    if not prompts:
        raise UserError("no prompt", "sample", "give --prompt TEXT or --prompts FILE")
    if any("\ud800" <= letter <= "\udfff" for prompt in prompts for letter in prompt):
        raise UserError("a prompt is not UTF-8 text", "--prompt")
    whole_number(args.frames, 1, "--frames")
    finite(args.fps, 0.01, "--fps")
    finite(args.whole, 0, "--whole")
    as_folder(Path(args.out))
    family, out = open_model(args.model).to(device_of(args.device)), Path(args.out)
    known = about_model(family, model_folder(args.model))
    plan = plan_of(family, known, args)
    frames, size = args.frames or known.frames, size_of(args.size, known)
    first = first_image(args.image, size)
    made = of_length(family, prompts, plan, frames, size, known.frames, args.long, first, args.whole)
    if not made.pixels.isfinite().all():
        raise UserError("gave values that are not finite", str(args.model), "its weights may be damaged")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (prompt, clip) in enumerate(zip(prompts, made.pixels, strict=True)):
        path = write_clip(out / f"{i:03d}", clip, args.fps)
        rows.append({"file": path.name, "prompt": prompt, "seed": args.seed + i, "model": args.model,
                     "passes": made.passes, "times": family.times, "guidance": plan.guidance})  # fmt: skip
        print(path)
    (out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{made.passes} passes, {made.seconds:.2f} s a clip", file=sys.stderr)
    return 0


def write_clip(path: Path, clip: Tensor, fps: float) -> Path:
    """A clip [3, T, H, W] in [-1, 1] as MP4, or as PNG when it is one picture; returns the file."""
    scale = max(1, 256 // clip.shape[-1])
    if clip.shape[1] == 1:
        path = path.with_suffix(".png")
        path.write_bytes(png(clip[:, 0], scale))
        return path
    path = path.with_suffix(".mp4")
    write_video(path, clip, fps=fps, scale=scale)
    return path


def first_image(path: Path | None, size: tuple[int, int]) -> Tensor | None:
    """[1, 3, H, W] in [-1, 1] of the picture a clip starts from, cut to the middle and resized; None for none."""
    if path is None:
        return None
    try:
        with Image.open(path) as opened:
            whole = ImageOps.exif_transpose(opened).convert("RGB")
    except OSError as error:
        raise UserError(f"is no readable picture ({error})", str(path), "give a PNG or JPEG") from error
    fitted = ImageOps.fit(whole, (size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 127.5 - 1
