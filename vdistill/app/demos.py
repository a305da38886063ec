"""What both demos share: a training with a time limit, the end of an interrupted one, the facts on a page."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core.engine import Engine, Report
from . import config as configs
from .generate import Plan
from .schema import Config
from .train import SIGNALS, say, train

TEACHER = Plan(steps=50, guidance=2.0)


def recipe(asset: str, seed: int, overrides: Sequence[str] = ()) -> Config:
    """A config that comes with the package, under overrides "method.steps=2"."""
    return configs.load(Path(str(files("vdistill") / "assets" / asset)), [f"seed={seed}", *overrides])


def distil(config: Config, out: Path, minutes: float | None) -> Engine:
    """Train the student; `minutes` ends it early."""
    deadline = time.perf_counter() + 60 * minutes if minutes else float("inf")

    def watch(engine: Engine, report: Report) -> None:
        if time.perf_counter() > deadline:
            engine.stop("minutes")

    return train(config, out, watch=watch)


def interrupted(engine: Engine) -> bool:
    """Whether a signal ended it; then it is told how to go on."""
    if engine.stopped_by not in SIGNALS:
        return False
    say(f"{engine.stopped_by}: step {engine.step} of {engine.steps} is saved; the same command goes on from there")
    return True


def facts(config: Config, summary: Mapping[str, Any], captions: int) -> dict[str, str]:
    """How a page was made."""
    return {
        "machine": str(summary["machine"]), "vdistill": __version__, "torch": torch.__version__,
        "python": platform.python_version(), "method": f"{config.method.name}, {summary['steps']} steps",
        "seed": str(config.seed), "held-out captions": str(captions), "wall": f"{summary['wall_s']:.0f} s",
        "peak memory": f"{summary['peak_rss_gib']:.1f} GiB", "command": " ".join(["vdistill", *sys.argv[1:]]),
    }  # fmt: skip


def machine() -> str:
    """Processor, cores and system, for the record."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
