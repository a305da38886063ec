"""Growing clips that are told another prompt on the way: the stream itself, the losses told the same, a run resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from causal.student_bed import clips, family, plan
from torch import Tensor
from toys import same_tensors

from vdistill.app.config import ConfigError, load
from vdistill.causal.cache import Cache
from vdistill.causal.long_tuning import LongTuning, shifted
from vdistill.causal.rollout import remember_again
from vdistill.causal.stream import Stream
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.methods.dmd2 import Dmd2, Dmd2Config

SEE, ADD, LONGEST = 4, 2, 12
TINY = Path(__file__).parents[2] / "configs/causal/shapes_long_tuning_tiny.yaml"
PLACE = Rng(5, turn="student")


def again(latents: Tensor) -> Tensor:
    return latents[:, :, -1:] * 0.5


def tuning(switch: float, how: dict[str, int] | None = None) -> LongTuning:
    return LongTuning(plan(**(how or {}), whole=True), ADD, LONGEST, again, switch)  # type: ignore[arg-type]


def grown(make: LongTuning, net: Denoiser, batch: Batch, calls: int = 5) -> list[Tensor]:
    with torch.no_grad():
        return [make(net, make.ahead(batch, PLACE), PLACE) for _ in range(calls)]


def alike(batch: Batch) -> Batch:
    """With the first sample's prompt for both."""
    return replace(batch, cond=batch.cond.select(torch.tensor([0, 0])))


def test_a_switch_to_the_same_prompt_changes_nothing() -> None:
    """While nothing has left the window: what is remembered again has seen all that it saw when it was made."""
    f = family()
    batch = alike(clips(f, SEE))
    for one, other in zip(grown(tuning(1.0), f.net, batch), grown(tuning(0.0), f.net, batch), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_once_something_has_left_the_window_what_is_made_again_has_not_seen_it() -> None:
    f, moved = family(), {"window": 4}
    batch = alike(clips(f, SEE))
    one, other = grown(tuning(1.0, moved), f.net, batch), grown(tuning(0.0, moved), f.net, batch)
    assert float((one[-1] - other[-1]).abs().max()) > 1e-6


def test_a_switch_to_another_prompt_changes_what_comes_after_it_alone() -> None:
    f, make = family(), tuning(1.0)
    batch, kept = clips(f, SEE), tuning(0.0)
    one, other = grown(make, f.net, batch), grown(kept, f.net, batch)
    turn = make.kept["student.0"].turn
    same = [torch.equal(a, b) for a, b in zip(one, other, strict=True)]
    calls = 1 + (turn - SEE) // ADD
    assert same == [i < calls for i in range(5)] and 1 <= calls < 5


@pytest.mark.parametrize("how", [{}, {"window": 6, "sink": 2}], ids=["all", "window"])
def test_what_is_remembered_at_a_switch_is_what_a_stream_remembers(how: dict[str, int]) -> None:
    f, make = family(), tuning(1.0, how)
    batch = clips(f, SEE)
    turn = int(make._grown(batch, PLACE).turn)
    grown(make, f.net, batch, 1 + (turn - SEE) // ADD)
    before = make.kept["student.0"]
    assert before.length == turn and make.ahead(batch, PLACE) is not batch
    live = Stream(f.net, make.plan, (768, 2, 2), batch.cond, (0, 1))
    live.cache, live.recent, live.number = before.cache, {**before.recent}, turn
    live.switch(shifted(batch).cond, "recache")
    ours = Cache(make.plan.layout)
    to = shifted(batch).cond
    remember_again(f.net, before.recent, lambda _: to, ours, make.plan, lambda _: PLACE)
    assert ours.ids and same_tensors(ours.state(), live.cache.state())
    ids = {n for start, x in before.recent.items() for n in range(start, start + x.shape[2])}
    assert {*before.cache.ids} == {*ours.ids} == ids


class Asked:
    """A denoiser that notes the conditions it was asked under."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.schedule, self.conds = inner, inner.schedule, list[Cond]()

    def x0(self, x: Tensor, t: Tensor, cond: Cond, **more: object) -> Tensor:
        self.conds.append(cond)
        return self.inner.x0(x, t, cond, **more)  # type: ignore[arg-type]


def test_teacher_and_critic_are_told_the_prompt_of_the_end() -> None:
    f, make = family(), tuning(1.0)
    batch, teacher, critic = clips(f, SEE), Asked(f.net), Asked(f.net)
    method = Dmd2(Dmd2Config(1), teacher, f.net, critic, {"student": f.net, "critic": f.net}, make)
    for learner in ("student", "critic"):
        teacher.conds, critic.conds = [], []
        place = PLACE.at(turn=learner)
        calls = 1 + (make._grown(batch, place).turn - SEE) // ADD
        for i in range(5):
            method.loss(learner, batch, place)
            text = critic.conds[-1].fields["text"]
            assert torch.equal(text, (batch if i < calls else shifted(batch)).cond.fields["text"])
            assert learner == "critic" or torch.equal(teacher.conds[-1].fields["text"], text)


def test_a_shifted_batch_keeps_samples_and_prompts_together() -> None:
    f = family()
    batch = replace(clips(f, SEE), keys=("a", "b"), weight=torch.tensor([1.0, 2.0]))
    moved = shifted(batch)
    assert moved.keys == ("b", "a") and moved.weight is not None and moved.weight.tolist() == [2.0, 1.0]
    assert torch.equal(moved.x[0], batch.x[1]) and same_tensors(
        dict(shifted(moved).cond.fields), dict(batch.cond.fields)
    )


def test_clips_that_will_switch_are_saved_and_go_on() -> None:
    f, make = family(), tuning(1.0)
    batch = clips(f, SEE)
    grown(make, f.net, batch, 1)
    other = tuning(1.0)
    other.restore(make.state())
    assert all(torch.equal(a, b) for a, b in zip(*(grown(m, f.net, batch, 4) for m in (make, other)), strict=True))


def test_the_share_of_clips_that_switch_is_what_was_asked() -> None:
    f = family()
    batch, make = clips(f, SEE), tuning(0.25)
    turns = [make._grown(batch, Rng(0, step=i, turn="student")).turn for i in range(400)]
    assert 70 < sum(t > 0 for t in turns) < 130
    assert {*turns} == {0, 4, 6, 8, 10}


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (["causal.switch=1.5"], "must be at most 1"),
        (["causal.switch=-0.1"], "must be at least 0"),
        (["causal.switch=0.5", "causal.extend=null"], "needs 'extend'"),
        (["causal.switch=0.5", "train.batch=1"], "train.batch must be 2"),
    ],
)
def test_nonsense_is_refused_with_its_key(said: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        load(TINY, said)
    assert "causal.switch" in str(caught.value)
