"""A judge goes on where another run left it: its weights lie beside the student, and `judge.start` names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from toys import same_tensors, tiny_family

from vdistill.app import config as configs
from vdistill.app.build import build
from vdistill.app.cli import main
from vdistill.app.judge_file import FILE
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core.errors import UserError

MOTION = {"kind": "motion", "hidden": 8, "text": True, "anchor": 0.1}
DMD2 = {"name": "dmd2", "steps": 2, "critic_per_student": 1}
PAIRS = {"name": "progressive", "steps": 2, "scale": 2.0, "relax": 2}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, place)
    return place


def toy(pipe: Path, method: dict[str, Any], judge: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            "name": "toy",
            "family": {"name": "tiny", "path": str(pipe), "frames": 9, "size": 16},
            "data": {"name": "shapes"},
            "method": method | {"judge": judge},
            "optim": {"lr": 1e-3},
            "train": {"steps": 2, "batch": 2},
        }
    )


@pytest.mark.parametrize(
    ("method", "judge", "names"),
    [
        (DMD2, MOTION, {"gan"}),
        (DMD2, {"kind": "tokens", "features": "teacher"}, {"gan"}),
        (PAIRS, {"kind": "latent", "hidden": 8}, {"pair", "ends"}),
    ],
)
def test_a_judge_goes_on_with_the_weights_it_ended_with(
    method: dict[str, Any], judge: dict[str, Any], names: set[str], pipe: Path, tmp_path: Path
) -> None:
    engine = train(toy(pipe, method, judge), tmp_path / "run")
    judged = {k: m for k, m in engine.method.learners["critic"].named_children() if k in names}
    ended = {f"{name}.{k}": v for name, module in judged.items() for k, v in module.state_dict().items()}
    assert judged.keys() == names and same_tensors(ended, load_file(tmp_path / "run/student" / FILE))
    anew, on = (build(toy(pipe, method, judge | more)) for more in ({}, {"start": str(tmp_path / "run")}))
    for name in names:
        begins = [dict(b.method.learners["critic"].get_submodule(name).state_dict()) for b in (anew, on)]
        assert same_tensors(begins[1], dict(judged[name].state_dict()))
        assert not same_tensors(begins[0], begins[1])


def test_what_is_no_judge_to_go_on_with_is_refused_in_one_line(pipe: Path, tmp_path: Path) -> None:
    train(toy(pipe, DMD2, MOTION), tmp_path / "run")
    with pytest.raises(UserError, match="holds no judge"):
        build(toy(pipe, DMD2, MOTION | {"start": str(pipe)}))
    for other in ({"hidden": 16}, {"text": False}, {"anchor": 0.0}):
        with pytest.raises(UserError, match=f"{FILE}, of another judge than method.judge says"):
            build(toy(pipe, DMD2, MOTION | other | {"start": str(tmp_path / "run")}))


def test_heads_on_features_that_learn_are_not_written(pipe: Path, tmp_path: Path) -> None:
    train(toy(pipe, DMD2, {"kind": "tokens", "features": "critic"}), tmp_path / "run")
    assert (tmp_path / "run/student").is_dir() and not (tmp_path / "run/student" / FILE).exists()


@pytest.mark.parametrize(
    ("start", "said"), [("runs/none", "runs/none: no such model"), ("docs", "docs: holds no judge")]
)
def test_a_start_without_a_judge_is_found_before_the_run(
    start: str, said: str, pipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(configs.dump(toy(pipe, DMD2, MOTION | {"start": start})))
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run/metrics.jsonl").exists()
