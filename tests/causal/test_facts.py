"""A causal student's two ways to attend are one function, in every video family: the facts all the rest is built on."""

from __future__ import annotations

import pytest
import torch
from causal.families_bed import APART, EXACT, JOINT, POSITIONS, ROTARY, VARIANTS, bed, difference

from vdistill.causal.attend import Masked, View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.masks import bidirectional, block_causal
from vdistill.core.errors import UserError

PLAIN = Layout(2, first=1)
WINDOW = Layout(2, first=1, window=4)
SINK = Layout(2, first=1, window=5, sink=1)
every = pytest.mark.parametrize("variant", VARIANTS)


@every
def test_the_texts_of_a_batch_differ_and_so_do_their_masks(variant: str) -> None:
    b, f = bed(variant), bed(variant).cond.fields
    assert difference(f["text"][:1], f["text"][1:]) > APART and f["text"].abs().amax((1, 2)).min() > APART
    for name in ("text.mask", "text.glyph_mask"):
        assert name not in f or not torch.equal(f[name][0], f[name][1])
    other = b.cond.with_field("text", f["text"].flip(0))
    if "text.mask" in f:
        other = other.with_field("text.mask", f["text.mask"].flip(0))
    with torch.no_grad():
        seen = [b.net(b.x, b.t[:, :1], cond, Masked(bidirectional(POSITIONS))) for cond in (b.cond, other)]
    assert difference(*seen) > 1e-3


@every
@pytest.mark.parametrize("layout", [PLAIN, WINDOW, SINK], ids=["all", "window", "sink"])
def test_a_memory_of_noisy_blocks_is_the_block_causal_mask(variant: str, layout: Layout) -> None:
    b = bed(variant)
    masked = b.causal(layout)
    assert difference(b.blocks(layout), masked) <= EXACT
    assert difference(b.whole(bidirectional(POSITIONS)), masked) > APART


@every
@pytest.mark.parametrize("layout", [PLAIN, WINDOW, SINK], ids=["all", "window", "sink"])
def test_a_memory_of_clean_blocks_is_the_teacher_forcing_mask(variant: str, layout: Layout) -> None:
    b = bed(variant)
    masked = b.beside_clean(layout)
    assert difference(b.blocks(layout, clean=True), masked) <= EXACT
    assert difference(b.causal(layout), masked) > APART


@every
def test_rules_that_are_not_the_same_give_other_clips(variant: str) -> None:
    b = bed(variant)
    seen = [b.causal(layout) for layout in (PLAIN, WINDOW, SINK, Layout(3))]
    assert all(difference(one, other) > 1e-3 for i, one in enumerate(seen) for other in seen[:i])
    assert min(difference(seen[0], other) for other in seen[1:]) > APART


@every
def test_a_time_inside_a_block_is_its_positions_own(variant: str) -> None:
    b, layout = bed(variant), Layout(3)
    t = torch.linspace(0.1, 0.8, POSITIONS, dtype=torch.float64).repeat_interleave(b.unit)[None].repeat(2, 1)
    masked = b.whole(block_causal(layout, POSITIONS), t=t)
    assert difference(b.blocks(layout, t=t), masked) <= EXACT
    assert difference(b.whole(block_causal(layout, POSITIONS), t=t.flip(1)), masked) > APART


@every
def test_one_time_for_all_positions_is_that_time_at_each(variant: str) -> None:
    b, table = bed(variant), block_causal(PLAIN, POSITIONS)
    t = b.t[:, :1]
    assert difference(b.whole(table, t=t), b.whole(table, t=t.expand(b.t.shape))) <= EXACT


@every
def test_two_ways_agree_about_a_stream_that_starts_later(variant: str) -> None:
    b, table = bed(variant), block_causal(SINK, POSITIONS)
    later = b.whole(table, [n + 100_000 for n in range(POSITIONS)])
    assert difference(b.blocks(SINK, start=100_000), later) <= EXACT


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in JOINT])
def test_a_clip_does_not_depend_on_where_a_stream_starts(variant: str) -> None:
    b = bed(variant)
    for clean in (False, True):
        assert difference(b.blocks(SINK, clean, start=100_000), b.blocks(SINK, clean)) <= 1e-6


@pytest.mark.parametrize("variant", JOINT)
def test_text_that_is_not_rotated_sees_absolute_places_so_only_relative_ones_do_not_depend_on_the_start(
    variant: str,
) -> None:
    b = bed(variant)
    assert difference(b.blocks(SINK, start=100_000), b.blocks(SINK)) > APART
    if variant in ROTARY:
        relative = Layout(2, first=1, window=5, sink=1, places="relative")
        assert difference(b.blocks(relative, start=100_000), b.blocks(relative)) == 0.0


@pytest.mark.parametrize("variant", ROTARY)
@pytest.mark.parametrize("rule", ["relative", "anchored"])
def test_places_are_absolute_until_something_leaves_the_memory(variant: str, rule: str) -> None:
    b = bed(variant)
    kept = Layout(2, first=1, window=POSITIONS + 1, sink=1)
    moved = Layout(2, first=1, window=POSITIONS + 1, sink=1, places=rule)  # type: ignore[arg-type]
    assert difference(b.blocks(moved), b.blocks(kept)) <= EXACT
    short = Layout(2, first=1, window=5, sink=1, places=rule)  # type: ignore[arg-type]
    after, before = b.blocks(short), b.blocks(SINK)
    evicted = 5 * b.unit  # the first position of a block whose window does not hold all before it
    assert difference(after[:, :, :evicted], before[:, :, :evicted]) <= EXACT
    assert difference(after[:, :, evicted:], before[:, :, evicted:]) > 1e-4


def test_positions_that_are_added_cannot_move() -> None:
    b = bed("cogvideox-2b")
    for rule in ("relative", "anchored"):
        view = View(Cache(Layout(3, window=6, places=rule)), range(3))  # type: ignore[arg-type]
        with pytest.raises(UserError, match="say absolute"):
            b.ask(0, 3, b.t[:, :1].expand(b.t.shape), view)
