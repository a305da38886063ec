"""`vdistill sample MODEL --prompt ... --out DIR`: clips as MP4, one a prompt, and what made them as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..core.errors import UserError
from ..data.media import write_video
from ..data.prompts import read_prompts
from .about import about
from .generate import generate, plan_of, size_of
from .lock import as_folder
from .models import finite, model_folder, open_model, whole_number


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
    as_folder(Path(args.out))
    family, known, out = open_model(args.model), about(model_folder(args.model)), Path(args.out)
    plan = plan_of(
        family, known, steps=args.steps, guidance=args.guidance, scale=args.scale, solver=args.solver, seed=args.seed
    )
    made = generate(family, prompts, plan, args.frames or known.frames, size_of(args.size, known))
    if not made.pixels.isfinite().all():
        raise UserError("gave values that are not finite", str(args.model), "its weights may be damaged")
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (prompt, clip) in enumerate(zip(prompts, made.pixels, strict=True)):
        path = out / f"{i:03d}.mp4"
        write_video(path, clip, fps=args.fps, scale=max(1, 256 // clip.shape[-1]))
        rows.append({"file": path.name, "prompt": prompt, "seed": args.seed + i, "model": args.model,
                     "passes": made.passes, "times": family.times, "guidance": plan.guidance})  # fmt: skip
        print(path)
    (out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{made.passes} passes, {made.seconds:.2f} s a clip", file=sys.stderr)
    return 0
