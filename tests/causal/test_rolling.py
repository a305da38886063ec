"""Rolling windows: one block at a time they are the ordinary loop, and the memory agrees with the mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal.student_bed import TIMES, Watched, at_exit, clips, family, gradients, plan

from vdistill.causal.attend import Masked, View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.masks import rolling
from vdistill.causal.rolling import Either, Place, Rolling, generate_rolling, windows
from vdistill.causal.rollout import SelfForcing, generate
from vdistill.causal.student import Remembering
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng

STEPS = len(TIMES)


@pytest.mark.parametrize("window", [None, 4])
def test_windows_of_one_block_are_the_ordinary_loop(window: int | None) -> None:
    f, rng, how = family(), Rng(1), plan(window=window, level=0.1)
    batch = clips(f)
    with torch.no_grad():
        alone = generate_rolling(f.net, batch.x, batch.cond, how, rng, apart=STEPS)
        ordinary = generate(f.net, batch.x, batch.cond, how, rng)
        joint = generate_rolling(f.net, batch.x, batch.cond, how, rng)
    assert torch.equal(alone, ordinary) and (joint - ordinary).abs().max() > 1e-2


def test_a_window_grows_rolls_and_shrinks() -> None:
    spans = [*Layout(2).spans(8)]
    seen = [[(p.block, p.step) for p in w] for w in windows(spans, 3, 1)]
    assert seen == [
        [(0, 0)], [(0, 1), (1, 0)], [(0, 2), (1, 1), (2, 0)], [(1, 2), (2, 1), (3, 0)], [(2, 2), (3, 1)], [(3, 2)],
    ]  # fmt: skip
    assert [w[0] for w in windows(spans, 3, 3)] == [Place(b, 2 * b, 2, s) for b in range(4) for s in range(3)]


@pytest.mark.parametrize("layout", [Layout(2), Layout(2, window=6), Layout(2, window=7, sink=1)], ids=str)
def test_a_window_beside_its_memory_is_the_rolling_mask(layout: Layout) -> None:
    f, clean = family(), 6
    batch = clips(f, 10)
    t = torch.tensor([[0.3, 0.3, 0.9, 0.9]] * 2, dtype=torch.float64)
    cache = Cache(layout)
    with torch.no_grad():
        for start, count in layout.spans(clean):
            view = View(cache, range(start, start + count))
            view.keep = True
            Remembering(f.net, view).x0(batch.x[:, :, start : start + count], t[:, 0] * 0, batch.cond)
            view.commit()
        beside = Remembering(f.net, View(cache, range(clean, 10))).x0(batch.x[:, :, clean:], t, batch.cond)
        times = torch.cat([torch.zeros(2, clean, dtype=torch.float64), t], 1)
        masked = f.net.x0(batch.x, times, batch.cond, attend=Masked(rolling(layout, 10, clean)))[:, :, clean:]
        other = f.net.x0(batch.x, times, batch.cond, attend=Masked(rolling(replace(layout, block=1), 10, 8)))
    assert (beside - masked).abs().max() < 1e-12 and (other[:, :, clean:] - masked).abs().max() > 1e-3


@pytest.mark.parametrize("drawn", range(STEPS))
def test_every_block_gets_a_gradient_once(drawn: int) -> None:
    """Passes with a graph share no block, and the sample is what they said."""
    f, batch = family(), clips(family(), 10)
    x = Rolling(plan())(f.net, batch, at_exit(drawn))
    for start in range(0, 10, 2):
        own = x[:, :, start : start + 2].sum()
        found = torch.autograd.grad(own, [*f.net.parameters()], allow_unused=True, retain_graph=True)
        assert any(g is not None and g.any() for g in found)
    calls = [w for i, w in enumerate(windows([*Layout(2).spans(10)], STEPS, 1)) if i % STEPS == drawn]
    assert sorted(p.block for w in calls for p in w) == [*range(5)]


def test_other_passes_keep_no_graph() -> None:
    f, batch = family(), clips(family(), 10)
    watched = Watched(f.net)
    Rolling(plan())(watched, batch, at_exit(1))
    joint = [graph for t, graph in watched.asked if t > 0]  # others remember
    assert joint == [call % STEPS == 1 for call in range(7)]


def test_one_block_at_a_time_it_trains_as_self_forcing_does() -> None:
    f, batch, rng = family(), clips(family()), at_exit(1)
    one, other = Rolling(plan(), apart=STEPS)(f.net, batch, rng), SelfForcing(plan())(f.net, batch, rng)
    assert (one - other).abs()[:, :, :2].max() == 0  # later blocks see memories of blocks that went on to the end
    assert (one - other).abs()[:, :, 2:].max() > 0


def test_gradients_of_the_last_positions_alone() -> None:
    f, batch, rng = family(), clips(family(), 10), at_exit(2)
    x = Rolling(plan(), last=2)(f.net, batch, rng)
    head = torch.autograd.grad(x[:, :, :4].sum(), [*f.net.parameters()], allow_unused=True, retain_graph=True)
    assert all(g is None or not g.any() for g in head)
    assert any(g.any() for g in gradients(f.net, x[:, :, -2:].sum()))


def test_either_is_one_or_the_other_in_their_shares() -> None:
    f, batch = family(), clips(family(), 4)
    rolling_, forcing = Rolling(plan()), SelfForcing(plan())
    counted = 0
    for step in range(12):
        rng = Rng(0, step=step)
        with torch.no_grad():
            made = Either(rolling_, forcing, 0.5)(f.net, batch, rng)
            each = [torch.equal(made, g(f.net, batch, rng)) for g in (rolling_, forcing)]
        assert sum(each) == 1 and Either(rolling_, forcing, 1.0).share
        counted += each[0]
    assert 2 <= counted <= 10


def test_a_first_block_of_its_own_steps_is_refused() -> None:
    with pytest.raises(UserError, match="same steps"):
        Rolling(plan(first=(1.0, 0.5)))
