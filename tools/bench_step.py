"""DMD2 step time and memory: full roles against adapters on one shared base; guidance batched against one by one.

python tools/bench_step.py [--json FILE] [--dim 256] [--batch 8] [--steps 6]

Keys of the JSON: machine (cpu, cores, threads, torch, command); base_mib: weights of one network; for each of
"full" and "lora": step_s (median of student-and-critic steps), weights_mib (all distinct weights the roles hold),
weights_ratio (to the base), peak_rss_mib (of a process of its own); ratio_lora_full: step_s of lora / full;
teacher_graph: whether the teacher's answer ever carried an autograd graph (must be false);
guidance: batched_s, sequential_s, ratio_sequential_batched of one guided call, max_difference of their answers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdistill.app.build import build, engine_of
from vdistill.app.schema import Config
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.rng import Rng
from vdistill.families.tiny import TinyFamily, TinySize
from vdistill.methods.dmd2 import Dmd2
from vdistill.worlds.shapes import Shapes


def config(scope: str, teacher: Path, batch: int, steps: int) -> Config:
    """A DMD2 run on the shapes world with an untrained teacher of the shipped teacher's shape."""
    return Config.model_validate(
        {
            "name": "bench",
            "family": {"name": "tiny", "path": str(teacher)},
            "data": {"name": "shapes"},
            "method": {"name": "dmd2", "critic_per_student": 1, "guidance": {"scale": 2.0}},
            "scope": {"name": scope},
            "optim": {"ema": 0.0},
            "train": {"steps": steps, "batch": batch, "checkpoint_every": 0},
        }
    )


def untrained(folder: Path, dim: int) -> None:
    """A teacher of the shipped one's shape and any width; what it says does not matter for time and memory."""
    world = Shapes()
    family = TinyFamily.build(TinySize(dim=dim, ffn=2 * dim), [world.caption(i) for i in range(500)])
    family.save(family.net, folder)


def distinct_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measure(scope: str, teacher: Path, batch: int, steps: int, out: Path) -> dict[str, float | bool]:
    """One scope, in this process."""
    built = build(config(scope, teacher, batch, steps))
    engine, method = engine_of(config(scope, teacher, batch, steps), built, out), built.method
    assert isinstance(method, Dmd2) and isinstance(method.teacher, Guided)
    held: list[nn.Module] = [*method.learners.values()]
    held += [m for m in (getattr(d, "net", d) for d in (method.teacher.denoiser, method.student, method.critic))
             if isinstance(m, nn.Module)]  # fmt: skip
    graphs: list[bool] = []
    inner = method.teacher.denoiser
    answer = inner.x0

    def watched(*args: Any, **more: Any) -> Tensor:
        graphs.append((answered := answer(*args, **more)).requires_grad)
        return answered

    inner.x0 = watched  # type: ignore[method-assign]
    seconds: list[float] = []
    engine.run(lambda report: seconds.append(report.seconds))
    family_net = built.family.net
    return {
        "step_s": statistics.median(seconds[1:]),
        "base_mib": distinct_bytes(p for n, p in family_net.named_parameters() if "lora_" not in n) / 2**20,
        "weights_mib": distinct_bytes(p for m in held for p in m.parameters()) / 2**20,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "teacher_graph": any(graphs) or not graphs,
    }


def guidance(teacher: Path, batch: int) -> dict[str, float]:
    """One guided teacher call, its two branches in one forward and in two."""
    built = build(config("full", teacher, batch, 1))
    batch_ = built.source(0, 0)
    xt, t = Rng(0).normal("x", batch_.x.shape), Rng(0).uniform("t", (batch,))
    calls = {"batched": Guided(built.family.net, cfg(2.0)), "sequential": Guided(built.family.net, cfg(2.0), batch)}
    answers, found = {}, {}
    with torch.no_grad():
        for name, call in calls.items():
            call.x0(xt, t, batch_.cond)
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                answers[name] = call.x0(xt, t, batch_.cond)
                times.append(time.perf_counter() - begun)
            found[f"{name}_s"] = statistics.median(times)
    found["ratio_sequential_batched"] = found["sequential_s"] / found["batched_s"]
    found["max_difference"] = float((answers["batched"] - answers["sequential"]).abs().max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", choices=("full", "lora"), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, default=Path("runs/bench_step"))
    args = parser.parse_args()
    if args.only:
        print(
            json.dumps(measure(args.only, args.scratch / "teacher", args.batch, args.steps, args.scratch / args.only))
        )
        return
    untrained(args.scratch / "teacher", args.dim)
    rows = {}
    for scope in ("full", "lora"):  # each in a process of its own, so that peaks do not mix
        command = [sys.executable, __file__, "--only", scope, "--scratch", str(args.scratch)]
        command += ["--dim", str(args.dim), "--batch", str(args.batch), "--steps", str(args.steps)]
        rows[scope] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        rows[scope]["weights_ratio"] = rows[scope]["weights_mib"] / rows[scope]["base_mib"]
    found = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                    "threads": torch.get_num_threads(), "torch": torch.__version__, "command": " ".join(sys.argv)},
        "base_mib": rows["full"].pop("base_mib"), **rows,
        "ratio_lora_full": rows["lora"]["step_s"] / rows["full"]["step_s"],
        "teacher_graph": rows["full"]["teacher_graph"] or rows["lora"]["teacher_graph"],
        "guidance": guidance(args.scratch / "teacher", args.batch),
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
