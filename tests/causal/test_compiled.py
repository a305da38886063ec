"""A compiled network streams what it streamed before, and no graph is made anew as the memory fills."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from causal.families_bed import EXACT, ROTARY, VARIANTS, bed, difference
from torch import Tensor
from torch._dynamo.utils import counters

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.families.stock_net import StockNet
from vdistill.families.tiny import TinyFamily, TinySize

LAYOUT = Layout(1, window=3, sink=1)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def streamed(variant: str, net: StockNet) -> tuple[list[Tensor], list[int]]:
    """Two passes of every block and one that remembers; and how many graphs there were after each block."""
    b = bed(variant)
    layout = replace(LAYOUT, places="relative" if variant in ROTARY else "absolute")
    cache, made, graphs = Cache(layout, told={}), list[Tensor](), list[int]()
    for start in range(b.positions):
        view = View(cache, [start])
        x, t = b.part(b.x, start, 1), b.part(b.t, start, 1)
        made += [net(x, t, b.cond, view), net(x, 0.9 * t, b.cond, view)]
        view.keep = True
        net(b.part(b.clean, start, 1), 0 * t, b.cond, view)
        view.commit()
        graphs.append(counters["stats"]["unique_graphs"])
    return made, graphs


@pytest.mark.parametrize("variant", ["wan", *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS[1:])])
def test_a_compiled_network_streams_the_same(variant: str) -> None:
    stock = bed(variant).net
    expected, none = streamed(variant, stock)
    assert none[-1] == 0
    net = deepcopy(stock)
    net.compile_blocks("aot_eager")
    assert list(net.state_dict()) == list(stock.state_dict())
    found, graphs = streamed(variant, net)
    assert difference(torch.stack(found), torch.stack(expected)) < EXACT
    assert graphs[0] > 0 and graphs[-1] == graphs[1], graphs


def test_layers_share_their_graphs() -> None:
    def graphs(layers: int) -> int:
        torch._dynamo.reset()
        counters.clear()
        size = TinySize(dim=32, heads=2, layers=layers, ffn=64, text_dim=16, text_length=8, spatial=2)
        family = TinyFamily.build(size, ["a red square"])
        family.network_of().compile_blocks("aot_eager")
        with torch.no_grad():
            view = View(Cache(LAYOUT, told={}), [0])
            family.network_of()(torch.zeros(1, 48, 1, 2, 2), torch.ones(1, 1), family.text(["a red square"]), view)
        return counters["stats"]["unique_graphs"]

    assert 0 < graphs(2) == graphs(10)
