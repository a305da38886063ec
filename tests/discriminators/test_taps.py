"""Features of a denoiser: the prefix alone gives what the whole forward gives; who keeps a graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import REGISTERED, apart, case
from torch import Tensor, nn

from vdistill.core.scope import recomputed
from vdistill.families import memory
from vdistill.families.stock_net import StockNet

T = torch.tensor([0.95])
every = pytest.mark.parametrize("variant", REGISTERED)


def whole(network: StockNet, x: Tensor, cond: Any) -> list[Tensor]:
    """Features after every block of one forward to the end, read beside `taps`."""
    found: list[Tensor] = []

    def hook(i: int) -> Any:
        return lambda module, args, out: found.append(network.tapped(i, out))

    hooks = [block.register_forward_hook(hook(i)) for i, block in enumerate(network.blocks())]
    network(x, T, cond)
    for each in hooks:
        each.remove()
    return found


@every
def test_an_early_exit_gives_the_features_of_the_whole_forward(variant: str) -> None:
    c = case(variant)
    network, x, cond = c.family.network_of(), c.noise(), c.cond
    layers = range(len(network.blocks()))
    want = network.taps(x, T, cond, layers)
    with torch.no_grad():
        assert all(torch.equal(network.taps(x, T, cond, [i])[0], want[i]) for i in layers)
    if variant != "animatediff":  # whose frames are folded into the batch inside
        assert all(map(torch.equal, whole(network, x, cond), want))


def test_blocks_behind_the_last_tap_do_not_run_and_nothing_stays_behind() -> None:
    c = case("wan")
    network, ran = c.family.network_of(), []
    before = network(c.noise(), T, c.cond)
    blocks = network.blocks()
    counters = [b.register_forward_hook(lambda m, a, o, i=i: ran.append(i)) for i, b in enumerate(blocks)]
    network.taps(c.noise(), T, c.cond, [0])
    assert ran == [0] and len(blocks) > 1
    for counter in counters:
        counter.remove()
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in blocks)
    assert torch.equal(network(c.noise(), T, c.cond), before)


@pytest.mark.parametrize("variant", ["wan", "sd15", "hunyuan"])
def test_activations_computed_twice_give_the_same_features_and_gradients(variant: str) -> None:
    found = []
    for twice in (False, True):
        c = case(variant)
        network = c.family.network_of()
        if twice:
            memory.checkpoint_gradients(network.parts, recomputed)
        x = c.noise().requires_grad_()
        (features,) = network.taps(x, T, c.cond, [1])
        features.square().mean().backward()
        found.append((features.detach(), x.grad))
    assert all(apart(b, a) < 1e-5 for a, b in zip(*found, strict=True)) and found[0][1].abs().max() > 0
    layer, packed = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    (layer(packed).sum() * packed.sum()).backward()  # no hook of a pass that was cut short is left to disturb it
    assert packed.grad is not None and packed.grad.isfinite().all()
