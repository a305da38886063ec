"""Data for published teachers, on the tiny twins of their pipelines: a config to the engine's losses."""

from __future__ import annotations

import gc
import json
import math
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from vdistill.app.build import Built, build, engine_of
from vdistill.app.build_family import make_family
from vdistill.app.config import load
from vdistill.app.models import open_model, random_model
from vdistill.core.engine import Report
from vdistill.core.errors import UserError
from vdistill.core.scope import AdapterRole
from vdistill.families.random_tiny import random_tiny
from vdistill.families.stock import StockFamily

DMD2 = """\
name: tiny
family: {{name: wan, random_tiny: {variant}, frames: 9, height: 64, width: 48, long_text: {long}}}
data: {data}
method: {{name: dmd2, steps: 2, critic_per_student: 1, guidance: {{scale: 3.0}}}}
scope: {{name: lora, rank: 2}}
optim: {{lr: 1e-2, warmup: 0}}
train: {{steps: 2, batch: 2}}
"""


def dmd2(tmp_path: Path, data: str, variant: str = "wan", long: str = "cut") -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(DMD2.format(data=data, variant=variant, long=long))
    return path


def trained(config_file: Path, out: Path) -> tuple[Built, list[Report]]:
    """A run from its config to its last step."""
    config = load(config_file)
    built, reports = build(config), list[Report]()
    engine_of(config, built, out).run(reports.append)
    return built, reports


def test_a_published_teacher_is_distilled_from_prompts_alone(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red cat\n\n  a dog   that runs \na lamp\n")
    config = dmd2(tmp_path, f"{{name: prompts, path: {tmp_path}/prompts.txt}}")
    built = build(load(config))
    assert isinstance(built.family, StockFamily)
    batch = built.source(0, 0)
    assert batch.x.shape == (2, *built.family.codec.shape(9, 64, 48)) and not batch.x.any()
    names = ("a red cat", "a dog that runs", "a lamp")
    said = built.family.text([names[int(key.removeprefix("prompt/"))] for key in batch.keys])
    assert all(torch.equal(batch.cond.fields[k], v) for k, v in said.fields.items())
    assert torch.equal(batch.cond.null["text"], said.null["text"])
    built, reports = trained(config, tmp_path / "run")
    assert [r.step for r in reports] == [1, 2]
    assert all(math.isfinite(v) for r in reports for v in r.values.values())
    assert isinstance(built.student, AdapterRole)
    teacher = make_family(load(config))
    assert isinstance(teacher, StockFamily)
    before, moved = teacher.network_of().state_dict(), built.plain_student().net.state_dict()
    assert moved.keys() == before.keys()
    assert sum(not torch.equal(v, moved[k]) for k, v in before.items()) > 10


def test_a_prompt_longer_than_the_teacher_reads_is_refused_unless_it_may_be_cut(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("word " * 600)
    data = f"{{name: prompts, path: {tmp_path}/prompts.txt}}"
    with pytest.raises(UserError, match="family.long_text: cut"):
        build(load(dmd2(tmp_path, data, long="refuse"))).source(0, 0)
    assert build(load(dmd2(tmp_path, data))).source(0, 0).cond.fields["text"].shape[0] == 2


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three text encoders."""
    folder = tmp_path_factory.mktemp("sd3") / "teacher"
    random_tiny("sd3").save_pretrained(folder)
    return folder


def test_encoders_leave_memory_and_a_saved_model_has_them_bit_for_bit(sd3: Path, tmp_path: Path) -> None:
    plain, family = open_model(sd3), open_model(sd3)
    said = plain.text(["a red cat"])
    rows = {"a red cat": dict(said.fields), None: dict(said.null)}
    gone = [weakref.ref(p) for p in family.pipe.text_encoder_3.parameters()]
    family.remember(rows.get)
    family.release_encoders()
    gc.collect()
    assert family.released == ("text_encoder", "text_encoder_2", "text_encoder_3")
    assert not any(ref() is not None for ref in gone)
    assert all(torch.equal(v, said.fields[k]) for k, v in family.text(["a red cat"]).fields.items())
    assert all(torch.equal(v, said.null[k]) for k, v in family.null().items())
    with pytest.raises(UserError, match="no text embedding was prepared of 'a dog'"):
        family.text(["a dog"])
    family.save(family.net, tmp_path / "student")
    plain.save(plain.net, tmp_path / "plain")
    again, other = open_model(tmp_path / "student"), open_model(tmp_path / "plain")
    assert all(torch.equal(again.text(["a dog"]).fields[k], v) for k, v in plain.text(["a dog"]).fields.items())
    assert dict(again.pipe.config).keys() == dict(other.pipe.config).keys()
    listed = [json.loads((tmp_path / n / "model_index.json").read_text()) for n in ("student", "plain")]
    assert listed[0] == listed[1]
    shutil.move(sd3, tmp_path / "moved")
    try:
        with pytest.raises(UserError, match="text encoders left memory and are no longer in their folder"):
            family.save(family.net, tmp_path / "late")
    finally:
        shutil.move(tmp_path / "moved", sd3)


def test_a_family_made_new_keeps_its_encoders(tmp_path: Path) -> None:
    family = random_model("wan", "wan", 0, torch.float32, "")
    family.release_encoders()
    assert not family.released and family.text(["a red cat"]).fields["text"].ndim == 3
