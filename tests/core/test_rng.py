"""A draw is a function of its place and its name, and of nothing else."""

import pytest
import torch

from vdistill.core.rng import Rng


def test_draws_do_not_depend_on_their_order():
    a, b = Rng(1), Rng(1)
    first = {name: a.normal(name, (4,)) for name in ("eps", "t", "z/1")}
    second = {name: b.normal(name, (4,)) for name in ("z/1", "eps", "t")}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_draws_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Rng(1).normal("eps", (4,))
    Rng(1).uniform("t", (4,))
    Rng(1).integers("k", (4,), 9)
    assert torch.equal(torch.get_rng_state(), before)
    first = Rng(1).normal("eps", (4,))
    torch.manual_seed(4)
    assert torch.equal(Rng(1).normal("eps", (4,)), first)


def test_every_part_of_the_place_matters():
    places = [Rng(0), Rng(1), Rng(0, step=1), Rng(0, micro=1), Rng(0, rank=1), Rng(0, turn="critic")]
    draws = [tuple(place.normal("eps", (3,)).tolist()) for place in places]
    assert len(set(draws)) == len(draws)
    assert not torch.equal(Rng(0).normal("a", (3,)), Rng(0).normal("b", (3,)))


def test_at_is_the_same_source_elsewhere():
    assert Rng(5).at(step=2, turn="critic") == Rng(5, step=2, turn="critic")


def test_dtype_follows_like_and_does_not_change_the_draw():
    plain = Rng(0).normal("eps", (64,))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert torch.equal(Rng(0).normal("eps", (64,), like=torch.zeros(1, dtype=dtype)), plain.to(dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_draws_do_not_depend_on_the_device():
    there = torch.zeros(1, device="cuda")
    assert torch.equal(Rng(0).normal("eps", (64,), like=there).cpu(), Rng(0).normal("eps", (64,)))
    assert torch.equal(Rng(0).uniform("t", (64,), like=there).cpu(), Rng(0).uniform("t", (64,)))
    assert torch.equal(Rng(0).integers("k", (64,), 9, like=there).cpu(), Rng(0).integers("k", (64,), 9))


def test_a_default_device_does_not_move_the_draw():
    draws = [lambda: Rng(0).normal("a", (4,)), lambda: Rng(0).uniform("a", (4,)), lambda: Rng(0).integers("a", (4,), 9)]
    for draw in draws:
        plain = draw()
        with torch.device("meta"):
            inside = draw()
        assert inside.device.type == "cpu" and torch.equal(inside, plain)


def test_shares_of_a_law_are_right():
    assert abs(float(Rng(0).normal("n", (100_000,)).std()) - 1) < 0.01
    u = Rng(0).uniform("u", (100_000,), 0.2, 0.6)
    assert u.dtype == torch.float64 and 0.2 <= u.min() and u.max() < 0.6 and abs(float(u.mean()) - 0.4) < 0.002
    assert Rng(0).integers("k", (10_000,), 5).bincount().min() > 1800
    assert Rng(0).integer("k", 7) in range(7)
