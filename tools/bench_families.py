"""Our guided teacher against the stock pipeline's denoising step: the same network, latents, schedule and guidance.

    python tools/bench_families.py [--json FILE] [--only wan flux] [--repeats 5] [--steps 8]

Seconds from the first network call of a step to the first of the next: network passes, guidance and scheduler step. The
two loops take turns in one process; the ratio is that of their medians. Tiny random weights of the stock classes, on
latents large enough that a step takes a few dozen milliseconds.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from vdistill.app.catalog import PIPELINES
from vdistill.app.generate import guided
from vdistill.app.models import random_model
from vdistill.core.denoiser import Denoiser
from vdistill.families.random_tiny import CALLS, TINY_CALLS, VARIANTS, random_tiny
from vdistill.families.stock import StockFamily
from vdistill.families.stock_sampler import sample_stock

GROWN = {"cogvideox-i2v": 1, "cogvideox15-5b": 1, "hunyuan15": 2, "dit": 1, "animatediff": 2}
"""Sides, in units of the tiny call's; SIDES for the others."""
SIDES = 6


class StepClock:
    """Notes when each step's first network call begins."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.begun: list[tuple[float, float]] = []
        for network in networks:
            network.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = inspect.signature(type(module).forward).bind(module, *args, **named).arguments
        value = float(torch.as_tensor(given["timestep"]).flatten().max())
        if not self.begun or self.begun[-1][0] != value:
            self.begun.append((value, time.perf_counter()))

    def steps(self, run: Callable[[], Any]) -> list[float]:
        """Seconds of every step but the last."""
        self.begun.clear()
        run()
        return [b - a for (_, a), (_, b) in zip(self.begun, self.begun[1:], strict=False)]


def prepared(variant: str) -> tuple[StockFamily, dict[str, Any], tuple[int, int, int, int], float]:
    """(family, the pipeline's call, latent shape, guidance scale)."""
    family = random_model(variant, PIPELINES[type(random_tiny(variant)).__name__], 0, torch.float32, "")
    asked, call, grown = TINY_CALLS[variant], dict(CALLS[variant]), GROWN.get(variant, SIDES)
    height, width = (asked.height or 64) * grown, (asked.width or 64) * grown
    if asked.height:
        call |= {"height": height, "width": width}
    if "image" in call:
        call["image"] = call["image"].resize((width, height))
    shape = family.codec.shape(asked.frames or 1, height, width)
    return family, call, tuple(shape), float(call.get("guidance_scale") or 6.0)  # type: ignore[return-value]


def measure(variant: str, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step, ours and stock, and their ratio."""
    family, call, shape, scale = prepared(variant)
    caption = call.get("prompt") or str(call["class_labels"][0])
    cond, noise = family.text([caption]), family.noise(shape, torch.Generator().manual_seed(0))
    if "image" in call:
        pixels = torch.frombuffer(bytearray(call["image"].tobytes()), dtype=torch.uint8)
        pixels = pixels.view(1, call["image"].height, call["image"].width, 3).permute(0, 3, 1, 2).float() / 127.5 - 1
        for name, value in family.from_image(pixels, shape).items():
            cond = cond.with_field(name, value)

    def at(step: int, timestep: float, count: int) -> Denoiser:
        return guided(family, family.net, family.scale_at(scale, timestep, count))

    def ours() -> None:
        sample_stock(family, at, noise, cond, steps, torch.Generator().manual_seed(0))

    def stock() -> None:
        family.pipe(**call, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), return_dict=False)

    watch = StepClock(list(family.network_of().parts.values()))
    watch.steps(ours), watch.steps(stock)
    found: dict[str, list[float]] = {"ours": [], "stock": []}
    for turn in range(repeats):
        for name, run in (("ours", ours), ("stock", stock))[:: 1 if turn % 2 else -1]:
            found[name] += watch.steps(run)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        "variant": variant, "family": family.name, "latents": list(shape), "ours_ms": 1e3 * medians["ours"],
        "stock_ms": 1e3 * medians["stock"], "ratio": medians["ours"] / medians["stock"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    known = [v for v in args.only or VARIANTS if type(random_tiny(v)).__name__ in PIPELINES]
    rows = []
    print(f"{'variant':<16}{'latents':<20}{'ours ms':>9}{'stock ms':>9}{'ratio':>8}")
    for variant in known:
        row = measure(variant, args.steps, args.repeats)
        rows.append(row)
        shown = "x".join(map(str, row["latents"]))
        print(f"{variant:<16}{shown:<20}{row['ours_ms']:>9.2f}{row['stock_ms']:>9.2f}{row['ratio']:>8.3f}", flush=True)
    found = {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                    "threads": torch.get_num_threads(), "torch": torch.__version__,
                    "diffusers": diffusers.__version__, "command": " ".join(sys.argv)},
        "ratio_max": max(row["ratio"] for row in rows), "rows": rows,
    }  # fmt: skip
    print(f"largest ratio {found['ratio_max']:.3f}; {found['machine']}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
