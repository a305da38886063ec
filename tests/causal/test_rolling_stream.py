"""A rolling stream is the rolling sampler without an end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal.stream_bed import PLAN, SHAPE, family

from vdistill.causal.rolling import generate_rolling
from vdistill.causal.rolling_stream import RollingStream
from vdistill.core.errors import UserError
from vdistill.core.rng import EachRng


def rolling(seed: int = 3, **more: object) -> RollingStream:
    return RollingStream(family().net, PLAN, SHAPE, family().text(["a red square"]), (seed,), **more)  # type: ignore[arg-type]


def take(s: RollingStream, blocks: int) -> torch.Tensor:
    return torch.cat([next(s) for _ in range(blocks)], 2)


class Named(EachRng):
    """Draws named as a stream names them: by the block they are for."""

    def normal(self, name, shape, like=None):  # type: ignore[no-untyped-def]
        begin = self.turn.rpartition("block")[2]
        turn = f"stream/{begin}/block{begin}"
        return EachRng(self.seed, turn=turn, seeds=self.seeds).normal(name, shape, like)


def test_it_is_the_rolling_sampler() -> None:
    s = rolling()
    noise = torch.cat([s._rng(n).normal("noise", (1, SHAPE[0], 2, *SHAPE[1:])) for n in range(0, 12, 2)], 2)
    whole = generate_rolling(family().net, noise, s.cond, PLAN, Named(3, seeds=(3,)))
    blocks = 6 - len(PLAN.times) + 1  # later ones meet the end of the clip
    assert torch.allclose(take(s, blocks), whole[:, :, : 2 * blocks], atol=1e-6)


def test_it_goes_on_from_a_snapshot_bit_for_bit() -> None:
    s = rolling()
    take(s, 4)
    state = s.state()
    rest = take(s, 3)
    other = rolling(seed=9)
    next(other)
    other.restore(state)
    assert torch.equal(take(other, 3), rest)


def test_a_prompt_reaches_every_block_under_way() -> None:
    a, b = rolling(), rolling()
    take(a, 3), take(b, 3)
    b.switch(family().text(["a blue circle rests"]), "keep")
    assert (next(a) - next(b)).abs().max() > 1e-4


def test_a_cut_drops_the_window() -> None:
    s = rolling()
    take(s, 3)
    s.switch(s.cond, "cut")
    assert not s.coming and not s.cache.ids
    assert next(s).shape[2] == 2


def test_what_a_window_cannot_do_is_said() -> None:
    s = rolling()
    block = next(s)
    with pytest.raises(UserError, match="does not paint over"):
        s.edit(block, 0.5)
    with pytest.raises(UserError, match="at the beginning"):
        s.show(block)
    with pytest.raises(UserError, match="same steps"):
        RollingStream(family().net, replace(PLAN, first=(1.0,)), SHAPE, s.cond)
