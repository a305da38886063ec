"""What a judge adds to the updates of DMD2, in time and in what autograd keeps; with the shipped teacher. A judge of
steps is measured beside the progressive distillation it belongs to.

python tools/bench_judges.py [--json FILE] [--batch 16] [--rounds 4] [--only ROW ...]

Keys of the JSON: machine (cpu, cores, threads, torch, command); rows, each with name; student_s, critic_s: CPU seconds
of an update's forward and backward pass, mean over the rounds; student_ratio, critic_ratio: to those without a judge;
student_kept_mib, critic_kept_mib: what autograd keeps for the backward pass, parameters left out. The critic's are null
where no critic learns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdistill.app.build import Built, build
from vdistill.app.config import load
from vdistill.core.rng import Rng

ROOT = Path(__file__).resolve().parents[1]
FROZEN = "method.judge={{kind: tokens, features: teacher, layers: [{}], share: 0.1}}"
JUDGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "gan_weight (critic)": ("method.gan_weight=3e-3",),
    "critic [2, 5]": ("method.judge={layers: [2, 5], share: 0.1}",),
    "teacher [0]": (FROZEN.format(0),),
    "teacher [2]": (FROZEN.format(2),),
    "teacher [5]": (FROZEN.format(5),),
    "latent": ("method.judge={kind: latent, share: 0.1}",),
    "factorised": ("method.judge={kind: factorised, share: 0.1}",),
    "motion": ("method.judge={kind: motion, share: 0.1}",),
    "pixels": ("method.judge={kind: pixels, frames: 2, share: 0.1}",),
    "cross [2]": ("method.judge={features: teacher, layers: [2], head: cross, share: 0.1}",),
}
STEPS: dict[str, tuple[str, ...]] = {
    "steps: none": (),
    "steps: pair, teacher [2]": ("method.judge={features: teacher, layers: [2]}", "method.distance=1"),
    "steps: pair, latent": ("method.judge={kind: latent}", "method.distance=1"),
}
RECIPES = {
    **dict.fromkeys(JUDGES, ("shapes_dmd2", "none")),
    **dict.fromkeys(STEPS, ("shapes_lightning_8", "steps: none")),
}
"""Row -> its config, and the row it is compared with."""


def update(built: Built, learner: str, batch: Any, place: int) -> tuple[float, float]:
    """(CPU seconds, MiB kept for the backward pass) of one update."""
    for name, module in built.method.learners.items():
        module.requires_grad_(name == learner)
    own = {p.untyped_storage().data_ptr() for m in built.method.learners.values() for p in m.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    begun = time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = built.method.loss(learner, batch, Rng(0, place, turn=learner))
    loss.total.backward()  # type: ignore[no-untyped-call]
    seconds = time.process_time() - begun
    for module in built.method.learners.values():
        module.zero_grad()
    return seconds, sum(kept.values()) / 2**20


def measured(names: Sequence[str], batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """One row a judge. All are asked at the same places, in turn, so that a busy machine treats them alike."""
    runs: dict[str, Built] = {}
    for name in names:
        sets = (f"train.batch={batch_size}", *(JUDGES | STEPS)[name])
        runs[name] = build(load(ROOT / f"configs/video/{RECIPES[name][0]}.yaml", sets))
    batch = next(iter(runs.values())).source(0, 0)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for place in range(rounds + 1):
        for name, built in runs.items():
            for learner in built.method.learners:
                got = update(built, learner, batch, place)
                if place:  # the first is a warm-up
                    found.setdefault((name, learner), []).append(got)
    mean = {key: [sum(each) / rounds for each in zip(*got, strict=True)] for key, got in found.items()}
    return [row_of(name, mean) for name in names]


def row_of(name: str, mean: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, Any]:
    """See the keys of the JSON."""
    row: dict[str, Any] = {"name": name}
    for learner in ("student", "critic"):
        seconds, kept = mean.get((name, learner), (None, None))
        base = mean.get((RECIPES[name][1], learner), (None, None))[0]
        ratio = seconds / base if seconds is not None and base is not None else None
        row |= {f"{learner}_s": seconds, f"{learner}_ratio": ratio, f"{learner}_kept_mib": kept}
    return row


def told(row: Mapping[str, Any], learner: str) -> str:
    """Seconds, ratio and MiB of a row; a dash for what is not there."""
    forms = {"s": ">8.3f", "ratio": ">6.2f", "kept_mib": ">9.1f"}
    cells = ((row[f"{learner}_{key}"], form) for key, form in forms.items())
    return " ".join(f"{'-':>{form[1]}}" if value is None else f"{value:{form}}" for value, form in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--batch", type=int, default=16, help="samples of an update")
    parser.add_argument("--rounds", type=int, default=4, help="updates measured of each learner")
    parser.add_argument("--only", nargs="+", choices=RECIPES, metavar="ROW", help=", ".join(RECIPES))
    args = parser.parse_args()
    names = [name for name in RECIPES if not args.only or name in {*args.only, *(RECIPES[o][1] for o in args.only)}]
    rows = measured(names, args.batch, args.rounds)
    print(f"{'judge':<24} {'student':>8} {'ratio':>6} {'kept MiB':>9} {'critic':>8} {'ratio':>6} {'kept MiB':>9}")
    for row in rows:
        print(f"{row['name']:<24} {told(row, 'student')} {told(row, 'critic')}")
    machine = {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "command": " ".join(sys.argv),
    }  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
