"""Guidance found on the mean frame (video/mean_frame.py) against guidance of all frames: the shipped talker teacher.

python tools/measure_mean_frame.py [--clips 24] [--factor 0.85] [--steps 25] [--json FILE]

Clips are of people and voices no training saw. Keys of the JSON: in_range and held_out, each with the error to the
guided target over its length (relative), the same of the conditional pass alone (ignorant) and over what guidance
does (of_guidance); none, mean_frame, full: passes a step over whole clips, and scores of clips at the
usual scales.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vdistill.app.build_scales import plan_of
from vdistill.app.demo_talk import ASSET, teacher_of
from vdistill.app.demos import recipe
from vdistill.app.models import clip_shape
from vdistill.app.talk_exam import (
    HELD_OUT,
    IN_RANGE,
    guided_way,
    paper,
    rendered,
    scale_points,
    scores,
    target_error,
)
from vdistill.core.guidance import chain
from vdistill.video.mean_frame import MeanFrame


def measured(clips: int, factor: float, steps: int) -> dict[str, Any]:
    """What the docstring of this file says."""
    (teacher, about), spec = teacher_of("talker"), recipe(ASSET, 0).scales
    assert spec is not None
    usual = {name: each.usual for name, each in spec.conditions.items()}
    most = {name: each.top for name, each in spec.conditions.items()}
    given = paper(clips, about.frames, about.height)
    shape = clip_shape(teacher, about.frames, about.height, about.width)
    found: dict[str, Any] = {}
    for where, shares in (("in_range", IN_RANGE), ("held_out", HELD_OUT)):
        error = target_error(
            lambda point: MeanFrame(teacher.net, chain(*point.items()), factor),
            teacher, plan_of(spec), given, scale_points(most, shares),
        )  # fmt: skip
        found[where] = asdict(error)
    whole, none = guided_way(teacher, usual, steps), guided_way(teacher, {}, steps)
    once = replace(whole, net=MeanFrame(teacher.net, chain(*usual.items()), factor))
    branches = len(chain(*usual.items()).branches)
    ways = {"none": (none, 1.0), "mean_frame": (once, 1 + branches / shape[1]), "full": (whole, float(branches))}
    for name, (way, passes) in ways.items():
        row = scores(rendered(way, given, shape), given)
        found[name] = {"passes": passes, **{k: row[k] for k in ("sync_pcc", "identity_error", "jitter")}}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--factor", type=float, default=0.85)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.clips < 1 or args.steps < 1:
        parser.error("--clips and --steps must be at least 1")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: no folder {args.json.parent}; make it first")
    found = measured(args.clips, args.factor, args.steps)
    for name, row in found.items():
        print(f"{name:11}", "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
