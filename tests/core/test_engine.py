from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from toys import flow_engine, same_tensors

from vdistill.core import checkpoint
from vdistill.core.engine import Engine
from vdistill.core.errors import NonFinite, UserError
from vdistill.core.optim import Ema, OptimSpec
from vdistill.core.step import Batch


def final(out: Path, step: int) -> checkpoint.Snapshot:
    return checkpoint.load(out / "checkpoints" / checkpoint.name(step))


def assert_same_run(a: Path, b: Path, step: int) -> None:
    one, two = final(a, step), final(b, step)
    assert one.state == two.state
    for group in one.groups:
        assert same_tensors(dict(one.groups[group]), dict(two.groups[group])), group
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_resumed_run_equals_uninterrupted_bit_for_bit(tmp_path: Path, optim: str) -> None:
    flow_engine(tmp_path / "a", optim=optim).run()
    broken = flow_engine(tmp_path / "b", optim=optim)
    stop_at(broken, 3)
    again = flow_engine(tmp_path / "b", optim=optim)
    again.resume()
    assert again.step == 3
    again.run()
    assert_same_run(tmp_path / "a", tmp_path / "b", 6)


def stop_at(engine: Engine, step: int) -> None:
    def interrupt(report: object) -> None:
        if engine.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    engine.run(interrupt)


def test_sigint_finishes_the_step_and_saves_it(tmp_path: Path) -> None:
    engine = flow_engine(tmp_path)
    stop_at(engine, 3)
    assert engine.stopped_by == "SIGINT"
    assert final(tmp_path, 3).step == len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_metrics_past_the_checkpoint_are_dropped_on_resume(tmp_path: Path) -> None:
    flow_engine(tmp_path, steps=2).run()
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "student/loss": 1.0}\n{"step": 4, "stu')
    again = flow_engine(tmp_path, steps=4)
    again.resume()
    again.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[2]["student/loss"] != 1.0


def test_two_micro_batches_average_their_gradients(tmp_path: Path) -> None:
    engine = flow_engine(tmp_path, steps=1, micro=2)
    values = engine._advance()
    parts = []
    for number in range(2):
        single = flow_engine(tmp_path / str(number), steps=1, micro=2)
        single.source = lambda step, micro, n=number, source=single.source: source(step, n)  # type: ignore[misc]
        single.cadence = type(single.cadence)(micro=1)
        from vdistill.core.rng import Rng

        parts.append(single.method.loss("student", single.source(0, 0), Rng(0, 0, number, turn="student")).total)
    assert values["student/loss"] == pytest.approx(float(sum(p.detach() for p in parts)) / 2, rel=1e-6)


def test_non_finite_updates_change_nothing_and_stop_after_five(tmp_path: Path) -> None:
    engine = flow_engine(tmp_path, steps=50)
    good = engine.source

    def poisoned(step: int, micro: int) -> Batch:
        batch = good(step, micro)
        return Batch(batch.x * float("nan"), batch.cond, keys=batch.keys)

    engine.source = poisoned
    before = {k: v.clone() for k, v in engine.method.learners["student"].state_dict().items()}
    with pytest.raises(NonFinite, match=r"5 times in a row.*shapes/"):
        engine.run()
    assert same_tensors(before, engine.method.learners["student"].state_dict())


def test_a_single_bad_batch_is_skipped_and_counted(tmp_path: Path) -> None:
    engine = flow_engine(tmp_path, steps=4)
    good = engine.source

    def poisoned(step: int, micro: int) -> Batch:
        batch = good(step, micro)
        return Batch(batch.x * float("nan"), batch.cond) if step == 1 else batch

    engine.source = poisoned
    engine.run()
    skipped = [
        json.loads(line).get("student/skipped") for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert skipped == [None, 1.0, None, None]


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    flow_engine(tmp_path, steps=2).run()
    other = flow_engine(tmp_path, steps=4)
    other.seed = 7
    with pytest.raises(UserError, match="seed"):
        other.resume()


def test_learning_rate_rises_holds_and_falls() -> None:
    spec = OptimSpec(lr=1.0, warmup=3, decay=0.5)
    rates = [spec.rate(step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[10] == 1.0 and rates[15] == 0.5 and rates[19] < 0.11


@pytest.mark.parametrize("warmup", [True, False])
def test_ema_is_its_recurrence_and_swaps_back(warmup: bool) -> None:
    layer = torch.nn.Linear(2, 2, bias=False)
    ema, expected = Ema(0.9, layer, warmup), layer.weight.detach().clone()
    for n in range(5):
        with torch.no_grad():
            layer.weight.add_(1.0)
        ema.update(layer.parameters())
        keep = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = keep * expected + (1 - keep) * layer.weight.detach()
    assert torch.allclose(ema.shadow[0], expected)
    trained = layer.weight.detach().clone()
    ema.swap(layer)
    assert torch.allclose(layer.weight, expected)
    ema.swap(layer)
    assert torch.equal(layer.weight, trained)
