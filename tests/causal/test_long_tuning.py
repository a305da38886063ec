"""Long tuning: clips that grow from step to step are the stream itself, the loss sees their end, and a resumed run goes
on with the same clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from causal.student_bed import at_exit, clips, family, plan
from torch import Tensor
from toys import same_tensors

from vdistill.causal.cache import Cache
from vdistill.causal.long_tuning import Longer, LongTuning, window
from vdistill.causal.rollout import SelfForcing, make_block, part
from vdistill.core.engine import Cadence, Engine
from vdistill.core.errors import UserError
from vdistill.core.optim import OptimSpec
from vdistill.core.rng import Rng
from vdistill.methods.dmd2 import Dmd2, Dmd2Config

SEE = 6
AGAIN_CALLS: list[Tensor] = []


def again(latents: Tensor) -> Tensor:
    """Stands for decoding and encoding: something else, of one latent."""
    AGAIN_CALLS.append(latents)
    return latents[:, :, -1:] * 0.5


@pytest.mark.parametrize("how", [{}, {"window": 4, "sink": 1}], ids=["all", "window"])
def test_a_clip_that_grows_is_the_stream(how: dict[str, int]) -> None:
    """While weights stand still, and rollouts stop at the last step."""
    f, p = family(), plan(**how)
    batch, tuning = clips(f, SEE), LongTuning(p, 4, 14, again)
    places = [at_exit(2).at(turn="student")] * 3
    seen = [tuning(f.net, batch, rng) for rng in places]
    cache, stream = Cache(p.layout), []
    with torch.no_grad():
        for rng, (first, count) in zip(places, [(0, 6), (6, 4), (10, 4)], strict=True):
            noise = rng.normal("input/eps", (2, 768, count, 2, 2), like=batch.x)
            for start in range(first, first + count, 2):
                own = noise[:, :, start - first : start - first + 2]
                here = part(batch.cond, p, start, 2)
                stream.append(make_block(f.net, own, here, cache, p, rng, range(start, start + 2)))
    whole = torch.cat(stream, 2)
    assert torch.equal(seen[0], whole[:, :, :6])
    for x, end in ((seen[1], 10), (seen[2], 14)):
        assert torch.equal(x[:, :, 1:], whole[:, :, end - SEE + 1 : end])
        assert torch.equal(x[:, :, :1], 0.5 * whole[:, :, end - SEE : end - SEE + 1])
    kept = tuning.kept["student.0"]
    assert kept.cache.ids and same_tensors(kept.cache.state(), cache.state())


def test_only_what_is_new_carries_a_graph_and_the_picture_knows_what_came_before() -> None:
    f, tuning = family(), LongTuning(plan(), 2, 10, again)
    batch = clips(f, SEE)
    AGAIN_CALLS.clear()
    x = [tuning(f.net, batch, at_exit(1)) for _ in range(3)]
    assert [t.shape[2] for t in AGAIN_CALLS] == [3, 5]  # at most 4 latents before the picture
    old = torch.autograd.grad(x[2][:, :, :4].sum(), [*f.net.parameters()], allow_unused=True, retain_graph=True)
    assert all(g is None or not g.any() for g in old)
    new = torch.autograd.grad(x[2][:, :, 4:].sum(), [*f.net.parameters()], allow_unused=True)
    assert any(g is not None and g.any() for g in new)
    assert all(not v.requires_grad for v in tuning.kept[f"{at_exit(1).turn}.0"].cache.values.values())


def test_a_clip_begins_anew_at_its_longest_and_each_learner_has_its_own() -> None:
    f, tuning = family(), LongTuning(plan(), 4, 14, again)
    batch, lengths = clips(f, SEE), []
    assert tuning.calls(SEE) == 3
    for _ in range(4):
        tuning(f.net, batch, Rng(0, turn="critic"))
        lengths.append(tuning.kept["critic.0"].length)
    tuning(f.net, batch, Rng(0, turn="student"))
    assert lengths == [6, 10, 14, 6] and tuning.kept["student.0"].length == 6


def test_a_window_that_is_the_whole_clip_stays_as_it_is() -> None:
    x = torch.randn(1, 2, 5, 1, 1)
    assert window(x, 5, again) is x
    assert torch.equal(window(x, 3, again), torch.cat([x[:, :, 2:3] * 0.5, x[:, :, 3:]], 2))


def engine(out: Path, steps: int, every: int = 2) -> Engine:
    f = family(double=False)
    teacher, critic = family(double=False), family(double=False)
    tuning = LongTuning(plan(window=4, sink=1), 2, 12, again)
    modules = {"student": f.net, "critic": critic.net}
    method = Dmd2(Dmd2Config(2), teacher.net, f.net, critic.net, modules, tuning)
    batch = clips(f, 6, dtype=torch.float32)
    spec = {n: OptimSpec(lr=1e-3) for n in method.learners}
    return Engine(
        method, lambda s, m: batch, spec, out, steps=steps, cadence=Cadence(checkpoint=every, keep=9, micro=2)
    )


def test_a_resumed_run_goes_on_with_the_clips_of_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = engine(tmp_path / "a", 5).run()
    engine(tmp_path / "b", 3).run()  # in the middle of a clip of each learner
    later = engine(tmp_path / "b", 5)
    later.resume()
    assert later.step == 3 and later.method.generate.kept.keys() == whole.method.generate.kept.keys()  # type: ignore[attr-defined]
    later.run()
    one, two = whole.snapshot(), later.snapshot()
    assert {"carried", "student", "critic"} <= one.groups.keys()
    for group in one.groups:
        assert same_tensors(dict(one.groups[group]), dict(two.groups[group])), group


def test_a_longer_rollout_ends_as_the_whole_one_does() -> None:
    f, inner = family(), SelfForcing(plan())
    batch, longer, seen = clips(f, SEE), Longer(inner, 12, again), set()
    for step in range(12):
        rng = Rng(2, step=step)
        with torch.no_grad():
            x = longer(f.net, batch, rng)
        length = SEE + 2 * rng.integer("length", 4)
        seen.add(length)
        if step < 3:
            with torch.no_grad():
                long = inner(f.net, clips(f, length), rng)
            assert torch.equal(x, window(long, SEE, again))
        assert x.shape == batch.x.shape
    assert seen == {6, 8, 10, 12}


def test_a_rollout_that_is_not_whole_blocks_more_is_refused() -> None:
    f = family()
    with pytest.raises(UserError, match="whole blocks of 2"):
        LongTuning(plan(), 2, 11, again)(f.net, clips(f, SEE), Rng(0))
