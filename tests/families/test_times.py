"""Times by position in networks that are told one a sample: what it costs, what is left behind, gradients twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from causal.families_bed import EXACT, JOINT, POSITIONS, bed, difference, trimmed
from contract import apart, case
from torch import Tensor, nn

from vdistill.causal.attend import Masked, View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.masks import bidirectional, block_causal
from vdistill.core.errors import UserError
from vdistill.core.scope import recomputed
from vdistill.families import memory
from vdistill.families.times import Spread, replaced

every = pytest.mark.parametrize("variant", JOINT)


def changed(net: nn.Module) -> list[str]:
    """Modules with something put in place of their own."""
    return [name for name, module in net.named_modules() if "forward" in vars(module)]


def test_a_spread_modulation_is_the_tensor_it_stands_for() -> None:
    x, value, text = torch.randn(2, 8, 5), torch.randn(2, 3, 5), torch.randn(2, 5)
    rows = torch.cat([value.repeat_interleave(2, 1), text[:, None].expand(-1, 2, -1)], 1)
    spread = Spread(value, text, 6)
    assert torch.equal(x * spread.unsqueeze(1), x * rows) and torch.equal(spread.unsqueeze(1) * x, rows * x)
    assert torch.equal(x * (1 + spread[:, None]) + spread[:, None], x * (1 + rows) + rows)
    clip = Spread(value)
    assert torch.equal(x[:, :6] * (1 + clip[:, None]) + clip[:, None], x[:, :6] * (1 + rows[:, :6]) + rows[:, :6])


@every
def test_the_network_is_as_it_was_after_a_call_and_after_one_that_failed(variant: str) -> None:
    b, keys = bed(variant), list(bed(variant).net.state_dict())

    def fails(*args: Any, **more: Any) -> Tensor:
        assert changed(b.net)
        raise ArithmeticError

    fails.numbers = torch.arange(POSITIONS)  # type: ignore[attr-defined]
    with pytest.raises(ArithmeticError):
        b.net(b.x, b.t, b.cond, fails)
    b.whole(bidirectional(POSITIONS))
    assert changed(b.net) == [] and list(b.net.state_dict()) == keys


def test_what_was_in_place_before_comes_back() -> None:
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x + 1  # type: ignore[method-assign]
    with replaced({layer: lambda x: x + 2}):
        assert float(layer(torch.zeros(()))) == 2
    assert float(layer(torch.zeros(()))) == 1


@every
def test_the_text_is_told_time_0_and_the_clip_its_own(variant: str) -> None:
    """A clip at time 0 is at the time of its text: there both ways to say it are the same, and nowhere else."""
    b, everything = bed(variant), Masked(bidirectional(POSITIONS))
    with torch.no_grad():
        for time, same in ((0.0, True), (0.5, False)):
            t = torch.full((2,), time, dtype=torch.float64)
            apart_by = difference(b.net(b.x, t[:, None], b.cond, everything), b.net(b.x, t, b.cond, everything))
            assert apart_by <= EXACT if same else apart_by > 1e-3


@every
def test_another_number_of_times_is_one_line(variant: str) -> None:
    b = bed(variant)
    with pytest.raises(UserError, match="3 times for"):
        b.net(b.x, b.t[:, :3], b.cond)


@every
@pytest.mark.parametrize("by_block", [False, True])
def test_activations_computed_twice_give_the_same_gradients(variant: str, by_block: bool) -> None:
    grads, layout = [], Layout(1)
    for twice in (False, True):
        c = case(variant)
        net = c.family.network_of().double().requires_grad_(True)
        if variant == "hunyuan15":
            net.image_tokens = 3
        if twice:
            memory.checkpoint_gradients(net.parts, recomputed)
        x = torch.cat([c.noise(n) for n in range(2)], 2)[:, :, : 2 * net.patch[0], :4, :4].double()
        cond, t = (
            trimmed(c.text.to(dtype=torch.float64)),
            torch.tensor([[0.2, 0.7]]).repeat_interleave(net.patch[0], 1).double(),
        )
        if by_block:
            cache, half = Cache(layout), x.shape[2] // 2
            out = []
            for start in range(2):
                view = View(cache, [start])
                view.keep = True
                part = slice(start * half, (start + 1) * half)
                out.append(net(x[:, :, part], t[:, part], cond, view))
                view.commit()
            torch.cat(out, 2).square().mean().backward()
        else:
            net(x, t, cond, Masked(block_causal(layout, 2))).square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    assert all((a is None and b is None) or apart(b, a) <= 1e-12 for a, b in zip(*grads, strict=True))
    assert any(g is not None and g.abs().max() > 0 for g in grads[0])


@pytest.mark.parametrize("size", [(8, 6), (4, 8)])
def test_added_positions_of_the_first_frames_are_the_stock_ones(size: tuple[int, int]) -> None:
    c = case("cogvideox-2b")
    net, seen = c.family.network_of(), []
    hook = net.model.patch_embed.register_forward_hook(lambda module, args, out: seen.append(out))
    x = torch.randn(1, c.shape[0], 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net(x, torch.tensor([0.5]), c.text)
        net(x, torch.tensor([0.5]), c.text, Masked(bidirectional(3)))
        net(x, torch.tensor([0.5]), c.text, Masked(bidirectional(3), [0, 1, 3]))
    hook.remove()
    assert torch.equal(seen[0], seen[1])
    rows = size[0] * size[1] // 4
    assert torch.equal(seen[0][:, :-rows], seen[2][:, :-rows]) and difference(seen[0], seen[2]) > 1e-2


@pytest.mark.parametrize("variant", ["cogvideox-i2v", "wan-i2v"])
def test_a_clip_from_an_image_is_not_made_block_by_block(variant: str) -> None:
    c = case(variant)
    x, t = c.noise(), torch.tensor([[0.5]])
    with pytest.raises(UserError, match="starts from text"):
        c.family.network_of()(x, t, c.cond, View(Cache(Layout(1)), range(x.shape[2])))


def test_learned_positions_have_one_length() -> None:
    c = case("cogvideox-i2v")
    with pytest.raises(UserError, match="learned the positions"):
        c.family.network_of()(c.noise(), torch.tensor([0.5]), c.text, View(Cache(Layout(1)), range(3)))
