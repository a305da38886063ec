"""How a causal model of the shapes world follows another prompt in mid-stream.

python tools/measure_switches.py [MODEL] [--pairs 48] [--seed 0] [--json FILE]

MODEL: a run or a folder (default: the student that is shipped). Each stream shows one caption for six seconds, is then
told another, of any kind, and its pixels are judged, two seconds at a time, before and after. Keys of the JSON: model,
pairs, seed, rows, each with second (from the switch on), accuracy (everything is right), colour, shape, motion.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from vdistill.app.models import open_model
from vdistill.app.streaming import causal_of
from vdistill.app.switches import measured, pairs, switched
from vdistill.core.errors import UserError

NAMES = ("accuracy", "colour", "shape", "motion")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="shapes_causal")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    try:
        spec, family = causal_of(args.model), open_model(args.model)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    first, then = pairs(args.pairs, args.seed)
    pixels, turn = switched(family, spec, first, then, 32, seed=args.seed)
    rows = measured(pixels, first, then, turn)
    for row in rows:
        when = "before" if row["second"] < 0 else f"{row['second']:g} s after"
        print(f"{when:>10}: " + ", ".join(f"{name} {row[name]:.3f}" for name in NAMES))
    if args.json:
        found = {"model": args.model, "pairs": args.pairs, "seed": args.seed, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
