"""Training end to end from configs: every method resumes bit for bit, two ranks compute what one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from ranks import assert_same_losses, by_one, by_two
from toys import same_tensors, tiny_family

from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core import checkpoint
from vdistill.core.errors import UserError

BASE = {
    "name": "toy",
    "family": {"name": "tiny", "dim": 16, "heads": 2, "layers": 2, "ffn": 32, "text_dim": 16, "frames": 5, "size": 16},
    "data": {"name": "shapes"},
    "optim": {"lr": 1e-3, "ema": 0.9, "warmup": 2},
    "train": {"steps": 4, "batch": 2, "checkpoint_every": 2, "keep": 4},
}
METHODS = {
    "flow": {"name": "flow"},
    "guidance": {"name": "guidance"},
    "lcm": {"name": "lcm", "teacher_steps": 8, "embed_guidance": True},
    "lcm_heun": {"name": "lcm", "teacher_steps": 8, "solver": "heun"},
    "dmd2": {"name": "dmd2", "critic_per_student": 2, "gan_weight": 0.01},
    "dmd2_mix": {"name": "dmd2", "inputs": "mix", "steps": 2},
}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder to distil from."""
    folder, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, folder)
    return folder


def toy(teacher: Path, method: str, scope: str = "full", **train_keys: object) -> Config:
    family = {"name": "tiny", "path": str(teacher), "frames": 5, "size": 16}
    extra: dict[str, object] = {} if method == "flow" and scope == "full" else {"family": family}
    extra |= {"scope": {"name": "lora", "rank": 2}} if scope == "lora" else {}
    return Config.model_validate({**BASE, **extra, "method": METHODS[method], "train": {**BASE["train"], **train_keys}})  # type: ignore[dict-item]


def assert_same_run(a: Path, b: Path, step: int) -> None:
    one, two = (checkpoint.load(p / "checkpoints" / checkpoint.name(step)) for p in (a, b))
    assert one.state == two.state
    assert one.groups.keys() == two.groups.keys()
    for group in one.groups:
        assert same_tensors(dict(one.groups[group]), dict(two.groups[group])), group
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("method", "scope"),
    [*((m, "full") for m in METHODS), ("flow", "lora"), ("guidance", "lora"), ("lcm", "lora"), ("dmd2", "lora")],
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, teacher: Path, method: str, scope: str) -> None:
    train(toy(teacher, method, scope), tmp_path / "a")
    train(toy(teacher, method, scope, steps=2), tmp_path / "b")
    train(toy(teacher, method, scope), tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b", 4)
    assert (tmp_path / "b" / "student" / "model_index.json").is_file()


def test_a_run_of_another_config_is_not_continued(tmp_path: Path, teacher: Path) -> None:
    train(toy(teacher, "flow", steps=2), tmp_path)
    with pytest.raises(UserError, match="another config"):
        train(toy(teacher, "guidance", steps=2), tmp_path)
    train(toy(teacher, "guidance", steps=2), tmp_path, fresh=True)


def test_fresh_never_empties_a_folder_that_is_no_run(tmp_path: Path, teacher: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a run folder"):
        train(toy(teacher, "flow"), tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.slow
def test_two_ranks_train_dmd2_with_the_losses_of_one(tmp_path: Path, teacher: Path) -> None:
    by_one([(toy(teacher, "dmd2"), tmp_path / "one")])
    by_two([(toy(teacher, "dmd2"), tmp_path / "two")])
    assert_same_losses(tmp_path / "one", tmp_path / "two")
