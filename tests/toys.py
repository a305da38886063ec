"""Small real models and data that several tests share."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from vdistill.core.engine import Cadence, Engine
from vdistill.core.optim import OptimSpec
from vdistill.families.tiny import TinyFamily, TinySize
from vdistill.methods.flow import Flow, FlowConfig
from vdistill.worlds.shapes import Shapes
from vdistill.worlds.source import ShapesSource

SIZE = TinySize(dim=16, heads=2, layers=2, ffn=32, text_dim=16, text_length=16, temporal=4, spatial=8, std=0.33)
WORLD = Shapes(frames=5, size=16)


@lru_cache
def captions() -> tuple[str, ...]:
    return tuple(WORLD.caption(i) for i in range(200))


def tiny_family(seed: int = 0) -> TinyFamily:
    """A stock Wan pipeline of 30k parameters on 5 frames of 16 x 16 pixels."""
    return TinyFamily.build(SIZE, captions(), seed)


def shapes_source(family: TinyFamily, batch: int = 2, micro: int = 1) -> ShapesSource:
    return ShapesSource(WORLD, family.codec, family.text, batch, micro)


def flow_engine(out: Path, *, steps: int = 6, every: int = 2, micro: int = 1, optim: str = "adamw") -> Engine:
    """An engine that trains the tiny family by flow matching."""
    family = tiny_family()
    spec = OptimSpec("muon" if optim == "muon" else "adamw", lr=1e-3, ema=0.9, warmup=2, decay=0.5)
    return Engine(
        Flow(FlowConfig(), family.net, family.net),
        shapes_source(family, micro=micro),
        {"student": spec},
        out,
        steps=steps,
        cadence=Cadence(checkpoint=every, keep=3, micro=micro),
    )


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
