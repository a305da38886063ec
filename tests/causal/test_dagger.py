"""DAgger: what the expert can follow is learned in the student's own streams, and everything else as it is given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from causal.student_bed import TIMES, clips, family, other, plan
from torch import Tensor
from toys import same_tensors

from vdistill.causal.dagger import Dagger
from vdistill.causal.rollout import generate
from vdistill.causal.stream import Stream
from vdistill.causal.student import Past
from vdistill.core.inputs import Noised
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic
from vdistill.core.step import Batch, Carried
from vdistill.core.times import Grid
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation

PLAN = plan(window=4)
RNG = Rng(3, turn="student")


def second(batch: Batch) -> Tensor:
    """Which samples are followed: the second alone."""
    return torch.arange(len(batch)) == 1


def every(batch: Batch) -> Tensor:
    return torch.ones(len(batch), dtype=torch.bool)


def corrected(streams: Tensor, batch: Batch, before: Batch, turn: int) -> Tensor:
    return streams * 0.5 + len(batch) + turn


def dagger(each: int = 1) -> Dagger:
    return Dagger(PLAN, second, every, corrected, each=each)


class Known(Stream):
    """A stream whose noise is given."""

    noise: Tensor

    def _noise(self, count: int) -> Tensor:
        return self.noise[:, :, self.number : self.number + count]


def test_a_sample_that_is_followed_becomes_the_students_stream_and_the_experts_answer_to_it() -> None:
    f, b = family(), clips(family())
    met = dagger()(f.net, b, RNG)
    noise = RNG.normal("dagger/eps", b.x[1:].shape, like=b.x)
    with torch.no_grad():
        stream = generate(f.net, noise, b.cond.select(slice(1, 2)), PLAN, RNG.at(turn="student/dagger"))
    assert met.past is not None and torch.equal(met.past[1:], stream)
    assert torch.equal(met.x[1:], stream * 0.5 + 1)
    assert torch.equal(met.x[0], b.x[0]) and torch.equal(met.past[0], b.x[0])
    given = dagger()(f.net, replace(b, past=b.x.flip(2)), RNG)
    assert given.past is not None and torch.equal(given.past[0], b.x[0].flip(1)) and torch.equal(given.past[1:], stream)


@pytest.mark.parametrize("how", [{}, {"window": 4, "sink": 1}], ids=["all", "window"])
def test_a_stream_that_is_told_something_else_at_first_is_what_a_stream_makes_of_it(how: dict[str, int]) -> None:
    """Block by block the same as a stream that is told another prompt, and the expert is told when that was."""
    f, seen = family(), list[tuple[Batch, int]]()
    b, make_plan = clips(f, length=10), replace(plan(**how), sampler=Deterministic())

    def expert(streams: Tensor, batch: Batch, before: Batch, turn: int) -> Tensor:
        seen.append((before, turn))
        return streams

    made = Dagger(make_plan, every, every, expert, switch=1.0)
    turns = set()
    for step in range(6):
        place = RNG.at(step=step)
        met, (before, turn) = made(f.net, b, place), seen[-1]
        assert same_tensors(before.cond.fields, (first := b.cond.select(torch.tensor([1, 0]))).fields)
        live = Known(f.net, make_plan, (768, 2, 2), first, (0, 1))
        live.noise = place.normal("dagger/eps", b.x.shape, like=b.x)
        blocks = []
        while live.number < 10:
            if live.number == turn:
                live.switch(b.cond, "recache")
            blocks.append(next(live))
        assert met.past is not None and torch.equal(met.past, torch.cat(blocks, 2))
        turns.add(turn)
    assert turns <= {2, 4, 6, 8} and len(turns) > 1


@pytest.mark.parametrize("lead", [2, 3])
def test_a_stream_whose_prompt_leaves_something_open_begins_with_its_clip(lead: int) -> None:
    """Whole blocks of it, and goes on from there as a stream does that was shown them; the other is its own."""
    f, b = family(), clips(family())
    make_plan = replace(PLAN, sampler=Deterministic())
    met = Dagger(make_plan, every, second, corrected, lead)(f.net, b, RNG)
    live = Known(f.net, make_plan, (768, 2, 2), b.cond.select(slice(0, 1)))
    live.noise, begun = RNG.normal("dagger/eps", b.x.shape, like=b.x)[:1], 2 * -(-lead // 2)
    for start in range(0, begun, 2):
        live.show(b.x[:1, :, start : start + 2])
    rest = [next(live) for _ in range(begun, 6, 2)]
    assert met.past is not None and torch.equal(met.past[:1, :, :begun], b.x[:1, :, :begun])
    assert rest and torch.allclose(met.past[:1, :, begun:], torch.cat(rest, 2), rtol=0, atol=1e-12)
    own = Dagger(make_plan, every, every, corrected, lead)(f.net, b, RNG)
    assert own.past is not None and torch.equal(met.past[1], own.past[1])
    assert not torch.equal(own.past[0], met.past[0])


def test_only_prompts_that_say_all_are_told_after_another() -> None:
    f, b = family(), clips(family())
    met = Dagger(PLAN, every, second, corrected, 2, switch=1.0)(f.net, b, RNG)
    assert met.past is not None and torch.equal(met.past[0], b.x[0]) and torch.equal(met.x[0], b.x[0])
    assert not torch.equal(met.past[1], b.x[1])


def test_pairs_that_must_not_meet_keep_to_their_own_prompts() -> None:
    f, b, told = family(), clips(family()), list[Batch]()

    def expert(streams: Tensor, batch: Batch, before: Batch, turn: int) -> Tensor:
        told.append(before)
        return streams

    def meet(batch: Batch, before: Batch) -> Tensor:
        assert torch.equal(before.x, batch.x.roll(-1, 0))
        return second(batch)

    Dagger(PLAN, every, every, expert, switch=1.0, meet=meet)(f.net, b, RNG)
    assert torch.equal(told[0].x, b.x[[0, 0]])  # the first keeps to its own, the second is told the first's


def test_a_share_of_the_batches_is_told_something_else_at_first() -> None:
    draws = [
        Dagger(PLAN, second, every, corrected, switch=0.5)._turn(clips(family()), RNG.at(step=s)) for s in range(60)
    ]
    assert 15 < draws.count(0) < 45 and {*draws} == {0, 2, 4}


def test_a_batch_without_any_stays_as_it_is() -> None:
    f, b = family(), clips(family(), n=1)
    assert dagger()(f.net, b, RNG) is b


def test_the_student_is_asked_for_the_answer_after_its_stream() -> None:
    """The loss is that of a batch that brings both."""
    f, teacher, b = family(), other(), clips(family())
    one, law, see = GuidanceConfig(1.0, 1.0, truth=2), Noised(Grid(TIMES)), Past(PLAN.layout)
    said = GuidanceDistillation(one, teacher.net, f.net, f.net, law, see, met=dagger()).loss("student", b, RNG)
    brought = dagger()(f.net, b, RNG)
    right = GuidanceDistillation(one, teacher.net, f.net, f.net, law, see).loss("student", brought, RNG)
    plain = GuidanceDistillation(one, teacher.net, f.net, f.net, law, see).loss("student", b, RNG)
    assert torch.equal(said.total, right.total) and not torch.equal(said.total, plain.total)
    assert said.total.requires_grad


def test_a_stream_serves_so_many_steps_and_goes_on_after_a_stop() -> None:
    f, b, made = family(), clips(family()), dagger(each=3)
    first, again, third = (made(f.net, b, RNG.at(step=step)).x for step in (3, 4, 5))
    assert torch.equal(first, again) and torch.equal(first, third)
    assert isinstance(made, Carried) and {*made.state()} == {"0/past", "0/goal"}
    resumed = dagger(each=3)
    resumed.restore(made.state())
    assert torch.equal(resumed(f.net, b, RNG.at(step=5)).x, first)
    assert not torch.equal(resumed(f.net, b, RNG.at(step=6)).x, first)
    assert not dagger().state()


def test_a_process_takes_up_its_own_streams_alone() -> None:
    state = {f"{micro}/{name}": torch.tensor(float(micro)) for micro in range(4) for name in ("past", "goal")}
    ranks = [dagger(2), dagger(2)]
    for rank, made in enumerate(ranks):
        made.restore(state, rank, 2)
    assert [{k.partition("/")[0] for k in made.kept} for made in ranks] == [{"0", "2"}, {"1", "3"}]
    assert same_tensors({**ranks[0].state(), **ranks[1].state()}, state)
