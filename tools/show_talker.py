"""Look at the `talker` world: a sheet of frames, one row a clip, or films with sound and a manifest.

python tools/show_talker.py --split mq --clips 6 --out sheet.png
python tools/show_talker.py --split duo --clips 2 --size 128 --out folder
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.worlds.talker import export
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.duo import Duo, DuoClip
from vdistill.worlds.talker.talker import SPLITS, Talker

COLUMNS = 11


def sheet(clips: list[Clip] | list[DuoClip]) -> Tensor:
    """The reference and some frames of each clip, [3, H, W]."""
    rows = []
    for clip in clips:
        moments = torch.linspace(0, clip.frames.shape[1] - 1, COLUMNS).round().int().tolist()
        rows.append(torch.cat([clip.reference, *(clip.frames[:, t] for t in moments)], -1))
    return torch.cat(rows, -2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="hq", choices=[*SPLITS, "duo"])
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speech", default="shipped")
    parser.add_argument("--out", type=Path, required=True, help="a .png, or a folder for films")
    args = parser.parse_args()
    clips: list
    if args.split == "duo":
        clips = [Duo(args.size, args.frames, args.seed).clip(i) for i in range(args.clips)]
    else:
        world = Talker(args.split, args.size, args.frames, args.seed, args.speech)
        clips = [world.clip(i) for i in range(args.clips)]
    if args.out.suffix == ".png":
        export.picture(args.out, sheet(clips).repeat_interleave(2, -1).repeat_interleave(2, -2))
    else:
        export.write(clips, args.out, args.split)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
