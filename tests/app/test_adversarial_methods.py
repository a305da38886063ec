"""Methods that a judge completes, from configs: each trains and resumes bit for bit, stages follow one another,
what does not fit is refused in one line, and the tiny twins of the recipes run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SIZE, captions, same_tensors, tiny_family

from vdistill.app import config as configs
from vdistill.app.build import build
from vdistill.app.cli import main
from vdistill.app.config import load
from vdistill.app.models import open_model
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core import checkpoint
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.families.few_step import Straight
from vdistill.families.tiny import TinyFamily

ROOT = Path(__file__).resolve().parents[2]
LATENT = {"kind": "latent", "hidden": 8, "share": 0.2, "text": True}
FRAMES = {"kind": "pixels", "hidden": 8, "loss": "hinge", "weight": 1.0, "r1": 1.0}
PAIRS = {"kind": "latent", "hidden": 8, "r1": 1.0, "text": True}
METHODS: dict[str, dict[str, Any]] = {
    "lightning": {
        "name": "progressive", "steps": 2, "scale": 2.0, "relax": 2,
        "judge": {"r1": 1.0, "later": 0.75, "mismatched": True},
    },
    "halving": {"name": "progressive", "steps": 2, "substeps": 4},
    "osv_1": {"name": "regression", "steps": 1, "end": "teacher", "scale": 2.0, "judge": LATENT},
    "osv_2": {"name": "judged_consistency", "steps": 2, "teacher_steps": 6, "solves": 2, "judge": LATENT},
    "diffusion2gan": {
        "name": "regression", "steps": 1, "inputs": "bank", "distance": "perceptual", "conditional": True,
        "judge": PAIRS | {"share": 0.3, "mismatched": True},
    },
    "mcm": {
        "name": "judged_consistency", "teacher_steps": 6, "view": "differences", "own": 0.5,
        "judge": FRAMES, "watch_per_student": 2,
    },
    "add": {"name": "add", "steps": 2, "scale": 2.0, "judge": FRAMES | {"penalty": "heads"}},
    "avdm2": {"name": "frame_matching", "steps": 2, "scale": 2.0, "judge": LATENT, "watch_per_student": 2},
}  # fmt: skip


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder to distil from."""
    folder, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, folder)
    return folder


@pytest.fixture(scope="session")
def bank(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of noise and the teacher's clip."""
    folder = tmp_path_factory.mktemp("pairs")
    (path := folder / "of.yaml").write_text(configs.dump(Config.model_validate(said(teacher, "osv_1"))))
    asked = ["--count", "4", "--keep", "pairs", "--steps", "3", "--guidance", "2"]
    assert main(["bank", str(path), "--out", str(folder / "bank"), *asked]) == 0
    return folder / "bank"


def said(teacher: Path, method: str, scope: str = "full", **train_keys: object) -> dict[str, Any]:
    return {
        "name": "toy",
        "family": {"name": "tiny", "path": str(teacher), "frames": 5, "size": 16},
        "data": {"name": "shapes"},
        "method": dict(METHODS[method]),
        "scope": {"name": "lora", "rank": 2} if scope == "lora" else {"name": "full"},
        "optim": {"lr": 1e-3, "ema": 0.9, "warmup": 2},
        "train": {"steps": 4, "batch": 2, "checkpoint_every": 2, "keep": 4, **train_keys},
    }


def toy(teacher: Path, method: str, scope: str = "full", **train_keys: object) -> Config:
    return Config.model_validate(said(teacher, method, scope, **train_keys))


RUNS = [
    *((name, "full") for name in METHODS),
    ("avdm2", "lora"),
    *(pytest.param(name, "lora", marks=pytest.mark.slow) for name in ("lightning", "add")),
]


@pytest.mark.parametrize(("method", "scope"), RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(
    method: str, scope: str, teacher: Path, bank: Path, tmp_path: Path
) -> None:
    def of(**keys: object) -> Config:
        given = said(teacher, method, scope, **keys)
        if method == "diffusion2gan":
            given["data"] = {"name": "bank", "path": str(bank)}
        return Config.model_validate(given)

    train(of(), tmp_path / "a")
    train(of(steps=2), tmp_path / "b")
    train(of(), tmp_path / "b")
    one, two = (checkpoint.load(tmp_path / run / "checkpoints" / checkpoint.name(4)) for run in "ab")
    assert one.groups.keys() == two.groups.keys()
    assert all(same_tensors(dict(one.groups[name]), dict(two.groups[name])) for name in one.groups)
    assert (tmp_path / "a/metrics.jsonl").read_text() == (tmp_path / "b/metrics.jsonl").read_text()
    found = rows(tmp_path / "a")
    assert all(row["student/grad"] > 0 for row in found if "student/grad" in row)
    assert ("critic/told_apart" in found[0]) == (method != "halving")


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_stage_of_progressive_distillation_is_the_teacher_of_the_next(teacher: Path, tmp_path: Path) -> None:
    train(toy(teacher, "halving", steps=1), tmp_path / "two")
    first = open_model(tmp_path / "two")
    assert isinstance(first.times, Straight) and len(first.times) == 2
    next_stage = said(tmp_path / "two", "lightning", steps=1)
    next_stage["method"] |= {"steps": 1, "scale": 1.0}
    config = Config.model_validate(next_stage)
    built = build(config)
    assert torch.allclose(built.method.table, torch.tensor([[*first.times, 0.0]]).double())  # type: ignore[attr-defined]
    train(config, tmp_path / "one")
    assert open_model(tmp_path / "one").times == (1.0,)


def test_a_few_step_teacher_is_asked_at_its_own_times_alone(teacher: Path, tmp_path: Path) -> None:
    train(toy(teacher, "halving", steps=1), tmp_path / "two")
    given = said(tmp_path / "two", "halving", steps=1)
    with pytest.raises(UserError, match=r"method.substeps.*t = 0.955.*steps: 1, substeps: 2"):
        build(Config.model_validate(given))


def test_a_student_goes_on_from_another_runs_while_the_teacher_stays(teacher: Path, tmp_path: Path) -> None:
    train(toy(teacher, "osv_1"), tmp_path / "first")
    begun, taught = (dict(open_model(path).net.state_dict()) for path in (tmp_path / "first", teacher))
    given = said(teacher, "osv_2")
    for method in (given["method"], {"name": "dmd2", "steps": 2}):
        given["method"] = method | {"start": str(tmp_path / "first")}
        built = build(Config.model_validate(given))
        assert same_tensors(dict(built.method.learners["student"].state_dict()), begun)
        assert same_tensors(dict(built.family.net.state_dict()), taught)
    critic = built.method.learners["critic"]["critic"]  # type: ignore[index]
    assert same_tensors(dict(critic.state_dict()), taught)


def test_frames_are_matched_with_the_teacher_of_images_that_is_named(teacher: Path, tmp_path: Path) -> None:
    other = tiny_family(seed=3)
    other.save(other.net, tmp_path / "images")
    given = said(teacher, "avdm2")
    given["method"] |= {"image_teacher": str(tmp_path / "images"), "scale": 1.0}
    built = build(Config.model_validate(given))
    matching = built.method.terms[0]  # type: ignore[attr-defined]
    for net in (matching.teacher, matching.module):
        assert same_tensors(dict(net.state_dict()), dict(other.net.state_dict()))
    assert not any(p.requires_grad for p in matching.teacher.parameters())
    matching.module.requires_grad_(True)  # as the engine does in its turn
    built.method.loss("critic", built.source(0, 0), Rng(0)).total.backward()
    assert any(p.grad is not None for p in matching.module.parameters())


def test_a_teacher_of_other_images_is_refused(teacher: Path, tmp_path: Path) -> None:
    other = TinyFamily.build(replace(SIZE, temporal=1), captions())
    other.save(other.net, tmp_path / "images")
    given = said(teacher, "avdm2")
    given["method"]["image_teacher"] = str(tmp_path / "images")
    with pytest.raises(UserError, match=r"image_teacher.*latents of 192 channels, the family latents of 768"):
        build(Config.model_validate(given))


@pytest.mark.parametrize("name", ["progressive", "judged_consistency", "add"])
def test_the_analytic_family_takes_them_too(name: str, tmp_path: Path) -> None:
    judge = {"kind": "tokens", "features": "critic"}
    method: dict[str, Any] = {"name": name, "steps": 2, "scale": 1.0, "judge": judge}
    given = {
        "name": "toy",
        "family": {"name": "analytic", "target": "gaussian"},
        "data": {"name": "analytic"},
        "method": method,
        "train": {"steps": 2, "batch": 4},
    }
    assert train(Config.model_validate(given), tmp_path / "run").step == 2


def test_the_analytic_family_has_no_clips_to_compare(tmp_path: Path) -> None:
    family = "family: {name: analytic, target: classes}\ndata: {name: analytic}\ntrain: {steps: 1}\nname: toy\n"
    for method, line in (
        ("{name: regression, distance: perceptual}", "method.distance: perceptual compares clips of latents"),
        ("{name: frame_matching, judge: null}", "method.name: frame_matching takes images out of clips"),
    ):
        (path := tmp_path / "c.yaml").write_text(f"{family}method: {method}\n")
        with pytest.raises(UserError, match=line):
            load(path)


MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("halving", {"relax": 3}, "method.relax: has no effect without a judge"),
    ("halving", {"distance": 0.0}, "method.distance: is 0 and there is no judge"),
    ("lightning", {"judge": {"kind": "motion"}}, "method.judge.kind: motion does not look at pairs"),
    ("lightning", {"judge": {"levels": 2}}, "method.judge.levels: has no effect on a judge that looks at pairs"),
    ("lightning", {"judge": {"share": 0.1}}, "method.judge.share: has no effect on a judge that looks at pairs"),
    ("osv_1", {"end": "own"}, "method.scale: has no effect with end: own"),
    ("osv_1", {"metric": {}}, "method.metric: has no effect with distance: huber"),
    ("osv_1", {"judge": None, "conditional": True}, "method.conditional: has no effect without a judge"),
    ("osv_1", {"inputs": "bank"}, "method.inputs: bank needs data: (name: bank), found shapes"),
    ("osv_2", {"skip": 7}, "method.skip: 7 steps at once on a grid of teacher_steps 6"),
    ("add", {"t_min": 0.5, "t_max": 0.5}, "method.t_min: 0.5 is not below t_max 0.5"),
    ("add", {"data_weight": 0.2}, "method.data_weight: has no effect with inputs: data"),
]


@pytest.mark.parametrize(("method", "keys", "line"), MISFITS, ids=[line for _, _, line in MISFITS])
def test_what_has_no_effect_or_does_not_fit_is_refused_in_one_line(
    method: str, keys: dict[str, Any], line: str, teacher: Path, tmp_path: Path
) -> None:
    given = said(teacher, method)
    given["method"] |= keys
    (path := tmp_path / "c.yaml").write_text(json.dumps(given))
    with pytest.raises(UserError) as error:
        load(path)
    assert line in str(error.value)


# -- recipes ----------------------------------------------------------------------------------------------------------

TWINS = [
    "lightning_8", "lightning_4", "osv_1", "osv_2", "mcm", "add", "avdm2", "diffusion2gan",
]  # fmt: skip


@pytest.mark.parametrize("name", [*TWINS, "lightning_2"])
def test_a_recipe_says_what_it_needs(name: str) -> None:
    text = (ROOT / f"configs/video/shapes_{name}.yaml").read_text()
    head = text[: text.index("\nname:")]
    assert all(f"{word}: " in head for word in ("Paper", "Hardware", "Time", "Expect"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_a_recipes_tiny_twin_trains_to_the_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path, sets = f"configs/video/shapes_{name}_tiny.yaml", []
    if name == "diffusion2gan":
        asked = ["--count", "4", "--keep", "pairs", "--steps", "4", "--guidance", "2"]
        of = "configs/video/shapes_lcm_tiny.yaml"
        assert main(["bank", of, "--out", str(tmp_path / "pairs"), *asked]) == 0
        sets = ["--set", f"data.path={tmp_path / 'pairs'}"]
    assert main(["train", path, "--out", str(tmp_path / "run"), *sets]) == 0
    assert open_model(tmp_path / "run").times
