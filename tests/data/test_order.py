"""The order of samples: complete, without repeats, and the same however the work is split."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from vdistill.data.order import Order, epoch, index


def stream(order: Order, steps: int, begin: int = 0) -> list[int]:
    return list(chain.from_iterable(order.index(s, m) for s in range(begin, begin + steps) for m in range(order.micro)))


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 40])
def test_each_epoch_has_every_sample_once(batch: int) -> None:
    order, length = Order((12,), batch, seed=5), 12
    seen = stream(order, 12 * 3)
    for begin in range(0, len(seen) - length + 1, length):
        assert sorted(seen[begin : begin + length]) == list(range(length))
    assert seen[:length] != seen[length : 2 * length]


@pytest.mark.parametrize("groups", [(5, 12, 3), (1, 100), (7, 7), (2, 1, 1)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_shapes_never_mix_and_none_is_left_behind(groups: tuple[int, ...], batch: int) -> None:
    order, total = Order(groups, batch, micro=2), sum(groups)
    steps = total * 4  # 8 * batch epochs of each group
    for step in range(steps):
        both = order.index(step, 0) + order.index(step, 1)
        assert len({next(g for g in range(len(groups)) if i < sum(groups[: g + 1])) for i in both}) == 1
    seen = stream(order, steps)
    assert set(Counter(seen).values()) == {8 * batch}
    for g, length in enumerate(groups):  # within a group, nothing comes twice before everything came once
        base = sum(groups[:g])
        own = [i for i in seen if base <= i < base + length]
        for begin in range(0, len(own), length):
            assert sorted(own[begin : begin + length]) == list(range(base, base + length))


def test_shapes_come_mixed_not_one_after_the_other() -> None:
    which = [Order((50, 50), 1).index(s, 0)[0] // 50 for s in range(100)]
    assert 20 < sum(a != b for a, b in zip(which, which[1:], strict=False)) < 80


def test_ranks_and_accumulation_do_not_change_what_a_step_sees() -> None:
    one, four = Order((50, 30), 8, 1, seed=3), Order((50, 30), 2, 4, seed=3)
    for step in range(40):
        assert one.index(step, 0) == list(chain.from_iterable(four.index(step, m) for m in range(4)))


def test_a_resumed_run_goes_on_in_the_same_order() -> None:
    order = Order((50, 30), 4, seed=9)
    assert stream(order, 50, begin=37) == stream(Order((50, 30), 4, seed=9), 87)[37 * 4 :]


def test_seeds_differ_and_steps_can_be_asked_in_any_order() -> None:
    assert index(1, 0, 0, 8, 100) != index(2, 0, 0, 8, 100)
    order = Order((50, 30), 4)
    assert [order.index(s, 0) for s in reversed(range(30))][::-1] == [order.index(s, 0) for s in range(30)]
    assert index(0, 1000, 0, 4, 3) and epoch((50, 30), 4, 2, 10) == 1.0
