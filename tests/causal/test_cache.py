"""What a causal student remembers: what leaves and what stays, what a reader may rely on, what it weighs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vdistill.causal.attend import View
from vdistill.causal.cache import GROWTH, Cache
from vdistill.causal.layout import Layout
from vdistill.core.errors import UserError

ROWS, CPU = 2, torch.device("cpu")


def row(number: float, scale: float = 1.0) -> Tensor:
    """Keys of a position [1, 1, ROWS, 1], which say its number."""
    return torch.full((1, 1, ROWS, 1), scale * number)


def remember(cache: Cache, *ids: int) -> None:
    keys = torch.cat([row(n) for n in ids], 2)
    cache.commit(ids, {0: keys, 1: keys + 0.5}, {0: -keys, 1: -keys - 0.5})


def filled(layout: Layout, count: int) -> Cache:
    cache = Cache(layout)
    for start in range(0, count, layout.block):
        remember(cache, *range(start, start + layout.block))
    return cache


def read(cache: Cache, count: int | None = None) -> tuple[list[int], list[float]]:
    """Numbers that a block of `count` sees, and what the keys in those slots say."""
    sink, local = cache.seen(count or cache.layout.block)
    slots = [*sink, *local]
    found = cache.read(0, slots, CPU)
    assert found is not None and torch.equal(found[1], -found[0]) and found[0].shape[2] == len(slots) * ROWS
    return [cache.ids[slot] for slot in slots], found[0].flatten()[::ROWS].tolist()


@pytest.mark.parametrize("layout", [Layout(2, window=6), Layout(2, window=7, sink=2), Layout(3, window=7, sink=1)])
def test_the_oldest_leave_in_order_and_the_sink_never_does(layout: Layout) -> None:
    cache, room = Cache(layout), layout.room(layout.block) or 0
    for start in range(0, 30, layout.block):
        remember(cache, *range(start, start + layout.block))
        end = start + layout.block
        local = range(max(end - room, layout.sink), end)
        expected = [*range(min(layout.sink, end)), *local]
        assert read(cache) == (expected, [float(n) for n in expected])
        assert len(cache) == min(end, layout.sink + room)


def test_a_smaller_block_sees_more_before_it_than_a_larger_one() -> None:
    cache = filled(Layout(2, window=6), 12)
    assert read(cache, 2)[0] == [8, 9, 10, 11] and read(cache, 4)[0] == [10, 11]


def test_a_first_block_larger_than_what_is_kept_leaves_its_end() -> None:
    cache = Cache(Layout(1, first=4, window=4, sink=1))
    remember(cache, 0, 1, 2, 3)
    assert read(cache) == ([0, 2, 3], [0.0, 2.0, 3.0])


def test_where_nothing_fits_beside_a_block_nothing_is_kept() -> None:
    cache = filled(Layout(3, window=3), 9)
    assert len(cache) == 0 and cache.read(0, [], CPU) is None
    sink = filled(Layout(3, window=4, sink=1), 9)
    assert read(sink) == ([0], [0.0])


def test_without_a_window_all_is_kept() -> None:
    cache = filled(Layout(3), 3 * GROWTH)
    assert read(cache) == (list(range(3 * GROWTH)), [float(n) for n in range(3 * GROWTH)])
    assert cache.keys[0].shape[2] == 3 * GROWTH * ROWS


def test_memory_does_not_grow_with_the_stream() -> None:
    layout = Layout(3, window=12, sink=3)
    cache = filled(layout, 12)
    before, places = cache.nbytes(), [t.data_ptr() for t in cache.keys.values()]
    for start in range(12, 3000, 3):
        remember(cache, start, start + 1, start + 2)
    assert cache.nbytes() == before == 4 * 9 * ROWS * 2 * 2
    assert [t.data_ptr() for t in cache.keys.values()] == places
    assert read(cache)[0] == [0, 1, 2, *range(2994, 3000)]


def test_a_position_that_is_not_later_is_one_line() -> None:
    cache = filled(Layout(2, window=6), 4)
    with pytest.raises(UserError, match="position 3 comes after 3"):
        remember(cache, 3, 4)


def test_a_clone_and_a_restored_state_go_on_alone_and_bit_for_bit() -> None:
    layout = Layout(2, window=7, sink=2)
    cache = filled(layout, 10)
    copied, restored, state = cache.clone(), Cache(layout), cache.state()
    restored.restore(state)
    kept = read(cache)
    remember(cache, 10, 11)
    assert read(copied) == read(restored) == kept != read(cache)
    for other in (copied, restored):
        remember(other, 10, 11)
        assert read(other) == read(cache) and other.state().keys() == cache.state().keys()
        assert all(torch.equal(value, other.state()[key]) for key, value in cache.state().items())
    again = Cache(layout)
    again.restore(state)
    assert read(again) == kept


def attended(cache: Cache, number: int, q: Tensor, twice: bool = False) -> Tensor:
    """One layer of one block of one position, with queries, keys and values q; it is remembered.

    twice: computed again for gradients.
    """
    view = View(cache, [number])
    view.keep = True
    out = checkpoint(lambda x: view(0, x, x, x, None), q, use_reentrant=False) if twice else view(0, q, q, q, None)
    view.commit()
    return out


def queries(count: int) -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(1, 1, ROWS, 4, generator=source).requires_grad_() for _ in range(count)]


@pytest.mark.parametrize("through", [False, True])
def test_a_loss_reaches_earlier_blocks_only_through_a_cache_that_says_so(through: bool) -> None:
    q, cache = queries(3), Cache(Layout(1, window=3), through=through)
    out = [attended(cache, n, each) for n, each in enumerate(q)]
    out[-1].square().sum().backward()
    assert q[2].grad is not None
    assert [each.grad is not None for each in q[:2]] == [through] * 2


def test_a_cache_that_lets_gradients_through_has_those_of_one_pass_over_all() -> None:
    q, cache = queries(3), Cache(Layout(1), through=True)
    out = [attended(cache, n, each) for n, each in enumerate(q)]
    out[-1].square().sum().backward()
    one = [each.detach().clone().requires_grad_() for each in q]
    whole = torch.nn.functional.scaled_dot_product_attention(one[-1], torch.cat(one, 2), torch.cat(one, 2))
    whole.square().sum().backward()
    assert torch.allclose(whole, out[-1], atol=1e-6)
    for a, b in zip(q, one, strict=True):
        assert a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad, atol=1e-6)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("blocks", [4, 20])
def test_what_a_graph_has_read_stays_as_it_was_when_the_ring_turns(blocks: int, twice: bool) -> None:
    """Backward after many commits gives the gradients of backward at once, also where it reads all again."""
    layout, grads = Layout(1, window=3, sink=1), []
    for at_once in (True, False):
        q, cache, losses = queries(blocks), Cache(layout), []
        for n, each in enumerate(q):
            losses.append(attended(cache, n, each, twice).square().sum())
            if at_once:
                losses[-1].backward()
        if not at_once:
            torch.stack(losses).sum().backward()
        grads.append([each.grad for each in q])
    for a, b in zip(*grads, strict=True):
        assert a is not None and b is not None and torch.allclose(a, b, atol=1e-6)


def test_a_view_sees_what_was_remembered_when_it_was_made() -> None:
    q, cache = queries(6), Cache(Layout(1, window=3))
    for n, each in enumerate(q[:4]):
        attended(cache, n, each)
    view = View(cache, [4])
    before = view(0, q[4], q[4], q[4], None)
    remember_ = View(cache, [5])
    remember_.keep = True
    remember_(0, q[5], q[5], q[5], None)
    remember_.commit()
    assert torch.equal(view(0, q[4], q[4], q[4], None), before)


def test_keys_may_be_kept_elsewhere_and_are_read_where_they_are_needed() -> None:
    cache = Cache(Layout(2, window=6), store=CPU)
    remember(cache, 0, 1)
    assert cache.keys[0].device == CPU and read(cache) == ([0, 1], [0.0, 1.0])
