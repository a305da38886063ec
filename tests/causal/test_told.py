"""Keys and values of the text are computed once a prompt in a stream, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from causal.families_bed import CAPTIONS, EXACT, JOINT, Bed, bed, difference
from causal.stream_bed import PLAN, SHAPE, family
from contract import case
from torch import Tensor, nn

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan
from vdistill.causal.stream import Stream
from vdistill.core.denoiser import Denoiser
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.families.stock_net import StockNet


@contextmanager
def counted(net: StockNet) -> Iterator[list[int]]:
    """How often the first layer that reads the text makes its keys."""
    calls: list[int] = []
    hook = net.readers()[0].to_k.register_forward_hook(lambda *_: calls.append(1))
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def rows_of_text(b: Bed) -> Iterator[list[int]]:
    """Rows of text that each pass of a joint network sends through its first layer."""
    rows: list[int] = []
    hook = b.net.blocks()[0].register_forward_hook(lambda _, given, out: rows.append(out[1].shape[1]))
    try:
        yield rows
    finally:
        hook.remove()


def stream(net: Denoiser | None = None, told: bool = True) -> Stream:
    f = family()
    made = Stream(net or f.net, PLAN, SHAPE, f.text(["a red square moves left"]))
    if not told:
        made.cache.told = None
    return made


def test_a_stream_computes_them_once_a_prompt_and_makes_the_same() -> None:
    with counted(family().network_of()) as calls:
        one, other = stream(), stream(told=False)
        first = [next(one) for _ in range(3)]
        assert len(calls) == 1
        assert all(torch.equal(a, next(other)) for a in first)
        assert len(calls) == 1 + 3 * 4  # three steps and the pass that remembers
        other.cache.told = {}
        for each in (one, other):
            each.switch(family().text(["a blue circle rests"]), "keep")
        calls.clear()
        after = next(one)
        assert len(calls) == 1 and torch.equal(after, next(other)) and len(calls) == 2
        next(one)
        assert len(calls) == 2


def test_branches_of_guidance_never_take_each_other_s() -> None:
    f = family()
    guided = Guided(f.net, cfg(3.0), apart=True)
    one, other = stream(guided), stream(guided, told=False)
    for _ in range(2):
        assert torch.equal(next(one), next(other))


def test_training_computes_them_at_every_pass() -> None:
    f = family()
    cond, x = f.text(["a red square moves left"]), torch.zeros(1, *SHAPE[:1], 2, *SHAPE[1:])
    cache = Cache(Layout(2), told={})
    with counted(f.network_of()) as calls:
        for _ in range(2):
            said = f.net.x0(x, torch.ones(1, 1, dtype=torch.float64), cond, attend=View(cache, range(2)))
        assert len(calls) == 2 and said.requires_grad and not cache.told


@pytest.mark.parametrize("variant", ["wan", "wan22-ti2v", "ltx"])
def test_every_family_that_reads_the_text_apart_answers_the_same(variant: str) -> None:
    b: Bed = bed(variant)
    assert len(CAPTIONS) == len(b.x)
    cache, said = Cache(Layout(2), told={}), list[Tensor]()
    with torch.no_grad(), counted(b.net) as calls:
        for attend in (View(Cache(Layout(2)), range(2)), View(cache, range(2)), View(cache, range(2))):
            said.append(b.net(b.part(b.x, 0, 2), b.part(b.t, 0, 2), b.cond, attend))
        assert len(calls) == 2
    assert torch.equal(said[0], said[1]) and torch.equal(said[0], said[2])


@pytest.mark.parametrize("variant", JOINT)
def test_a_joint_model_answers_the_same_with_the_text_of_before(variant: str) -> None:
    b, layout = bed(variant), Layout(2, window=5, sink=1)
    with torch.no_grad(), rows_of_text(b) as rows:
        anew, read = Cache(layout), Cache(layout, told={})
        for start in range(0, 6, 2):
            for times in (b.t, 0 * b.t):
                said = []
                for cache in (anew, read):
                    view = View(cache, range(start, start + 2))
                    view.keep = True
                    said.append(b.ask(start, 2, times, view))
                    if not times.any():
                        view.commit()
                assert difference(*said) < EXACT
        whole = max(rows)
        assert rows.count(whole) == 6 + 1 and rows.count(1) == 6  # the text goes through it once, beside those anew


@pytest.mark.parametrize("variant", JOINT)
def test_another_prompt_is_never_answered_with_the_text_of_before(variant: str) -> None:
    b = bed(variant)
    other = b.cond.select(torch.tensor([1, 0]))
    kept = Cache(Layout(2), told={})
    with torch.no_grad():
        for cond in (b.cond, other, b.cond):
            x, t = b.part(b.x, 0, 2), b.part(b.t, 0, 2)
            said, anew = (b.net(x, t, cond, View(cache, range(2))) for cache in (kept, Cache(Layout(2))))
            assert difference(said, anew) < EXACT


@pytest.mark.parametrize("variant", ["cogvideox-5b", "hunyuan"])
def test_a_stream_of_a_joint_model_goes_on_from_a_snapshot_bit_for_bit(variant: str) -> None:
    c = case(variant)
    plan = Plan(Layout(2, window=6, sink=2, places="relative"), (1.0, 0.5))
    size, patch = c.shape[0], c.family.network_of().patch

    def begun(caption: str) -> Stream:
        shape = (size, 2 * patch[1], 2 * patch[2])
        return Stream(c.family.as_net(bed(variant).net), plan, shape, c.family.text([caption]).to(dtype=torch.float64))

    one, two = begun("a red cat"), begun("a fence")
    next(one), next(one)
    two.restore({k: v.clone() for k, v in one.state().items()})
    assert torch.equal(next(two), next(one))


def test_the_stock_processors_are_put_back() -> None:
    net: StockNet = family().network_of()
    layers: list[nn.Module] = [*net.attentions(), *net.readers()]
    before = [layer.processor for layer in layers]
    next(stream())
    assert all(layer.processor is was for layer, was in zip(layers, before, strict=True))
