"""Pace of a causal Wan student of a published size, random weights: by attention kernel, compiled and not.

    python tools/bench_stream_gpu.py [--size 1.3b] [--pixels 480x832] [--decode] [--json FILE]
    python tools/bench_stream_gpu.py --size tiny --pixels 64x64 --device cpu       # to try it without a GPU

Blocks of 3 latent frames, 4 steps and the pass that remembers, window 12, sink 3, relative places, 512 text tokens.
Keys of each row of the JSON:
  kernel, compiled  the attention kernel (native: torch's choice), and whether blocks went through torch.compile
  block_ms          median milliseconds of a block once the window is full
  fps               frames of video a second that makes, without a decoder
  fps_decoded       the same with the decoder's time (--decode: AutoencoderKLWan at its published size)
  first_block_ms    a new stream's first block, with the prompt's keys and values, after everything is warm
  mfu               FLOPs of such a block a second, over those of the best matrix product measured
  memory_gib        most memory that was allocated meanwhile (CUDA)
  syncs             times the processor waited for the GPU in a block (CUDA)
  fault             why a row could not be measured, in place of its figures
The aims, for 1.3b at 480x832 on an H200: fps >= 30, mfu >= 0.4. Not verified on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vdistill.app.demos import machine
from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan
from vdistill.causal.stream import Stream
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Net
from vdistill.core.schedule import Schedule
from vdistill.families.clock import Clock
from vdistill.families.wan import WanNet
from vdistill.families.wan_codec import WanCodec

SIZES = {"1.3b": (12, 30, 8960, 4096), "14b": (40, 40, 13824, 4096), "tiny": (1, 2, 256, 64)}
"""heads of 128 channels, layers, width of the feed-forward network, width of the text."""
PLAN = Plan(Layout(3, window=12, sink=3, places="relative"), (1.0, 0.9375, 5 / 6, 0.625))
KERNELS = {
    "native": None, "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip
FULL = 5  # blocks after which the window is full
TEXT = 512


def student(size: str, device: torch.device, dtype: torch.dtype) -> Net:
    """Random weights of a stock Wan transformer; what diffusers keeps in float32 stays so."""
    heads, layers, ffn, text = SIZES[size]
    with device:
        torch.manual_seed(0)
        model = WanTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=128, text_dim=text, ffn_dim=ffn, num_layers=layers
        ).eval()
    wide = model._keep_in_fp32_modules or ()
    for name, value in model.requires_grad_(False).named_parameters():
        value.data = value.data if any(part in name for part in wide) else value.data.to(dtype)
    schedule = Schedule("rf", shift=5.0)
    return Net(WanNet({"transformer": model}, Clock(schedule, "flow")), schedule, "flow")


def waited(device: torch.device) -> None:
    """Until the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one run, to its end."""
    waited(device)
    begun = time.perf_counter()
    run()
    waited(device)
    return time.perf_counter() - begun


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of the best square matrix product."""
    best = 0.0
    for n in (4096, 8192) if device.type == "cuda" else (1024, 2048):
        a = torch.randn(n, n, device=device, dtype=dtype)
        best = max(best, *(2 * n**3 / seconds(lambda a=a: a @ a, device) for _ in range(10)))  # type: ignore[misc]
    return best


def block_flops(stream: Stream) -> int:
    """FLOPs of a block of a stream whose window is full, by plain products: the counter misses fused ones of a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        next(stream)
    return counter.get_total_flops()


def syncs_of(stream: Stream) -> int | None:
    """Times a block makes the processor wait; None where there is no GPU."""
    if torch.device(stream.device).type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            next(stream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in found)


def row(begin: Callable[[], Stream], kernel: str, blocks: int, peak: float, flops: int) -> dict[str, Any]:
    """The figures of one kernel on the network as it is."""
    backend = KERNELS[kernel]
    chosen: AbstractContextManager[None] = nullcontext() if backend is None else sdpa_kernel(backend)
    stream = begin()
    device = torch.device(stream.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with chosen:
        for _ in range(FULL):
            next(stream)
        taken = median(seconds(lambda: next(stream), device) for _ in range(blocks))
        waits = syncs_of(stream)
        first = median(seconds(lambda: next(begin()), device) for _ in range(5))
    frames = 4 * PLAN.layout.block
    found: dict[str, Any] = {"block_ms": 1000 * taken, "fps": frames / taken, "first_block_ms": 1000 * first}
    found |= {"mfu": flops / taken / peak, "syncs": waits}
    found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return found


def decoder_seconds(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> float:
    """Of one block, decoded as a stream does, once it is under way."""
    with device:
        decode = WanCodec(AutoencoderKLWan().eval().requires_grad_(False).to(dtype)).stream()
    latents = torch.randn(1, shape[0], PLAN.layout.block, *shape[1:], device=device, dtype=dtype)
    return median([seconds(lambda: decode(latents), device) for _ in range(6)][2:])


def sides(text: str) -> tuple[int, int]:
    """ "480x832" -> (height, width)."""
    high, _, wide = text.partition("x")
    found = (int(high), int(wide))
    if min(found) < 16 or any(side % 16 for side in found):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HxW, both multiples of 16")
    return found


def measured(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kernel, without and with compiling."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    high, wide = args.pixels
    shape = (16, high // 8, wide // 8)
    net, peak = student(args.size, device, dtype), matmul_peak(device, dtype)
    cond = Cond({"text": torch.randn(1, TEXT, SIZES[args.size][3], device=device, dtype=dtype)})

    def begin() -> Stream:
        return Stream(net, PLAN, shape, cond, device=device)

    stream = begin()
    for _ in range(FULL):
        next(stream)
    flops = block_flops(stream)
    decoding = decoder_seconds(shape, device, dtype) if args.decode else None
    rows = []
    for compiled in (False, True) if args.compile else (False,):
        if compiled:
            assert isinstance(net.net, WanNet)
            net.net.compile_blocks()
        for kernel in args.kernels:
            found: dict[str, Any] = {"kernel": kernel, "compiled": compiled}
            try:
                found |= row(begin, kernel, args.blocks, peak, flops)
            except RuntimeError as error:  # a kernel that this machine or shape does not have
                found["fault"] = str(error).strip().splitlines()[0]
            if decoding is not None and "block_ms" in found:
                found["fps_decoded"] = 4 * PLAN.layout.block / (found["block_ms"] / 1000 + decoding)
            rows.append(found)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}, flush=True)
    return rows


@torch.no_grad()
def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.3b")
    parser.add_argument("--pixels", metavar="HxW", type=sides, default="480x832")
    parser.add_argument("--blocks", type=int, default=20, help="blocks that are timed")
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=["native", "flash", "cudnn"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--decode", action="store_true", help="measure the decoder too")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(given)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU was found; --device cpu --size tiny --pixels 64x64 tries it without one")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: no folder {args.json.parent}; make it first")
    rows = measured(args)
    about = torch.cuda.get_device_name() if torch.device(args.device).type == "cuda" else machine()
    found = {"size": args.size, "pixels": "x".join(map(str, args.pixels)), "rows": rows, "machine": about}
    found |= {"versions": f"torch {torch.__version__}", "command": " ".join(["python", *sys.argv])}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
