"""A small student that several tests stream, of random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan
from vdistill.families.tiny import TinyFamily, TinySize

SHAPE = (48, 2, 2)
PLAN = Plan(Layout(2, window=6, sink=2), (1.0, 0.8, 0.5))


@lru_cache
def family() -> TinyFamily:
    size = TinySize(dim=32, heads=2, layers=2, ffn=64, text_dim=16, text_length=8, spatial=2)
    return TinyFamily.build(replace(size, predicts="flow"), ["a red square moves left", "a blue circle rests"])
