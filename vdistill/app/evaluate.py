"""`vdistill eval MODEL`: how often a model does what the captions of the shapes world say, measured from its pixels.

A model that hears talks instead (evaluate_talk.py)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..families.stock import StockFamily
from ..worlds.shapes import Shapes
from .evaluate_talk import hears, kept, through_talk, unheard
from .generate import Plan, Sampled, generate, plan_of, size_of
from .lock import as_folder
from .models import about_model, device_of, model_folder, open_model, whole_number
from .over_time import measured, streamed, summary
from .score import diversity, score

OPEN_CAPTIONS = ("a circle moves left", "a red shape rests", "a square")
OPEN_CLIPS = 24
CLIPS = 128
SPLIT = "test"  # of the shapes world: what was never trained on


@dataclass(frozen=True)
class Exam:
    """Captions, the truth of as many clips, and open captions for diversity. frames, size: of the clips."""

    captions: tuple[str, ...]
    truth: Tensor
    frames: int
    size: int
    open_captions: tuple[str, ...] = OPEN_CAPTIONS
    open_clips: int = OPEN_CLIPS


def exam(
    clips: int,
    frames: int = 17,
    size: int = 32,
    counts: Sequence[int] = (1,),
    open_clips: int = OPEN_CLIPS,
    split: str = SPLIT,
) -> Exam:
    """The first `clips` captions of a split of `Shapes`, held-out ones unless told; always the same."""
    world = Shapes(frames, size, tuple(counts), open=0.0, split=split, seed=1)
    truth = torch.stack([world.clip(i) for i in range(clips)])
    return Exam(tuple(world.caption(i) for i in range(clips)), truth, frames, size, open_clips=open_clips)


def examine(
    family: StockFamily,
    paper: Exam,
    plan: Plan,
    net: Denoiser | None = None,
    times: Sequence[float] | None = None,
    with_diversity: bool = True,
) -> tuple[dict[str, float], Sampled]:
    """(scores, what was sampled). Scores: those of app/score.py, passes, seconds_per_clip, and diversity/..."""
    size = (paper.size, paper.size)
    made = generate(family, paper.captions, plan, paper.frames, size, net, times)
    found = score(made.pixels, paper.captions, paper.truth)
    found |= {"passes": float(made.passes), "seconds_per_clip": made.seconds}
    if with_diversity and paper.open_clips:
        shown = {}
        for n, caption in enumerate(paper.open_captions):
            other = replace(plan, seed=plan.seed + 10_000 * (n + 1))
            shown[caption] = generate(
                family, [caption] * paper.open_clips, other, paper.frames, size, net, times
            ).pixels
        found |= {f"diversity/{k}": v for k, v in diversity(shown).items()}
    return found, made


def run(args: argparse.Namespace) -> int:
    """Print the scores, those of talking where the model hears; --json FILE keeps them."""
    whole_number(args.frames, 1, "--frames")
    if args.json:
        as_folder(args.json.parent)
    family = open_model(args.model).to(device_of(args.device))
    known = about_model(family, model_folder(args.model))
    if hears(family):
        return through_talk(family, known, args)
    unheard(args)
    args.clips = CLIPS if args.clips is None else args.clips
    plan = plan_of(family, known, args)
    height, width = size_of(args.size, known)
    if height != width:
        raise UserError(f"the shapes world is square, found {height}x{width}", "--size")
    if args.clips < 2:
        raise UserError(f"needs 2 clips or more, found {args.clips}", "--clips")
    args.split = args.split or SPLIT
    if args.seconds is not None:
        return through(family, plan, args, height)
    found, _ = examine(family, exam(args.clips, args.frames or known.frames, height, split=args.split), plan)
    column = max(map(len, found))
    for key, value in found.items():
        print(f"{key:<{column}}  {value:.4g}")
    kept(args.json, {"model": args.model, "split": args.split, "clips": args.clips, **found})
    return 0


def through(family: StockFamily, plan: Plan, args: argparse.Namespace, size: int) -> int:
    """Print the scores of long streams, two seconds at a time; --json FILE keeps them."""
    if plan.causal is None:
        raise UserError("sees its whole clip, so it does not stream", "--seconds", "leave it out")
    captions = exam(args.clips, 17, size, split=args.split).captions
    how = {"seed": plan.seed, "steps": plan.steps, "guidance": plan.guidance}
    rows = measured(streamed(family, plan.causal, captions, args.seconds, size, **how), captions)
    shown = ("second", "accuracy", "colour", "shape", "motion", "identity", "sharpness", "flicker")
    print("  ".join(f"{name:>9}" for name in shown))
    for row in rows:
        print("  ".join(f"{row[name]:>9.3g}" for name in shown))
    found = summary(rows)
    for key, value in found.items():
        print(f"{key:<17}  {value:.4g}")
    asked = {"model": args.model, "split": args.split, "clips": args.clips, "seconds": args.seconds}
    kept(args.json, {**asked, **found, "windows": rows})
    return 0
