"""Blocks at all noise levels in one forward are the blocks computed level by level, to rounding."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

import pytest
import torch
from causal.families_bed import bed, difference
from torch import Tensor

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan, block_rng
from vdistill.causal.stream import Stream
from vdistill.causal.stream_batch import StreamBatch
from vdistill.causal.student import Remembering
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.rng import EachRng
from vdistill.core.sampling import Move, at, continued, renoised
from vdistill.core.schedule import Schedule

FLOW = Schedule("rf", shift=3.0)
TIMES = (1.0, 0.75, 0.4)
SEEDS = (5, 9)
LAYOUTS = [
    Layout(2, window=6, places="relative"),
    Layout(2, first=1, window=7, sink=1, places="relative"),
    Layout(1, window=4, sink=2, places="anchored"),
    Layout(2, window=2, places="relative"),
]


@dataclass
class Counting:
    inner: Denoiser
    calls: list[int] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        self.calls.append(len(x))
        return self.inner.x0(x, t, cond, attend=attend)


def student(variant: str = "wan") -> Counting:
    return Counting(Net(bed(variant).net, FLOW, "flow"))


def stream(net: Denoiser, layout: Layout, variant: str = "wan", move: Move = renoised) -> StreamBatch:
    b = bed(variant)
    c, _, *sides = b.x.shape[1:]
    plan = Plan(layout, TIMES, unit=b.unit)
    return StreamBatch(net, plan, (c, sides[0], sides[1]), b.cond, SEEDS, dtype=torch.float64, move=move)


@torch.no_grad()
def level_by_level(made: StreamBatch, blocks: int) -> list[Tensor]:
    """The same blocks, each level in a run of its own over all blocks, at their own numbers."""
    plan, (c, *sides) = made.plan, made.shape
    spans, number = [], 0
    for i in range(blocks):
        count = plan.layout.block if i else plan.layout.first or plan.layout.block
        spans.append(range(number, number + count))
        number += count
    rngs = [EachRng(SEEDS[0], turn=f"stream/{ids[0]}", seeds=SEEDS) for ids in spans]
    xs = [
        rng.normal("noise", (len(SEEDS), c, len(ids) * plan.unit, *sides)).double()
        for rng, ids in zip(rngs, spans, strict=True)
    ]
    for level, t in enumerate(TIMES):
        cache, clean = Cache(plan.layout), []
        for x, ids in zip(xs, spans, strict=True):
            view = View(cache, ids)
            view.keep = True
            clean.append(Remembering(made.student, view).x0(x, at(x, t), made.cond))
            view.commit()
        if level + 1 == len(TIMES):
            return clean
        u = TIMES[level + 1]
        zs = [block_rng(r, ids[0]).normal(f"z/{level + 1}", x.shape, x) for r, ids, x in zip(rngs, spans, xs)]  # noqa: B905
        xs = [made.move(FLOW, x0, x, at(x, t), at(x, u), z) for x0, x, z in zip(clean, xs, zs, strict=True)]
    return clean


@pytest.mark.parametrize("layout", LAYOUTS, ids=["window", "first and sink", "anchored", "no memory"])
@pytest.mark.parametrize("move", [renoised, continued])
def test_one_batch_of_all_levels_is_level_by_level(layout: Layout, move: Move) -> None:
    made = stream(student(), layout, move=move)
    blocks = [*islice(made, 12)]
    assert made.together is not None
    truth = level_by_level(made, 12)
    assert max(difference(a, b) for a, b in zip(blocks, truth, strict=True)) < 1e-10
    assert difference(blocks[-1], blocks[-2]) > 1e-2


@pytest.mark.parametrize("variant", ["cogvideox15-5b", "hunyuan", "ltx"])
def test_it_is_so_in_other_families(variant: str) -> None:
    made = stream(student(variant), LAYOUTS[1], variant)
    blocks = [*islice(made, 8)]
    assert made.together is not None
    assert max(difference(a, b) for a, b in zip(blocks, level_by_level(made, 8), strict=True)) < 1e-10


def test_in_steady_state_a_block_costs_one_forward_of_as_many_samples_as_steps() -> None:
    net = student()
    made = stream(net, LAYOUTS[0])
    while made.together is None:
        next(made)
    net.calls.clear()
    blocks = [next(made) for _ in range(3)]
    assert net.calls == [len(TIMES) * len(SEEDS)] * 3 and len(blocks) == 3


def test_memory_does_not_grow() -> None:
    made = stream(student(), LAYOUTS[1])
    while made.together is None:
        next(made)
    before = made.together.nbytes()
    for _ in range(8):
        next(made)
    assert made.together.nbytes() == before and len(made.flying) == len(TIMES) - 1 and made.caches == []


def test_a_guided_student_streams_the_same() -> None:
    guided = Guided(student(), cfg(2.0))
    b = bed("wan")
    made = stream(guided, LAYOUTS[0])
    made.cond = replace(b.cond, null={**b.cond.null, "text": torch.zeros_like(b.cond.fields["text"][:1])})
    blocks = [*islice(made, 9)]
    assert made.together is not None
    truth = level_by_level(made, 9)
    assert max(difference(x, y) for x, y in zip(blocks, truth, strict=True)) < 1e-10


def test_with_one_step_and_no_memory_it_is_the_stream() -> None:
    b, layout = bed("wan"), Layout(2, window=2, places="relative")
    c, _, h, w = b.x.shape[1:]
    net = Net(bed("wan").net, FLOW, "flow")
    plan = Plan(layout, (0.9,))
    ours = StreamBatch(net, plan, (c, h, w), b.cond, SEEDS, dtype=torch.float64)
    theirs = Stream(net, plan, (c, h, w), b.cond, SEEDS)
    for mine, other in zip(islice(ours, 3), islice(theirs, 3), strict=True):
        assert difference(mine, other.double()) < 1e-5  # Stream draws and computes in float32


def test_a_new_prompt_is_of_the_blocks_that_enter_after_it() -> None:
    kept, told = stream(student(), LAYOUTS[0]), stream(student(), LAYOUTS[0])
    for made in (kept, told):
        [*islice(made, 6)]
    told.switch(told.cond.with_field("text", told.cond.fields["text"].flip(0)))
    pairs = [(next(kept), next(told)) for _ in range(4)]
    assert [difference(a, b) > 1e-6 for a, b in pairs] == [False, False, True, True]


@pytest.mark.parametrize("layout", [Layout(2, places="relative"), Layout(2, window=6)])
def test_a_layout_whose_levels_cannot_share_places_is_one_line(layout: Layout) -> None:
    with pytest.raises(UserError, match="stream batch.*relative"):
        stream(student(), layout)


def test_other_steps_for_the_first_block_are_one_line() -> None:
    b = bed("wan")
    with pytest.raises(UserError, match="first block"):
        StreamBatch(student(), Plan(LAYOUTS[0], TIMES, first=(1.0,)), (1, 2, 2), b.cond, SEEDS)
