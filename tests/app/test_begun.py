"""Students distilled to go on from known positions: what is known is no error, and runs without it are as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from talkers import model

from vdistill.app.about import about
from vdistill.app.begun import Begun
from vdistill.app.build import build
from vdistill.app.demos import recipe
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.families.few_step import Straight
from vdistill.methods.guidance_scales import ToldScales

FEW = ["method.supervision=null", "method.times=[1.0, 0.6]", "method.substeps=2", "method.inputs=mix"]


def said(*more: str) -> Config:
    start = [f"family.path={model()}", "family.size=32", "family.frames=9", "data.take=17", "data.takes=4"]
    small = ["train.batch=2", "train.steps=2", "train.precision='no'", "optim.warmup=1", "method.begin.share=1"]
    return recipe("demo_talk.yaml", 0, [*start, *small, *more])


def begun(config: Config) -> tuple[Batch, float]:
    """The first batch as it begins, and its loss."""
    built = build(config)
    assert isinstance(built.method, ToldScales) and isinstance(built.method.method, Begun)
    batch = built.source(0, 0)
    with torch.no_grad():
        loss = built.method.loss("student", batch, Rng(0)).total
    return built.method.method.begun(batch, Rng(0)), float(loss)


def test_a_newborn_student_told_no_guidance_is_its_teacher_and_errs_nowhere() -> None:
    batch, loss = begun(said("method.supervision=null", "scales.at_usual=0", "scales.at_ones=1"))
    known = batch.cond.fields["known"]
    assert known.shape[2] in (1, 2) and not torch.equal(known, batch.x[:, :, : known.shape[2]])
    assert 0 <= loss < 1e-9


@pytest.mark.parametrize("inputs", ["data", "backward"])
def test_known_positions_stay_finite_along_the_teachers_ode(inputs: str) -> None:
    _, loss = begun(said(*FEW, f"method.inputs={inputs}"))
    assert 0 < loss < float("inf")


def test_a_share_of_none_leaves_every_batch_as_it_is() -> None:
    built = build(said("method.begin.share=0"))
    assert isinstance(built.method, ToldScales) and isinstance(built.method.method, Begun)
    batch = built.source(0, 0)
    assert all(built.method.method.begun(batch, Rng(0, step)) is batch for step in range(8))


def test_a_student_says_what_it_goes_on_from_and_steps_as_the_ode_does(tmp_path: Path) -> None:
    train(said(*FEW), tmp_path)
    told = about(tmp_path / "student")
    assert told.begins == 2 and told.level == told.begin_level / 2 > 0
    assert isinstance(build(said(*FEW)).times, Straight)
    assert "begin" not in said("method.begin=null").method.model_dump()
