"""Where remembered positions are read is one rule: a pass over a whole clip follows it as a stream does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal.families_bed import JOINT, ROTARY, bed, difference
from causal.student_bed import apart as unlike
from causal.student_bed import by_memory, clips, family, gradients
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout, Places
from vdistill.causal.masks import block_causal, dense, mask_mod, teacher_forcing
from vdistill.causal.places import apart, places
from vdistill.causal.student import AfterClean, BlockCausal, Remembering
from vdistill.core.errors import UserError

RULES: tuple[Places, ...] = ("relative", "anchored")
LENGTH = 15
CLOSE = 1e-6  # networks round cosines and sines of other places to float32
ONES = Layout(1, window=4, sink=1), Layout(1, window=5, sink=3)
"""On nine positions their windows move on by five and four blocks."""
THREES = Layout(3, window=6, sink=1), Layout(3, window=7, sink=3)
"""On fifteen by three."""
rules = pytest.mark.parametrize("rule", RULES)


def bare(layout: Layout) -> str:
    return f"block{layout.block}-sink{layout.sink}"


def test_distances_of_a_window_that_moved_on_are_drawn() -> None:
    """Block of one, sink of one, two before it: the fifth reads 3, 4 as they are and 0 right before them."""
    for rule in RULES:
        layout = Layout(1, window=4, sink=1, places=rule)
        found = apart(block_causal(layout, 5), tuple(range(5)), layout)
        assert found is not None and found.sink == 1 and found.text == (rule == "relative")
        assert found.queries.tolist() == [0, 1, 2, 3, 3]
        assert found.table[4].tolist() == [False, False, True, True, True, True]
        assert found.table[0].tolist() == [True, False, False, False, False, False]


@rules
@pytest.mark.parametrize("layout", [*ONES, *THREES, Layout(2, first=1, window=6, sink=3)], ids=str)
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("begin", [0, 100])
def test_every_distance_is_that_of_the_rule_for_one_block(
    layout: Layout, rule: Places, clean: bool, begin: int
) -> None:
    layout, length = replace(layout, places=rule), LENGTH
    table = teacher_forcing(layout, length) if clean else block_causal(layout, length)
    numbers = [*range(begin, begin + length)] * (2 if clean else 1)
    found = apart(table, tuple(numbers), layout)
    assert found is not None
    for start, count in layout.spans(length):
        sink = range(min(layout.sink, start))
        room = layout.room(count)
        local = range(max(len(sink), start - (room or 0)), start)
        own, keys = places(rule, *[[begin + n for n in each] for each in (sink, local, range(start, start + count))])
        for i, place in enumerate(own):
            row, seen = (length if clean else 0) + start + i, found.table[(length if clean else 0) + start + i]
            read = [float(found.queries[row]) - j for j in range(found.sink) if seen[len(table) + j]]
            read += [numbers[row] - numbers[j] for j in range(len(table)) if seen[j]]
            assert read == (place - keys).tolist()
            if rule == "relative":
                assert found.queries[row] == place


def test_what_is_read_as_it_was_made_needs_no_second_copy() -> None:
    for layout in (Layout(3, window=7, sink=3), *(Layout(3, sink=3, places=rule) for rule in RULES)):
        assert apart(block_causal(layout, LENGTH), tuple(range(LENGTH)), layout) is None
    layout = Layout(3, window=6, places="anchored")
    assert apart(block_causal(layout, LENGTH), tuple(range(LENGTH)), layout) is None
    assert apart(block_causal(ONES[0], 9), tuple(range(9)), replace(ONES[0], places="anchored")) is not None


# -- every family ------------------------------------------------------------------------------------------------------


@rules
@pytest.mark.parametrize("variant", ROTARY)
@pytest.mark.parametrize("layout", ONES, ids=bare)
def test_a_whole_clip_is_read_from_the_places_of_a_stream(variant: str, layout: Layout, rule: Places) -> None:
    b, moved = bed(variant), replace(layout, places=rule)
    assert difference(b.blocks(moved), b.causal(moved)) <= CLOSE
    assert difference(b.blocks(moved, clean=True), b.beside_clean(moved)) <= CLOSE


@rules
@pytest.mark.parametrize("variant", ["wan", "cogvideox-5b", "hunyuan", "ltx"])
@pytest.mark.parametrize("layout", THREES, ids=bare)
def test_and_so_are_blocks_of_three(variant: str, layout: Layout, rule: Places) -> None:
    b, moved = bed(variant, LENGTH), replace(layout, places=rule)
    assert difference(b.blocks(moved), b.causal(moved)) <= CLOSE
    assert difference(b.blocks(moved, clean=True), b.beside_clean(moved)) <= CLOSE


@pytest.mark.parametrize("variant", ["cogvideox-5b", "cogvideox15-5b", "hunyuan", "hunyuan15"])
def test_without_a_sink_relative_places_are_those_of_a_stream_for_the_text(variant: str) -> None:
    b, kept = bed(variant), Layout(1, window=3)
    moved = replace(kept, places="relative")
    assert difference(b.blocks(moved), b.causal(moved)) <= CLOSE
    assert difference(b.blocks(moved, clean=True), b.beside_clean(moved)) <= CLOSE
    assert difference(b.blocks(moved), b.causal(kept)) > 1e-4


@pytest.mark.parametrize("variant", [v for v in ROTARY if v not in JOINT])
def test_without_a_sink_and_text_beside_the_clip_all_rules_are_one(variant: str) -> None:
    b, kept = bed(variant), Layout(1, window=3)
    for rule in RULES:
        moved = replace(kept, places=rule)
        assert torch.equal(b.causal(moved), b.causal(kept))
        assert difference(b.blocks(moved), b.causal(moved)) <= CLOSE


@rules
@pytest.mark.parametrize("variant", ["wan", "cogvideox-5b", "hunyuan", "ltx"])
def test_places_as_they_were_made_are_not_those_of_the_rule(variant: str, rule: Places) -> None:
    b = bed(variant)
    layout, moved = ONES[0], replace(ONES[0], places=rule)
    assert difference(b.blocks(moved), b.causal(layout)) > 1e-4
    assert difference(b.blocks(moved, clean=True), b.beside_clean(layout)) > 1e-4
    same = 4 * b.unit  # before anything leaves
    assert difference(b.causal(moved)[:, :, :same], b.causal(layout)[:, :, :same]) <= CLOSE


def test_positions_that_are_added_cannot_be_read_elsewhere_in_training_either() -> None:
    b = bed("cogvideox-2b")
    for rule in RULES:
        with pytest.raises(UserError, match="say absolute"):
            b.causal(replace(ONES[0], places=rule))


def test_flex_attention_reads_from_two_places_as_well() -> None:
    layout, prefix = replace(ONES[1], places="anchored"), 5
    found = apart(block_causal(layout, 8), tuple(range(8)), layout)
    assert found is not None
    n, m = prefix + 4 * 8, prefix + 4 * found.table.shape[1]
    source = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, *shape, generator=source) for shape in ((n, 32), (m, 32), (m, 16)))
    blocks = create_block_mask(mask_mod(found.table, 4, prefix), None, None, n, m, device="cpu")
    with torch.no_grad():
        ours = flex_attention(q, k, v, block_mask=blocks, scale=0.25)
    assert isinstance(ours, Tensor)
    seen = scaled_dot_product_attention(q, k, v, attn_mask=dense(found.table, 4, prefix), scale=0.25)
    assert torch.allclose(ours, seen, atol=1e-5)


# -- as students are trained -------------------------------------------------------------------------------------------


@rules
@pytest.mark.parametrize("layout", [*ONES, *THREES], ids=bare)
def test_teacher_forcing_trains_what_streams_and_so_does_its_gradient(layout: Layout, rule: Places) -> None:
    f, moved = family(), replace(layout, places=rule)
    batch = clips(f, LENGTH)
    clean, t = batch.x.flip(2), torch.tensor([0.4, 0.8], dtype=torch.float64)
    trained = AfterClean(f.net, moved, clean).x0(batch.x, t, batch.cond)
    with torch.no_grad():
        streamed = by_memory(f.net, moved, clean, batch.x, t, batch)
        absolute = AfterClean(f.net, layout, clean).x0(batch.x, t, batch.cond)
    assert difference(trained.detach(), streamed) <= CLOSE and difference(absolute, streamed) > 1e-4
    weights = torch.randn_like(batch.x)
    one = gradients(f.net, (trained * weights).sum())
    two = gradients(f.net, (AfterClean(f.net, layout, clean).x0(batch.x, t, batch.cond) * weights).sum())
    assert all(g.isfinite().all() for g in one) and unlike(one, two) > 1e-4


@rules
def test_gradients_of_one_pass_are_those_of_a_stream_that_keeps_its_graph(rule: Places) -> None:
    """At a common weight of all layers: the loss of a noisy block reaches what it read of the blocks before it."""
    f, moved = family(), replace(ONES[0], places=rule)
    batch = clips(f, 7)
    t = torch.full((2, 7), 0.5, dtype=torch.float64)
    whole = BlockCausal(f.net, moved).x0(batch.x, t, batch.cond)
    cache, said = Cache(moved, through=True), []
    for start, count in moved.spans(7):
        view = View(cache, range(start, start + count))
        view.keep = True
        part = slice(start, start + count)
        said.append(Remembering(f.net, view).x0(batch.x[:, :, part], t[:, part], batch.cond))
        view.commit()
    weights = torch.randn_like(batch.x)
    one, two = (gradients(f.net, (x * weights).sum()) for x in (whole, torch.cat(said, 2)))
    assert unlike(one, two) <= CLOSE
