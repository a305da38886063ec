"""Teacher forcing: the loss is what every block says after its past, and the past may be the network's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal.student_bed import by_memory, clips, family, gradients, other
from torch import Tensor

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.forcing import Forcing, ForcingConfig
from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan, make_block
from vdistill.causal.student import BlockCausal, Remembering
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.inputs import shared
from vdistill.core.losses.regression import weighted_x0
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule

LAYOUT = Layout(2, window=4)
RNG = Rng(3)


def noised(path: Schedule, x: Tensor, t: Tensor, name: str) -> Tensor:
    return path.noise(x, RNG.normal(name, x.shape, like=x), t)


def drawn(method: Forcing, x: Tensor) -> Tensor:
    """[B, T]: a time for each of three blocks of two latents."""
    return method.times(RNG, 6, x).unflatten(0, (2, 3)).repeat_interleave(2, 1)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_the_loss_is_that_of_blocks_one_after_the_other_with_their_memory(own: float) -> None:
    f, b = family(), clips(family())
    method = Forcing(ForcingConfig(drop=0.0, own=own, own_times=(1.0, 0.5)), LAYOUT, f.net, f.net)
    said, t = method.loss("student", b, RNG).total, drawn(method, b.x)
    with torch.no_grad():
        clean = method.past(b.x, b.cond, RNG)
        guess = by_memory(f.net, LAYOUT, clean, noised(f.schedule, b.x, t, "eps"), t, b)
    right = weighted_x0(guess, b.x, t, f.schedule, "flow", 0.05).mean()
    torch.testing.assert_close(said.detach(), right, rtol=1e-6, atol=0)
    assert any(g.any() for g in gradients(f.net, said))


def test_a_past_of_its_own_is_a_stream_that_was_shown_its_beginning() -> None:
    f, b = family(), clips(family(), 10)
    method = Forcing(ForcingConfig(own=1.0, own_times=(1.0, 0.5)), LAYOUT, f.net, f.net)
    firsts = set()
    for step in range(12):
        rng = Rng(3, step=step)
        past = method.past(b.x, b.cond, rng)
        true = 2 * (2 + shared(rng).integer("own/first", 3))
        firsts.add(true)
        assert torch.equal(past[:, :, :true], b.x[:, :, :true])
        plan, cache = Plan(LAYOUT, (1.0, 0.5)), Cache(LAYOUT)
        with torch.no_grad():
            for start in range(0, 10, 2):
                block, ids = b.x[:, :, start : start + 2], range(start, start + 2)
                if start < true:
                    view = View(cache, ids)
                    view.keep = True
                    Remembering(f.net, view).x0(block, torch.zeros(2, dtype=torch.float64), b.cond)
                    view.commit()
                    continue
                noise = rng.normal(f"own/eps{start // 2}", block.shape, like=block)
                made = make_block(f.net, noise, b.cond, cache, plan, rng, ids)
                assert torch.equal(past[:, :, start : start + 2], made)
    assert firsts == {4, 6, 8}


def test_a_past_of_its_own_may_be_guided() -> None:
    f, b = family(), clips(family())
    cfg_own = ForcingConfig(own=1.0)
    plain, guided = (Forcing(cfg_own, LAYOUT, f.net, f.net, Guided(f.net, cfg(s))) for s in (1.0, 3.0))
    one, two, three = (m.past(b.x, b.cond, RNG) for m in (Forcing(cfg_own, LAYOUT, f.net, f.net), plain, guided))
    torch.testing.assert_close(one, two)
    assert (one - three).abs().max() > 1e-3 and torch.equal(one[:, :, :2], three[:, :, :2])


def test_a_past_of_its_own_carries_no_graph_and_comes_as_often_as_said() -> None:
    f, b = family(), clips(family())
    method = Forcing(ForcingConfig(own=0.3), LAYOUT, f.net, f.net)
    made = 0
    for step in range(60):
        rng = Rng(3, step=step)
        expected = float(shared(rng).uniform("own", ())) < 0.3
        if expected and made:  # one estimate is enough to see
            made += 1
            continue
        past = method.past(b.x, b.cond, rng)
        assert not past.requires_grad and torch.equal(past, b.x) != expected
        made += expected
    assert 8 <= made <= 28


def test_diffusion_forcing_has_no_past_of_its_own() -> None:
    f, b = family(), clips(family())
    method = Forcing(ForcingConfig("diffusion", drop=0.0, own=1.0), LAYOUT, f.net, f.net)
    said, t = method.loss("student", b, RNG).total, drawn(method, b.x)
    with torch.no_grad():
        guess = BlockCausal(f.net, LAYOUT).x0(noised(f.schedule, b.x, t, "eps"), t, b.cond)
    torch.testing.assert_close(said.detach(), weighted_x0(guess, b.x, t, f.schedule, "flow", 0.05).mean())


def test_another_network_has_another_loss() -> None:
    b = clips(family())
    one, two = (Forcing(ForcingConfig(own=1.0), LAYOUT, f.net, f.net) for f in (family(), other()))
    losses = [float(m.loss("student", b, RNG).total.detach()) for m in (one, two)]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_each_sample_is_trained_without_what_its_draw_says() -> None:
    f, b = family(), clips(family())
    face = {"face": torch.ones(2, 3)}, {"face": torch.zeros(1, 3)}
    cond = replace(b.cond, fields={**b.cond.fields, **face[0]}, null={**b.cond.null, **face[1]})
    batch, seen = replace(b, cond=cond), list[Cond]()

    class Listening:
        schedule = f.schedule

        def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
            seen.append(cond)
            return f.net.x0(x, t, b.cond, attend=attend)

    draw = RNG.uniform("drop", (2,))
    order, between = draw.argsort(), float(draw.mean())
    nothing, one, both = (("face",), float(draw.min())), (("face",), between), (("text", "face"), between)
    for row, kept in (nothing, [1, 1]), (one, [0, 1]), (both, [0, 1]):
        Forcing(ForcingConfig("diffusion", drops=(row,)), LAYOUT, Listening(), f.net).loss("student", batch, RNG)
        assert seen[-1].fields["face"][order, 0].tolist() == kept
        same = (seen[-1].fields["text"] == cond.fields["text"]).flatten(1).all(1)[order]
        assert same.tolist() == [bool(k) or "text" not in row[0] for k in kept]
    with pytest.raises(UserError, match="no condition 'voice'"):
        Forcing(ForcingConfig(drops=((("voice",), 0.1),)), LAYOUT, f.net, f.net).loss("student", b, RNG)


def test_a_table_of_the_text_alone_is_the_share_without_it() -> None:
    f, b = family(), clips(family())
    ways = ForcingConfig(drop=0.6), ForcingConfig(drops=((("text",), 0.6),))
    one, two = (Forcing(way, LAYOUT, f.net, f.net).loss("student", b, RNG).total for way in ways)
    none = Forcing(ForcingConfig(drop=0.0), LAYOUT, f.net, f.net).loss("student", b, RNG).total
    assert torch.equal(one, two) and not torch.equal(one, none)
