"""Keys and values of the text are computed once a prompt in a stream, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from causal.families_bed import CAPTIONS, Bed, bed
from causal.stream_bed import PLAN, SHAPE, family
from torch import Tensor, nn

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
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


def test_the_stock_processors_are_put_back() -> None:
    net: StockNet = family().network_of()
    layers: list[nn.Module] = [*net.attentions(), *net.readers()]
    before = [layer.processor for layer in layers]
    next(stream())
    assert all(layer.processor is was for layer, was in zip(layers, before, strict=True))
