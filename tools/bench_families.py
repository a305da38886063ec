"""Our guided teacher against the stock pipeline's denoising step: the same network, latents, text, schedule, guidance.

    python tools/bench_families.py [--only wan flux] [--sizes tiny mid] [--json FILE] [--markdown docs/benchmarks.md]

A step is timed from its first network call to the first of the next: network passes, guidance and scheduler step, on
both sides. Short runs of the two loops take turns in one process; the ratio is that of the medians of their steps, in
processor time on one thread (what else runs on the machine hardly counts) and in wall time; `ratio` is the former.
tiny: the random weights of the contract tests, where a step is mostly Python. mid: the same classes, eight times as
wide, a step of a hundred milliseconds and more. `ratio_max` is the largest ratio at mid size, `ratio_max_tiny` at tiny.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from vdistill.app.catalog import FAMILIES, PIPELINES, find
from vdistill.app.generate import guided
from vdistill.core.denoiser import Denoiser
from vdistill.families.random_tiny import CALLS, NETWORKS, TINY_CALLS, VARIANTS, random_tiny
from vdistill.families.stock import StockFamily
from vdistill.families.stock_sampler import sample_stock

SIZES = ("tiny", "mid")
SIDES = 6
"""Sides of the clip, in units of the tiny call's."""
OTHER_SIDES = {"hunyuan15": 2, "animatediff": 2, "sd3": 8, "flux": 8, "ltx": 8}
FEW_POSITIONS = {"cogvideox-i2v": 1, "cogvideox15-5b": 1, "dit": 1, "sd3": 4}
"""Sides at tiny size of those whose table of positions ends there; at mid size it grows."""
WIDER = 8
WIDTHS = ("num_attention_heads", "ffn_dim", "caption_projection_dim", "added_kv_proj_dim")
"""What grows with the width of a transformer; of some, so does what the text is projected to."""
POSITIONS = ("sample_height", "sample_width", "sample_size", "pos_embed_max_size")
ANY_SIZE = ("PixArtTransformer2DModel",)
TEXT_AS_WIDE = ("LTXVideoTransformer3DModel", "PixArtTransformer2DModel")
PROMISE = 1.02
BLOCK = re.compile(r"(<!-- families:begin -->\n).*?(<!-- families:end -->)", re.DOTALL)


def widened(network: Any) -> Any:
    """A network of the same class with more channels and random weights."""
    config, kind = dict(network.config), type(network).__name__
    if "block_out_channels" in config:
        more = {"block_out_channels": [12 * n for n in config["block_out_channels"]], "norm_num_groups": 8}
    else:
        names = (*WIDTHS, "cross_attention_dim") if kind in TEXT_AS_WIDE else WIDTHS
        more = {name: WIDER * config[name] for name in names if config.get(name)}
        more |= {name: SIDES * config[name] for name in POSITIONS if config.get(name) and kind not in ANY_SIZE}
    torch.manual_seed(0)
    return type(network).from_config(config | more).eval().requires_grad_(False)


def opened(variant: str, size: str) -> StockFamily:
    """A family over the pipeline of a variant."""
    pipe = random_tiny(variant)
    if size == "mid":
        parts = {name: getattr(pipe, name, None) for name in NETWORKS}
        pipe.register_modules(**{name: widened(part) for name, part in parts.items() if part is not None})
    return find(FAMILIES, PIPELINES[type(pipe).__name__])(pipe, "")  # type: ignore[no-any-return]


class StepClock:
    """Notes when each step's first network call begins."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.begun: list[tuple[float, float, float]] = []
        for network in networks:
            network.register_forward_pre_hook(self._noting(inspect.signature(type(network).forward)), with_kwargs=True)

    def _noting(self, signature: inspect.Signature) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            value = float(torch.as_tensor(signature.bind(module, *args, **named).arguments["timestep"]).max())
            if not self.begun or self.begun[-1][0] != value:
                self.begun.append((value, time.process_time(), time.perf_counter()))

        return note

    def steps(self, run: Callable[[], Any]) -> list[tuple[float, float]]:
        """(processor, wall) milliseconds of every step but the last."""
        self.begun.clear()
        run()
        pairs = zip(self.begun, self.begun[1:], strict=False)
        return [(1e3 * (later[1] - now[1]), 1e3 * (later[2] - now[2])) for now, later in pairs]


def call_of(variant: str, size: str, family: StockFamily) -> tuple[dict[str, Any], tuple[int, ...], Tensor | None]:
    """(the pipeline's call, latent shape, first picture): larger than the contract's, with captions as long as ours."""
    asked, call = TINY_CALLS[variant], dict(CALLS[variant])
    grown = (OTHER_SIDES | (FEW_POSITIONS if size == "tiny" else {})).get(variant, SIDES)
    height, width = (asked.height or 64) * grown, (asked.width or 64) * grown
    if asked.height:
        call |= {"height": height, "width": width}
    if "max_sequence_length" in call:
        call["max_sequence_length"] = family.text_length
    picture = None
    if "image" in call:
        call["image"] = call["image"].resize((width, height))
        picture = torch.from_numpy(np.array(call["image"])).permute(2, 0, 1)[None].float() / 127.5 - 1
    return call, tuple(family.codec.shape(asked.frames or 1, height, width)), picture


def measure(variant: str, size: str, steps: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a step, ours and stock, and their ratio."""
    family = opened(variant, size)
    call, shape, picture = call_of(variant, size, family)
    scale = float(call.get("guidance_scale") or 6.0)
    cond = family.text([call.get("prompt") or str(call["class_labels"][0])])
    for name, value in {} if picture is None else family.from_image(picture, shape).items():
        cond = cond.with_field(name, value)
    noise = family.noise(shape, torch.Generator().manual_seed(0))

    def at(step: int, timestep: float, count: int) -> Denoiser:
        return guided(family, family.net, family.scale_at(scale, timestep, count))

    def ours() -> None:
        sample_stock(family, at, noise, cond, steps, torch.Generator().manual_seed(0))

    def stock() -> None:
        family.pipe(**call, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), return_dict=False)

    watch, runs = StepClock(list(family.network_of().parts.values())), {"ours": ours, "stock": stock}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name in sorted(runs, reverse=bool(turn % 2)):
            timed = watch.steps(runs[name])
            found[name] += timed if turn else []  # the first turn warms up
    cpu, wall = ({name: statistics.median(pair[i] for pair in pairs) for name, pairs in found.items()} for i in (0, 1))
    return {
        "variant": variant, "family": family.name, "size": size, "latents": list(shape), "steps": len(found["ours"]),
        "ours_ms": cpu["ours"], "stock_ms": cpu["stock"], "ratio": cpu["ours"] / cpu["stock"],
        "wall_ratio": wall["ours"] / wall["stock"],
    }  # fmt: skip


def keep_memory() -> None:
    """Let the C library keep what is freed: whether a loop meets fresh pages would depend on what ran before it."""
    if platform.libc_ver()[0] == "glibc":
        for what, most in ((-1, 1 << 30), (-3, 1 << 25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and its largest
            ctypes.CDLL(None).mallopt(what, most)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }  # fmt: skip


def largest(rows: Sequence[Mapping[str, Any]], size: str) -> float | None:
    """The largest ratio at a size; None without rows of it."""
    return max((row["ratio"] for row in rows if row["size"] == size), default=None)


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    on, rows = found["machine"], found["rows"]
    lines = [
        "| teacher | size | latents | steps timed | ours, ms | stock, ms | ratio | in wall time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shown = "x".join(map(str, row["latents"]))
        lines.append(
            f"| {row['variant']} | {row['size']} | {shown} | {row['steps']} | {row['ours_ms']:.1f} | "
            f"{row['stock_ms']:.1f} | {row['ratio']:.3f} | {row['wall_ratio']:.3f} |"
        )
    said = [f"{size} {most:.3f}" for size in SIZES if (most := largest(rows, size)) is not None]
    lines += [
        "",
        f"Largest ratio: {', '.join(said)}; promised is at most {PROMISE} at mid size. Medians on one machine: "
        f"{on['cpu']}, {on['cores']} cores, {on['threads']} threads used, Python {on['python']}, torch {on['torch']}, "
        f"diffusers {on['diffusers']}; {', '.join(f'`{c}`' for c in dict.fromkeys(row['command'] for row in rows))}.",
    ]
    return "\n".join(lines) + "\n"


def write_markdown(page: Path, found: Mapping[str, Any]) -> None:
    """Put the table between the marks of the page. SystemExit for a page without them."""
    text = page.read_text()
    if not BLOCK.search(text):
        sys.exit(f"{page} has no <!-- families:begin --> and <!-- families:end -->")
    page.write_text(BLOCK.sub(lambda marks: marks[1] + table(found) + marks[2], text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--add", action="store_true", help="keep the rows of the --json file that are not run again")
    parser.add_argument("--markdown", type=Path, help="put the table into this page, between its marks")
    parser.add_argument("--only", nargs="+", choices=[*VARIANTS], default=[*VARIANTS])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--steps", type=int, default=4, help="of one run")
    parser.add_argument("--repeats", type=int, default=8, help="runs of each side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows, command = [], " ".join(["python", *sys.argv])
    print(f"{'variant':<16}{'size':<6}{'latents':<16}{'ours ms':>9}{'stock ms':>9}{'ratio':>8}{'wall':>8}")
    for variant in args.only:
        for size in args.sizes:
            row = measure(variant, size, args.steps, args.repeats) | {"command": command}
            rows.append(row)
            shown, ms = "x".join(map(str, row["latents"])), f"{row['ours_ms']:>9.2f}{row['stock_ms']:>9.2f}"
            print(f"{variant:<16}{size:<6}{shown:<16}{ms}{row['ratio']:>8.3f}{row['wall_ratio']:>8.3f}", flush=True)
    if args.add and args.json and args.json.exists():
        kept = {(row["variant"], row["size"]): row for row in json.loads(args.json.read_text())["rows"]}
        rows = [*(kept | {(row["variant"], row["size"]): row for row in rows}).values()]
    found = {
        "machine": machine(), "ratio_max": largest(rows, "mid"), "ratio_max_tiny": largest(rows, "tiny"), "rows": rows
    }  # fmt: skip
    print("; ".join(f"{name} {found[name]}" for name in ("ratio_max", "ratio_max_tiny", "machine")))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1))
    if args.markdown:
        write_markdown(args.markdown, found)


if __name__ == "__main__":
    main()
