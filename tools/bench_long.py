"""How the ways to make long clips keep what the caption says: the judge of the shapes world, window by window.

    python tools/bench_long.py --frames 65 --steps 20 --out runs/long [--moving]

Captions of things that rest or rotate can go on for ever; those of movers cannot in this world, where no clip begins
with a thing that is already at the end of its path (--moving asks for them all the same). Writes a sheet of every
third frame per way, one clip a row, and numbers.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vdistill.app.about import about
from vdistill.app.generate import Plan
from vdistill.app.long import Long, of_length
from vdistill.app.models import model_folder, open_model
from vdistill.worlds.judge import accuracy
from vdistill.worlds.shapes import COLOURS, SHAPES

WAYS: tuple[Long, ...] = ("direct", "windows", "extend")
SPAN = 16  # frames from one judged window to the next, which share one


def captions(count: int, motions: tuple[str, ...]) -> list[str]:
    """Every colour, shape and motion in turn."""
    colours = list(COLOURS)
    return [
        f"a {colours[i % 6]} {SHAPES[(i + i // 6) % 4]} {motions[(i + i // 6) % len(motions)]}" for i in range(count)
    ]


def by_window(pixels: Tensor, said: list[str]) -> list[dict[str, float]]:
    """Accuracy in each window of 17 frames."""
    starts = range(0, pixels.shape[2] - SPAN, SPAN)
    return [accuracy(pixels[:, :, start : start + SPAN + 1], said) for start in starts]


def sheet(pixels: Tensor, path: Path) -> None:
    """Every third frame, a clip a row."""
    rows = [torch.cat(list(clip[:, ::3].permute(1, 2, 3, 0)), 1) for clip in pixels.clamp(-1, 1)]
    picture = Image.fromarray(((torch.cat(rows) + 1) * 127.5).byte().numpy())
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="shapes")
    p.add_argument("--frames", type=int, default=65)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--guidance", type=float, default=2.0)
    p.add_argument("--clips", type=int, default=12)
    p.add_argument("--moving", action="store_true", help="captions of movers")
    p.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    p.add_argument("--out", type=Path, default=Path("runs/long"))
    args = p.parse_args()
    torch.set_num_threads(1)
    family, known = open_model(args.model), about(model_folder(args.model))
    motions = ("moves left", "moves right", "moves up", "moves down") if args.moving else ("rests", "rotates")
    said, plan = captions(args.clips, motions), Plan(args.steps, args.guidance)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for way in args.ways:
        made = of_length(family, said, plan, args.frames, (known.height, known.width), known.frames, way)
        rows = by_window(made.pixels, said)
        found[way] = {"passes": made.passes, "seconds": round(made.seconds, 2), "windows": rows}
        sheet(made.pixels, args.out / f"{way}.png")
        for name in ("colour", "shape", "motion", "all"):
            print(f"{way:8} {name:7}", *(f"{row[name]:.2f}" for row in rows), flush=True)
        print(f"{way:8} {made.passes} passes, {made.seconds:.1f} s a clip", flush=True)
    (args.out / "numbers.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
