"""What the recipes of published teachers take: every memory plan of their headers, acted out as `vdistill plan` does.

    python tools/plan_recipes.py [NAME ...]   plan all of them, or these; write figures into headers and docs/recipes.*
    python tools/plan_recipes.py --check      exit 1 unless headers and page say what docs/recipes.json holds, all fit,
                                              and no recipe has changed since

A plan is a header's line "# 1 x 24 GB: --set family.fp8=true (18.3 GiB, 210 h)"; what is in brackets is written here.
Text embeddings count as prepared, so that no text encoder is in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdistill.app.plan_memory import Simulated

ROOT = Path(__file__).resolve().parents[1]
KEPT, PAGE = ROOT / "docs/recipes.json", ROOT / "docs/recipes.md"
GPUS = {"24": "rtx4090", "80": "h100"}
LINE = re.compile(r"^# (\d+) x (\d+) GB: (.*?)(?: \([^()]*\))?$", re.MULTILINE)
SET = re.compile(r"--set (?:'([^']+)'|(\S+))")
GIB = 1 << 30
HEAD = """# What the recipes take

Made by `python tools/plan_recipes.py`: a training step of each recipe is acted out on tensors without numbers, as
`vdistill plan` does. Peak memory on each GPU; hours of the whole training at 40 % of the peak of an RTX 4090 (24 GB) or
an H100 (80 GB); text embeddings prepared before (`vdistill prepare --text`). Nothing here was timed on such a GPU: what
checks the figures are tests that measure the memory of tiny models of the same classes and count their operations.

| recipe | GPUs | how | samples a step | peak | room | steps | hours |
|---|---|---|---|---|---|---|---|
"""


def recipes() -> dict[str, Path]:
    """Recipes by name: configs with memory plans in their header."""
    found = sorted(ROOT.glob("configs/*/*.yaml"))
    return {path.stem: path for path in found if LINE.search(path.read_text())}


def digest(path: Path) -> str:
    """Of a recipe without its header."""
    text = path.read_text()
    return hashlib.sha256(text[text.index("\nname:") :].encode()).hexdigest()[:12]


def planned(path: Path) -> Iterator[dict[str, Any]]:
    """What each plan of a recipe's header takes."""
    from vdistill.app.config import load
    from vdistill.app.plan import opened
    from vdistill.app.plan_flops import MFU, gpu_named
    from vdistill.app.plan_step import simulate

    known: dict[str, Any] = {}
    for count, size, how in LINE.findall(path.read_text()):
        start = time.perf_counter()
        config, gpu = load(path, [a or b for a, b in SET.findall(how)]), gpu_named(GPUS[size])
        key = config.model_dump_json()
        if key not in known:
            known[key] = simulate(config, replace(opened(config), released=True))
        found = known[key]
        peak = averaging(found) if int(count) > 1 else found.peak
        row = {
            "gpus": int(count), "size": int(size), "how": how,
            "samples": config.train.batch * config.train.micro * int(count), "steps": config.train.steps,
            "peak_gib": round(peak / GIB, 2), "resident_gib": round(found.resident / GIB, 2),
            "between_gib": {name: round(size / GIB, 2) for name, size in found.between.items()},
            "room_gib": round(gpu.room / GIB, 2), "fits": peak <= gpu.room,
            "hours": float(f"{gpu.seconds(found.flops, MFU) * config.train.steps / 3600:.3g}"),
        }  # fmt: skip
        fits = "fits" if row["fits"] else "DOES NOT FIT"
        seconds = time.perf_counter() - start
        print(f"{path.stem}: {said(row)} {fits}, {row['between_gib']} [{seconds:.0f} s]", flush=True)
        yield row


def averaging(found: Simulated) -> int:
    """Most bytes where several processes average their gradients: the largest learner's in one piece, twice."""
    gradients = [size for name, size in found.memory.items() if name.startswith("gradients: ")]
    return max(found.peak, found.resident + 2 * max(gradients))


def said(row: Mapping[str, Any]) -> str:
    """A plan as a line of a header, without its mark."""
    return f"{row['gpus']} x {row['size']} GB: {row['how']} ({row['peak_gib']:.1f} GiB, {hours(row)} h)"


def hours(row: Mapping[str, Any]) -> str:
    """Of the whole training, in two digits or all before the point."""
    return f"{row['hours']:.0f}" if row["hours"] >= 10 else f"{row['hours']:.2g}"


def with_figures(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A recipe whose plans carry their figures."""
    known = {(row["gpus"], row["size"], row["how"]): row for row in rows}

    def line(match: re.Match[str]) -> str:
        row = known.get((int(match[1]), int(match[2]), match[3]))
        return f"# {said(row)}" if row else match[0]

    return LINE.sub(line, text)


def page(kept: Mapping[str, Any]) -> str:
    """The table of all recipes."""
    lines = [
        f"| {name} | {row['gpus']} x {row['size']} GB | {row['how'].replace('--set ', '')} | {row['samples']} | "
        f"{row['peak_gib']:.1f} GiB | {row['room_gib']:.1f} GiB | {row['steps']} | {hours(row)} |"
        for name, recipe in kept.items()
        for row in recipe["plans"]
    ]
    return HEAD + "\n".join(lines) + "\n"


def faults(kept: Mapping[str, Any]) -> Iterator[str]:
    """What headers and page say otherwise than the figures that are kept."""
    found = recipes()
    if set(found) != set(kept):
        yield f"planned and there differ: {sorted(set(found) ^ set(kept))}"
    for name in found.keys() & kept.keys():
        rows, text = kept[name]["plans"], found[name].read_text()
        if digest(found[name]) != kept[name]["digest"]:
            yield f"{name} has changed since it was planned"
        if [f"# {said(row)}" for row in rows] != [match[0] for match in LINE.finditer(text)]:
            yield f"{name}: its header says otherwise"
        yield from (f"{name}: {said(row)} does not fit in {row['room_gib']} GiB" for row in rows if not row["fits"])
    if not PAGE.is_file() or PAGE.read_text() != page(kept):
        yield f"{PAGE.name} says otherwise"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes to plan; all when left out")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    there = recipes()
    if unknown := set(args.names) - set(there):
        parser.error(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    for name in [] if args.check else args.names or there:
        rows = [*planned(there[name])]
        kept = {n: kept[n] for n in there if n in kept} | {name: {"digest": digest(there[name]), "plans": rows}}
        kept = {n: kept[n] for n in there if n in kept}
        there[name].write_text(with_figures(there[name].read_text(), rows))
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        PAGE.write_text(page(kept))
    found = [*faults(kept)]
    print("\n".join(found) if found else f"{len(kept)} recipes fit and say what was planned")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
