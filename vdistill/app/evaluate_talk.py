"""`vdistill eval MODEL` of a model that hears: people and voices nobody has seen, out of the talker world.

What is measured is what `vdistill demo talk` measures (`talk_exam`, `talk_shows`), as `vdistill talk` would make it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..eval.talking import talking_scores
from ..families.stock import StockFamily
from .about import About
from .build_avatar import adapters_of, conditions_of
from .build_causal import unit_of
from .build_scales import tokens_of, told_student
from .causal_file import Saved, read_causal
from .generate import Counted, Sampled, size_of
from .models import clip_shape, model_folder, whole_number
from .talk import SCALES, scales_of
from .talk_clips import talking, told
from .talk_exam import Paper, Way, guided_way, paper, rendered, scores
from .talk_shows import Shown, Talking, both, long, losses, scenes

CLIPS, LONG = 48, 3
SHAPES_ONLY = {
    "guidance": "use --audio-scale and --ref-scale", "scale": "use --audio-scale and --ref-scale",
    "solver": "leave it out", "split": "leave it out",
}  # fmt: skip
HEARING_ONLY = ("long", "duo", "audio_scale", "ref_scale")
SAME = "as the true clips"
BETTER = {
    "passes": "fewer", "sync_pcc": "higher", "identity_error": "lower", "jitter": SAME, "aperture": SAME,
    "motion": SAME, "sync_d": "lower", "sync_c": "higher", "offset": "0", "net_d": "lower", "net_c": "higher",
    "net_offset": "0", "seconds_per_clip": "lower",
}  # fmt: skip
ENDS = ("sync_pcc_first", "sync_pcc_last", "identity_error_first", "identity_error_last")


@dataclass(frozen=True)
class Taken:
    """How a model takes the exam. shape: [C, T, H, W] of a clip's latents; scales: of a chain, or told; steps: of a
    teacher or a student; begins, level: see `Speaker`; causal: of a student that makes its clips block by block."""

    family: StockFamily
    shape: tuple[int, ...]
    frames: int
    size: int
    scales: Mapping[str, float]
    steps: int
    seed: int = 0
    begins: int = 0
    level: float = 0.0
    causal: Saved | None = None

    @property
    def talker(self) -> Talking:
        """The model for sessions."""
        return Talking(
            self.family, self.scales, self.frames, self.size, self.begins, self.level, self.steps, self.causal
        )


def hears(family: StockFamily) -> bool:
    """Whether it has learned to follow a sound."""
    found = adapters_of(family)
    return found is not None and bool(found.size.features)


def unheard(args: argparse.Namespace) -> None:
    """UserError for an option that is of no use to a model that does not hear."""
    for name in HEARING_ONLY:
        if getattr(args, name) is not None:
            raise UserError("this model does not hear", option(name), "leave it out")


def option(name: str) -> str:
    """audio_scale -> --audio-scale."""
    return "--" + name.replace("_", "-")


def through_talk(family: StockFamily, known: About, args: argparse.Namespace) -> int:
    """Print the measures of talking; --json FILE keeps them."""
    taken, clips = asked(family, known, args)
    given = paper(clips, taken.frames, taken.size)
    made = sampled(taken, given)
    found: dict[str, Any] = {"model": args.model, "clips": clips, "seed": taken.seed, "steps": taken.steps,
                             "scales": dict(taken.scales), "frames": taken.frames, "size": taken.size}  # fmt: skip
    found |= scores(made, given)
    found["true"] = talking_scores(torch.stack([clip.frames for clip in given.clips]), given.truth)
    print("\n".join(table(found)))
    if args.seconds is not None:
        found["long"] = drifts(taken.talker, args.seconds, LONG if args.long is None else args.long, taken.seed)
        print("\n".join(["", *long_table(found["long"])]))
    if args.duo is not None:
        found["duo"] = leaks(taken.talker, args.duo, taken.seed)
        each = ", ".join(f"{leak:.3f}" for leak in found["duo"]["leaks"])
        print(f"\nleak between two people, mean of {args.duo}: {found['duo']['leak']:.3f} ({each})")
    kept(args.json, found)
    return 0


def kept(path: Path | None, found: Mapping[str, Any]) -> None:
    """Write what was found where it was asked for, in a folder that need not be there yet."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")


# -- what is asked ----------------------------------------------------------------------------------------------------


def asked(family: StockFamily, known: About, args: argparse.Namespace) -> tuple[Taken, int]:
    """(how the exam is taken, clips in it). UserError for what this kind of model has no use for."""
    for name, hint in SHAPES_ONLY.items():
        if getattr(args, name) is not None:
            raise UserError("is not for a model that hears", option(name), hint)
    conditions_of(family)
    clips = CLIPS if args.clips is None else args.clips
    for key, value, low in (("--clips", clips, 2), ("--steps", args.steps, 1), ("--long", args.long, 1),
                            ("--duo", args.duo, 1), ("--seed", args.seed, 0)):  # fmt: skip
        whole_number(value, low, key, 2**63 if key == "--seed" else 10_000)
    if args.long is not None and args.seconds is None:
        raise UserError("counts long clips", "--long", "say how long they are: --seconds 30")
    if args.seconds is not None and not 10 <= args.seconds <= 600:
        raise UserError(f"must be from 10 to 600, found {args.seconds:g}", "--seconds")
    height, width = size_of(args.size, known)
    if height != width:
        raise UserError(f"the talker world is square, found {height}x{width}", "--size")
    frames = args.frames or known.frames
    causal = read_causal(model_folder(args.model))
    taken = Taken(family, clip_shape(family, frames, height, height), frames, height, told_scales(family, known, args),
                  steps_of(family, known, args), args.seed, known.begins, known.level, causal)  # fmt: skip
    if causal is not None:
        checked_blocks(taken, causal, args)
    return taken, clips


def steps_of(family: StockFamily, known: About, args: argparse.Namespace) -> int:
    """Those asked for, or the model's. UserError for another number than a few-step student has."""
    if family.times is None:
        return int(args.steps or known.steps)
    if args.steps not in (None, len(family.times)):
        raise UserError(f"this student takes {len(family.times)} steps, found {args.steps}", "--steps", "leave it out")
    return len(family.times)


def told_scales(family: StockFamily, known: About, args: argparse.Namespace) -> dict[str, float]:
    """Every scale that is told or guided by. UserError for one that a model has no use for."""
    found, tokens = scales_of(args, known), tokens_of(family)
    for name, flag in SCALES.items():
        given = getattr(args, flag[2:].replace("-", "_")) is not None
        if given and family.times is not None and (tokens is None or name not in tokens.size.names):
            raise UserError("this few-step student has its guidance in its weights", flag, "leave it out")
    return found if tokens is None else {**tokens.size.usual, **found}


def checked_blocks(taken: Taken, causal: Saved, args: argparse.Namespace) -> None:
    """UserError for a clip that is not whole blocks, and for live sound where blocks are made ahead of it."""
    list(causal.layout(unit_of(taken.family)).spans(taken.shape[1]))
    if causal.rolling > 1 and (args.seconds is not None or args.duo is not None):
        what = f"this student denoises {causal.rolling} blocks together, before their sound is there"
        raise UserError(what, "--duo" if args.seconds is None else "--seconds", "leave it out")


# -- what is measured -------------------------------------------------------------------------------------------------


def sampled(taken: Taken, given: Paper) -> Sampled:
    """The clips of a paper, clip i from noise of seed + i."""
    family, counted = taken.family, Counted(taken.family.net)
    if taken.causal is not None:
        return by_blocks(taken, taken.causal, given)
    if family.times is None and tokens_of(family) is None:
        way = guided_way(family, taken.scales, taken.steps)
    else:
        way = Way(family, told_student(family, counted, taken.scales), counted, taken.steps, family.times)
    return rendered(way, given, taken.shape, taken.seed)


def by_blocks(taken: Taken, causal: Saved, given: Paper, batch: int = 16) -> Sampled:
    """The same of a causal student. Its passes hold those that remember a block."""
    family, parts = taken.family, []
    counted, begun = Counted(family.net), time.perf_counter()
    for i in range(0, len(given.clips), batch):
        cond = told(family, given.clips[i : i + batch], given.captions[i : i + batch])
        how = (taken.steps, taken.scales, taken.seed + i, counted, family.times, causal)
        parts.append(talking(family, cond, taken.shape, *how).float().cpu())
    seconds = (time.perf_counter() - begun) / len(given.clips)
    return Sampled(torch.cat(parts), counted.clips // len(given.clips), seconds)


def drifts(model: Talking, length: float, count: int, seed: int) -> dict[str, Any]:
    """Of `count` clips of `length` seconds through live sessions, clip i from seed + i: what `long` says of each, with
    drift_sync and drift_identity (`losses`), and the means."""
    rows = [flat(long(model, length, seed + i, index=i)) for i in range(count)]
    return {"seconds": length, "clips": rows, "mean": {k: sum(row[k] for row in rows) / count for k in rows[0]}}


def flat(shown: Shown) -> dict[str, float]:
    """The scores of a long clip, and each of its drifts."""
    return shown.scores | {f"drift_{name}": lost for name, lost in losses(shown.scores).items()}


def leaks(model: Talking, count: int, seed: int) -> dict[str, Any]:
    """Of the first `count` scenes of two people, scene i from seed + i: how much of one's mouth shows in the other's,
    leaks, and leak, their mean."""
    some = islice(scenes(model.size), count)
    found = [both(model, clip, seed + i).scores["crosstalk"] for i, clip in enumerate(some)]
    return {"scenes": count, "leaks": found, "leak": sum(found) / count}


# -- what is printed --------------------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> Sequence[str]:
    """The exam in lines: what, value, of the true clips, which is better."""
    scales = "".join(f", {name} {scale:g}" for name, scale in found["scales"].items())
    head = f"{found['clips']} clips of {found['frames']} frames, {found['size']} pixels, people and voices held out"
    head = f"{head}; {found['steps']} steps{scales}, seed {found['seed']}"
    lines = [head, f"{'':<16}  {'model':>8}  {'true':>8}  better"]
    for name, better in BETTER.items():
        if name in found:
            true = f"{found['true'][name]:.4g}" if name in found["true"] else ""
            lines.append(f"{name:<16}  {found[name]:>8.4g}  {true:>8}  {better}")
    return lines


def long_table(found: Mapping[str, Any]) -> Sequence[str]:
    """Long clips in lines."""
    names = (*ENDS, "drift_sync", "drift_identity", "realtime_factor")
    shown = ("clip", "sync first", "last", "identity first", "last", "sync lost", "identity lost", "x real time")
    lines = [f"{found['seconds']:g} s: the first and the last five seconds", "  ".join(f"{name:>10}" for name in shown)]
    for label, row in (*enumerate(found["clips"]), ("mean", found["mean"])):
        values = (f"{row[name]:+.1%}" if name.startswith("drift") else f"{row[name]:.3f}" for name in names)
        lines.append("  ".join(f"{v:>{max(10, len(s))}}" for s, v in zip(shown, (str(label), *values), strict=True)))
    return lines
