"""Judges trained from configs: resumed, in several processes, with activations computed twice; all the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import assert_same_losses, by_one, by_two, losses
from toys import same_tensors, tiny_family

from vdistill.app.build import build
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core import checkpoint

TEACHER = {"kind": "tokens", "features": "teacher", "text": True, "mismatched": True, "share": 0.1, "r1": 10.0}
FLOW = {"name": "flow"}
DMD2 = {"name": "dmd2", "steps": 2, "critic_per_student": 2}
JUDGES: dict[str, dict[str, Any]] = {
    "teacher": TEACHER | {"levels": 2, "bands": 2, "augment": ["shift", "cutout"], "feature_matching": 0.1},
    "critic": {"kind": "tokens", "loss": "relativistic", "r1": 1.0, "r2": 1.0, "penalty": "exact", "anchor": 0.1},
    "motion": {"kind": "motion", "hidden": 8, "text": True, "mismatched": True, "loss": "hinge", "augment": ["flip"]},
}
METHODS = {name: DMD2 | {"judge": judge} for name, judge in JUDGES.items()} | {
    "pixels": DMD2 | {"judge": {"kind": "pixels", "loss": "hinge", "text": True, "augment": ["flip"], "r1": 1.0}},
    "ladd": {"name": "adversarial", "judge": {"features": "teacher", "loss": "hinge", "time_mean": 1.0}},
    "pair": {
        "name": "progressive",
        "steps": 2,
        "scale": 2.0,
        "judge": {"r1": 1.0, "later": 0.75, "mismatched": True},
        "relax": 2,
    },
    "mcm": {
        "name": "judged_consistency",
        "teacher_steps": 6,
        "view": "differences",
        "own": 0.5,
        "judge": {"kind": "pixels", "hidden": 8, "loss": "hinge", "weight": 1.0, "r1": 1.0, "penalty": "heads"},
        "watch_per_student": 2,
    },
    "apt": {
        "name": "adversarial",
        "steps": 1,
        "inputs": "backward",
        "watch_per_student": 2,
        "judge": {"r1": 10.0, "head": "cross"},
    },
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder to distil from."""
    place, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, place)
    return place


def toy(folder: Path, method: str, scope: str = "full", **train_keys: object) -> Config:
    return Config.model_validate(
        {
            "name": "toy",
            "family": {"name": "tiny", "path": str(folder), "frames": 9, "size": 16},
            "data": {"name": "shapes"},
            "method": METHODS[method],
            "scope": {"name": "lora", "rank": 2} if scope == "lora" else {"name": "full"},
            "optim": {"lr": 1e-3, "ema": 0.9, "warmup": 2},
            "train": {"steps": 4, "batch": 2, "checkpoint_every": 2, "keep": 4, **train_keys},
        }
    )


RUNS = [("teacher", "full"), ("critic", "lora"), ("motion", "full"), ("pixels", "full"), ("ladd", "lora")]
RUNS += [("apt", "lora"), ("apt", "full")]


@pytest.mark.parametrize(("method", "scope"), RUNS)
def test_a_resumed_run_with_a_judge_equals_an_uninterrupted_one(
    method: str, scope: str, folder: Path, tmp_path: Path
) -> None:
    train(toy(folder, method, scope), tmp_path / "a")
    train(toy(folder, method, scope, steps=2), tmp_path / "b")
    train(toy(folder, method, scope), tmp_path / "b")
    one, two = (checkpoint.load(tmp_path / run / "checkpoints" / checkpoint.name(4)) for run in "ab")
    assert one.groups.keys() == two.groups.keys()
    assert all(same_tensors(dict(one.groups[name]), dict(two.groups[name])) for name in one.groups)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert all("critic/told_apart" in row and "critic/logit_gap" in row for row in losses(tmp_path / "a"))
    student = [row for row in losses(tmp_path / "a") if "student/loss" in row]
    assert len(student) == (4 if method == "ladd" else 2)
    assert all(("student/pull" in row) == (METHODS[method]["name"] == "dmd2") for row in student)
    assert all(row["student/grad"] > 0 and row["student/gan"] != 0 for row in student)
    if method == "teacher":
        assert student[0]["student/pull"] == pytest.approx(0.1, rel=1e-3)


def test_activations_computed_twice_give_the_same_losses(folder: Path, tmp_path: Path) -> None:
    for out, twice in (("once", False), ("twice", True)):
        train(toy(folder, "teacher", gradient_checkpointing=twice), tmp_path / out)
    assert_same_losses(tmp_path / "once", tmp_path / "twice")


TOLD: list[dict[str, Any]] = [
    {"kind": "latent", "hidden": 8, "condition": "audio", "mismatched": True, "where": {"region": "lip"}},
    {"features": "teacher", "condition": "audio", "text": True, "where": {"region": "face", "last": 2}},
    {"kind": "pixels", "condition": "ref", "mismatched": True},
]


def talking(folder: Path, judge: dict[str, Any], steps: int = 2, **train_keys: object) -> Config:
    small = {"name": "tiny", "frames": 9, "size": 32}
    new = {"dim": 32, "heads": 2, "layers": 2, "ffn": 32, "text_dim": 16, "adapters": {"width": 16}}
    data = {"name": "talker", "takes": 2, "take": 9}
    given = {"name": "t", "family": small | new, "data": data, "method": FLOW, "train": {"steps": steps, "batch": 2}}
    if not (folder / "pipe").exists():
        family = build(Config.model_validate(given)).family
        family.save(family.net, folder / "pipe")  # type: ignore[arg-type]
    given["family"] = small | {"path": str(folder / "pipe")}
    given["method"] = DMD2 | {"critic_per_student": 1, "judge": judge}
    given["train"] = {"steps": steps, "batch": 2, **train_keys}
    return Config.model_validate(given)


@pytest.mark.parametrize("judge", TOLD)
def test_judges_of_talking_heads_are_told_of_sound_and_reference(judge: dict[str, Any], tmp_path: Path) -> None:
    train(talking(tmp_path, judge), tmp_path)
    assert len(losses(tmp_path)) == 2 and all(
        row["student/gan"] > 0 and row["critic/gan"] > 0 for row in losses(tmp_path)
    )


# -- two processes, and activations computed twice --------------------------------------------------------------------

KINDS = ("teacher", "critic", "motion", "pixels", "apt", "pair", "mcm", "told")
FRUGAL = tuple(kind for kind in KINDS if kind != "critic")
"""Without the judge whose penalty is exact, which `vdistill check` refuses."""


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """KIND/one, in two parts of the batch; KIND/two, by two processes; KIND/twice, with activations computed twice."""
    runs = tmp_path_factory.mktemp("ranks")

    def of(kind: str, **keys: object) -> Config:
        return talking(runs, TOLD[1], 3, **keys) if kind == "told" else toy(folder, kind, steps=3, **keys)

    by_one([(of(kind), runs / kind / "one") for kind in KINDS])
    by_one([(of(kind, gradient_checkpointing=True), runs / kind / "twice") for kind in FRUGAL])
    by_two([(of(kind), runs / kind / "two") for kind in KINDS])
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_with_the_losses_of_one(kind: str, by_ranks: Path) -> None:
    assert_same_losses(by_ranks / kind / "one", by_ranks / kind / "two", 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FRUGAL)
def test_every_kind_computed_twice_has_the_same_losses(kind: str, by_ranks: Path) -> None:
    assert_same_losses(by_ranks / kind / "one", by_ranks / kind / "twice", 1e-6)
