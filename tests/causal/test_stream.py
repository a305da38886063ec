"""A stream: the same blocks however it is read, saved, resumed or split; prompts that change what they should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal.stream_bed import PLAN, SHAPE, family
from torch import Tensor

from vdistill.causal.rollout import Plan, generate
from vdistill.causal.stream import Stream, blended
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import EachRng
from vdistill.core.sampling import Deterministic


def stream(*prompts: str, plan: Plan = PLAN, seed: int = 3, **more: object) -> Stream:
    cond = family().text(prompts or ("a red square",))
    return Stream(family().net, plan, SHAPE, cond, tuple(seed + i for i in range(len(prompts) or 1)), **more)  # type: ignore[arg-type]


def take(s: Stream, blocks: int) -> Tensor:
    return torch.cat([next(s) for _ in range(blocks)], 2)


def test_a_stream_is_the_chunk_loop() -> None:
    plan = replace(PLAN, sampler=Deterministic())
    s = stream(plan=plan)
    noise = torch.cat([s._rng(n).normal("noise", (1, SHAPE[0], 2, *SHAPE[1:])) for n in range(0, 8, 2)], 2)
    whole = generate(family().net, noise, s.cond, plan, EachRng(3, seeds=(3,)))
    assert torch.equal(take(s, 4), whole)


def test_a_clip_does_not_depend_on_those_made_with_it() -> None:
    both = take(stream("a red square", "a blue circle rests"), 4)
    alone = take(stream("a blue circle rests", seed=4), 4)
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_reading_slowly_changes_nothing() -> None:
    whole = take(stream(), 5)
    a, b, parts = stream(), stream(seed=9), []
    for _ in range(5):
        parts.append(next(a))
        next(b)
    assert torch.equal(torch.cat(parts, 2), whole)


@pytest.mark.parametrize("fading", [False, True])
def test_a_stream_goes_on_from_a_snapshot_bit_for_bit(fading: bool) -> None:
    s = stream()
    take(s, 5)
    if fading:
        s.switch(family().text(["a blue circle rests"]), "blend", 3)
        next(s)
    state = {k: v.clone() for k, v in s.state().items()}
    rest = take(s, 4)
    other = stream("a blue circle rests", seed=77)
    take(other, 1)
    other.restore(state)
    assert torch.equal(take(other, 4), rest)


def test_memory_does_not_grow() -> None:
    s, sizes = stream(), set()
    for i in range(60):
        next(s)
        if i > 4:
            sizes.add((s.cache.nbytes(), sum(x.numel() for x in s.recent.values()), len(s.cache)))
    assert len(sizes) == 1


def test_remembering_anew_under_the_same_prompt_changes_nothing_yet() -> None:
    a, b = stream(), stream()
    take(a, 2), take(b, 2)
    b.switch(b.cond, "recache")
    assert torch.allclose(next(a), next(b), atol=1e-6)


def test_every_way_to_switch_is_another() -> None:
    made = {}
    for how in ("keep", "recache", "blend", "cut"):
        s = stream()
        take(s, 4)
        s.switch(family().text(["a blue circle rests"]), how, 2)  # type: ignore[arg-type]
        made[how] = take(s, 2)
    unswitched = take(stream(), 6)[:, :, -4:]
    kinds = [unswitched, *made.values()]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(kinds) for b in kinds[:i])


def test_a_cut_forgets_everything() -> None:
    a, b = stream(), stream(seed=3)
    take(a, 4)
    a.switch(a.cond, "cut")
    b.number = b.begun = a.number
    assert torch.equal(take(a, 3), take(b, 3))


def test_a_blend_ends_at_the_new_prompt() -> None:
    one, two = family().text(["a red square"]), family().text(["a blue circle rests"])
    half = blended(one, two, 0.5).fields["text"]
    assert torch.allclose(half, (one.fields["text"] + two.fields["text"]) / 2)
    s = stream()
    s.switch(two, "blend", 2)
    assert torch.equal(s._cond().fields["text"], blended(s.fading[0], two, 0.5).fields["text"]) if s.fading else False
    assert s._cond() is two and s.fading is None


def test_a_shown_picture_is_remembered_as_if_it_had_been_made() -> None:
    s = stream()
    first = next(s)
    other = stream()
    other.show(first)
    assert torch.equal(next(s), next(other))


def test_painting_over_from_pure_noise_is_making() -> None:
    s, other = stream(), stream()
    source = torch.randn(1, SHAPE[0], 2, *SHAPE[1:])
    assert torch.allclose(other.edit(source, 1.0), next(s), atol=1e-6)
    assert (stream().edit(source, 0.3) - next(stream())).abs().max() > 1e-3


def test_other_steps_for_the_first_block_are_taken_there_alone() -> None:
    more = stream(plan=replace(PLAN, first=(1.0, 0.9, 0.8, 0.5)))
    assert (next(more) - next(stream())).abs().max() > 1e-4
    assert more._plan().times == PLAN.times


def test_recomputing_is_recaching_before_every_block() -> None:
    a, b = stream(recompute=True), stream()
    for _ in range(6):
        b.switch(b.cond, "recache")
        assert torch.equal(next(a), next(b))


def test_blocks_of_another_shape_are_refused() -> None:
    s = stream()
    with pytest.raises(UserError, match="expected \\(1, 48, 2, 2, 2\\)"):
        s.show(torch.zeros(1, 48, 3, 2, 2))
    state = s.state() | {"recent/0": torch.zeros(1, 48, 2, 4, 4)}
    with pytest.raises(UserError, match="this stream makes"):
        s.restore(state)
    with pytest.raises(UserError, match="1 block or more"):
        s.switch(Cond(), "blend", 0)
