"""Data for published teachers, on the tiny twins of their pipelines: a config to the engine's losses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from vdistill.app.build import Built, build, engine_of
from vdistill.app.build_family import make_family
from vdistill.app.config import load
from vdistill.core.engine import Report
from vdistill.core.errors import UserError
from vdistill.core.scope import AdapterRole
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
