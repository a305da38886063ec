"""What a causal student's memory costs and saves, as ratios measured in one run on random weights of stock Wan classes.

    python tools/bench_stream.py [--json FILE] [--chunks 3400] [--markdown docs/benchmarks.md]

Keys of the JSON:
  cached_speedup_21  seconds of one block of 3 latent frames when the prefix of 18 is computed again at each of 4 steps,
                     under the block-causal mask, over seconds with the memory (4 steps and the pass that remembers)
  roofline_ratio     seconds of one pass of a block that sees 21 frames over the seconds of its matrix products alone:
                     its linear layers and the two of its attention, each measured at its own shape
  peak_share         FLOPs of that pass a second over those of the best matrix product measured
  text_ratio         seconds of a pass that computes keys and values of 512 text tokens, over those of one
                     that reads them as a stream does
  overhead_ratio     seconds of such a pass over the same pass whose keys and values lie ready, rotated and in one piece
  chunk_growth       median seconds of a block after `--chunks` blocks over those after 100, measured in turn
                     (window 12, sink 3, relative places)
  memory_growth      bytes of memory and kept latents after `--chunks` blocks over those after 100
  rss_growth         resident set of the process likewise
  frames             latent frames that stream made
  machine, versions, command
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from vdistill.app.demo_stream import resident
from vdistill.app.demos import machine
from vdistill.causal.attend import Masked, View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.masks import block_causal
from vdistill.causal.rollout import Plan
from vdistill.causal.stream import Stream
from vdistill.core.attention import Rope
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Net
from vdistill.core.schedule import Schedule
from vdistill.families.clock import Clock
from vdistill.families.wan import WanNet

TIMES = (1.0, 0.9375, 5 / 6, 0.625)


def student(dim: int, layers: int, seed: int = 0) -> Net:
    """Random weights of a stock Wan transformer with heads of 64 channels."""
    torch.manual_seed(seed)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=dim // 64, attention_head_dim=64, in_channels=16, out_channels=16,
        text_dim=256, freq_dim=256, ffn_dim=4 * dim, num_layers=layers,
    ).eval()  # fmt: skip
    schedule = Schedule("rf", shift=5.0)
    return Net(WanNet({"transformer": model.requires_grad_(False)}, Clock(schedule, "flow")), schedule, "flow")


def seconds(*runs: Callable[[], object], repeats: int = 9) -> list[float]:
    """Median seconds of each, run in turn."""
    found: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(repeats):
        for times, run in zip(found, runs, strict=True):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    return [median(times) for times in found]


class Ready:
    """An `Attend` whose keys and values lie ready: what attention costs without a memory to care for."""

    def __init__(self, keys: int) -> None:
        self.keys, self.held = keys, dict[int, tuple[Tensor, Tensor]]()

    def __call__(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rope: Rope | None,
        *,
        prefix: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        if layer not in self.held:
            shape = (*k.shape[:2], self.keys, k.shape[3])
            self.held[layer] = torch.randn(shape, dtype=k.dtype), torch.randn(shape, dtype=k.dtype)
        return scaled_dot_product_attention(rope(q) if rope else q, *self.held[layer])


def products(dim: int, layers: int, tokens: int, keys: int, text: int = 32) -> float:
    """Seconds of the matrix products of one pass, one by one at their own shapes."""

    def taken(*shapes: tuple[int, ...]) -> float:
        a, b = (torch.randn(shape) for shape in shapes)
        return min(seconds(lambda: a @ b, repeats=9))

    heads, head = dim // 64, 64
    square, wide = taken((tokens, dim), (dim, dim)), taken((tokens, dim), (dim, 4 * dim))
    narrow, told = taken((tokens, 4 * dim), (4 * dim, dim)), taken((text, dim), (dim, dim))
    own = taken((heads, tokens, head), (heads, head, keys)) + taken((heads, tokens, keys), (heads, keys, head))
    other = taken((heads, tokens, head), (heads, head, text)) + taken((heads, tokens, text), (heads, text, head))
    return layers * (6 * square + 2 * told + wide + narrow + own + other)


def matmul_peak(tokens: int, dim: int) -> float:
    """FLOPs a second of the best of the network's own matrix products."""
    best = 0.0
    for n, k in ((4 * dim, dim), (dim, 4 * dim), (dim, dim), (2048, 2048)):
        a, b = torch.randn(max(tokens, 1024), k), torch.randn(k, n)
        taken = min(seconds(lambda a=a, b=b: a @ b, repeats=15))  # type: ignore[misc]
        best = max(best, 2 * a.shape[0] * k * n / taken)
    return best


def saved(dim: int, layers: int, side: tuple[int, int]) -> dict[str, float]:
    """cached_speedup_21, roofline_ratio and overhead_ratio."""
    net, layout = student(dim, layers), Layout(3)
    cond = Cond({"text": torch.randn(1, 32, 256)})
    clip = torch.randn(1, 16, 21, *side)
    t, zero = torch.full((1, 1), 0.8, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    cache = Cache(layout)
    for start in range(0, 18, 3):
        view = View(cache, range(start, start + 3))
        view.keep = True
        net.x0(clip[:, :, start : start + 3], zero, cond, attend=view)
        view.commit()
    block, mask = clip[:, :, 18:], Masked(block_causal(layout, 21))

    def cached() -> None:
        view = View(cache, range(18, 21))
        for _ in TIMES:
            net.x0(block, t, cond, attend=view)
        view.keep = True
        net.x0(block, zero, cond, attend=view)

    def again() -> None:
        times = torch.cat([zero.expand(1, 18), t.expand(1, 3)], 1)
        for _ in TIMES:
            net.x0(clip, times, cond, attend=mask)

    rows = side[0] * side[1] // 4
    ready, view = Ready(21 * rows), View(cache, range(18, 21))

    def bare() -> Tensor:
        return net.x0(block, t, cond, attend=ready)

    def remembering() -> Tensor:
        return net.x0(block, t, cond, attend=view)

    long = Cond({"text": torch.randn(1, 512, 256)})
    told = replace(cache, told={})
    anew, read = seconds(
        lambda: net.x0(block, t, long, attend=View(cache, range(18, 21))),
        lambda: net.x0(block, t, long, attend=View(told, range(18, 21))), repeats=25,
    )  # fmt: skip
    whole, fast = seconds(again, cached, repeats=5)
    own, plain = seconds(remembering, bare, repeats=25)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it misses fused ones of a CPU
        bare()
    flops, peak = counter.get_total_flops(), matmul_peak(3 * rows, dim)
    return {
        "cached_speedup_21": whole / fast, "overhead_ratio": own / plain, "text_ratio": anew / read,
        "roofline_ratio": own / products(dim, layers, 3 * rows, 21 * rows), "peak_share": flops / own / peak,
        "pass_seconds": own, "pass_gflops": flops / 1e9, "peak_gflops": peak / 1e9,
    }  # fmt: skip


def endless(chunks: int) -> dict[str, float]:
    """chunk_growth, memory_growth, rss_growth and frames."""
    net = student(64, 2)
    plan = Plan(Layout(3, window=12, sink=3, places="relative"), TIMES)
    stream = Stream(net, plan, (16, 4, 4), Cond({"text": torch.randn(1, 8, 256)}))
    early, sizes = None, []
    for i in range(chunks):
        next(stream)
        if i == 100:
            early, before = deepcopy(stream), resident()
            sizes.append(stream.nbytes())
    assert early is not None
    sizes.append(stream.nbytes())
    young, old = seconds(lambda: next(early), lambda: next(stream), repeats=200)
    return {
        "chunk_growth": old / young, "memory_growth": sizes[1] / sizes[0], "rss_growth": resident() / before,
        "frames": stream.number,
    }  # fmt: skip


def write_block(page: Path, found: dict[str, Any]) -> None:
    """Rewrite what stands between the two comments `stream:begin` and `stream:end` of a page."""
    text, begin, end = page.read_text(), "<!-- stream:begin -->\n", "<!-- stream:end -->"
    rows = [f"| {k} | {v:.3f} |" for k, v in found.items() if k.endswith(("_ratio", "_21", "_growth", "_share"))]
    where = f"`{found['command']}`, {found['versions']}, {found['machine']}; {found['frames']} latent frames."
    size = (
        f"Width {found['dim']}, {found['layers']} layers, {found['tokens_a_frame']} tokens a latent frame, blocks of 3."
    )
    block = "\n".join(["| measure | value |", "|---|---|", *rows, "", f"{size} {where}", ""])
    before, _, rest = text.partition(begin)
    page.write_text(before + begin + block + end + rest.partition(end)[2])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="page whose block of these numbers is rewritten")
    parser.add_argument("--chunks", type=int, default=3400, help="blocks of the long stream (default: 3400)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    found: dict[str, Any] = saved(args.dim, args.layers, (24, 40)) | endless(args.chunks)
    found |= {"dim": args.dim, "layers": args.layers, "tokens_a_frame": 240, "machine": machine()}
    found |= {"versions": f"torch {torch.__version__}", "command": " ".join(["python", *sys.argv])}
    for key, value in found.items():
        print(f"{key:20} {value:.4g}" if isinstance(value, float) else f"{key:20} {value}")
    if args.markdown:
        write_block(args.markdown, found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
