"""What a judge adds to the updates of DMD2, in time and in what autograd keeps; with the shipped teacher. A judge of
steps is measured beside the progressive distillation it belongs to.

python tools/bench_judges.py [--json FILE] [--batch 16] [--rounds 4] [--only ROW ...]

Keys of the JSON: machine (cpu, cores, threads, torch, command); rows, each with name; student_s, critic_s: CPU seconds
of an update's forward and backward pass, median over the rounds; student_ratio, critic_ratio: to the update without a
judge that was measured beside it, median likewise; student_kept_mib, critic_kept_mib: what autograd keeps for the
backward pass, weights left out; prefix_mib, heads_mib: of that, what features of a frozen teacher up to the last tapped
block need, and the judge on them. Null where there is no such.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from vdistill.app.build import Built, build
from vdistill.app.config import load
from vdistill.core.rng import Rng
from vdistill.discriminators.look import Taps

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


@contextmanager
def kept_by(modules: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """What autograd keeps of the computations inside, but for the modules' weights: place in memory -> tensor."""
    own = {p.untyped_storage().data_ptr() for m in modules for p in (*m.parameters(), *m.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor  # not its size: held, its place is not used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def mib(kept: Mapping[int, Tensor]) -> float:
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2**20


def weights(built: Built) -> list[nn.Module]:
    """All networks there are."""
    net = built.family.net
    return [*built.method.learners.values(), *([net] if isinstance(net, nn.Module) else [])]


def update(built: Built, learner: str, batch: Any, place: int) -> tuple[float, float]:
    """(CPU seconds, MiB kept for the backward pass) of one update."""
    for name, module in built.method.learners.items():
        module.requires_grad_(name == learner)
    begun = time.process_time()
    with kept_by(weights(built)) as kept:
        loss = built.method.loss(learner, batch, Rng(0, place, turn=learner))
    loss.total.backward()  # type: ignore[no-untyped-call]
    seconds = time.process_time() - begun
    for module in built.method.learners.values():
        module.zero_grad()
    return seconds, mib(kept)


def parts(built: Built, batch: Any) -> tuple[float | None, float | None]:
    """MiB that a frozen teacher's features and the judge on them keep for a sample's gradient; None for other looks."""
    look = getattr(next(iter(getattr(built.method, "terms", ())), None), "look", None)
    if not isinstance(look, Taps) or not look.frozen:
        return None, None
    x, t = batch.x.clone().requires_grad_(), torch.full((len(batch.x),), 0.5, dtype=torch.float64)
    with kept_by(weights(built)) as prefix:
        shown = look(x, t, batch.cond)
    leaves = [f.detach().requires_grad_() for f in shown]
    with kept_by([*weights(built), *(holder(f) for f in leaves)]) as heads:
        built.method.terms[0].judge(leaves, t, batch.cond)  # type: ignore[attr-defined]
    return mib(prefix), mib(heads)


def holder(tensor: Tensor) -> nn.Module:
    """A module that has this tensor."""
    module = nn.Module()
    module.register_buffer("it", tensor)
    return module


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
    return [row_of(name, found) | dict(zip(PARTS, parts(runs[name], batch), strict=True)) for name in names]


PARTS = ("prefix_mib", "heads_mib")


def row_of(name: str, found: Mapping[tuple[str, str], Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """See the keys of the JSON."""
    row: dict[str, Any] = {"name": name}
    for learner in ("student", "critic"):
        mine, base = found.get((name, learner)), found.get((RECIPES[name][1], learner))
        row[f"{learner}_s"] = median(s for s, _ in mine) if mine else None
        ratios = [a / b for (a, _), (b, _) in zip(mine, base, strict=True)] if mine and base else []
        row[f"{learner}_ratio"] = median(ratios) if ratios else None
        row[f"{learner}_kept_mib"] = median(size for _, size in mine) if mine else None
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
    columns = f"{'ratio':>6} {'kept MiB':>9}"
    print(f"{'judge':<24} {'student':>8} {columns} {'critic':>8} {columns} {'prefix':>8} {'heads':>8}")
    for row in rows:
        shares = " ".join(f"{'-':>8}" if row[key] is None else f"{row[key]:8.1f}" for key in PARTS)
        print(f"{row['name']:<24} {told(row, 'student')} {told(row, 'critic')} {shares}")
    machine = {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "command": " ".join(sys.argv),
    }  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
