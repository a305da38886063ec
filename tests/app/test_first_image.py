"""Runs whose teacher starts from an image: validation names one, `check` says where it is missing; the frame rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from vdistill.app import config as configs
from vdistill.app.about import about
from vdistill.app.build_family import published
from vdistill.app.cli import main
from vdistill.app.models import open_model
from vdistill.app.schema_family import FamilyStock
from vdistill.app.train import train
from vdistill.families.ltx import LtxFamily

STARTS = {
    "name": "toy",
    "family": {"name": "wan", "random_tiny": "wan-i2v", "frames": 5, "height": 32, "width": 32},
    "data": {"name": "shapes"},
    "method": {"name": "dmd2", "steps": 2},
    "train": {"steps": 1, "batch": 1},
    "validation": {"every": 1, "prompts": ["a red square"]},
}


def written(folder: Path, **changed: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**STARTS, **changed}))
    return path


def test_check_says_in_one_line_that_validation_needs_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path)
    assert main(["check", str(path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("name a PNG or JPEG there, or say validation.every: 0")
    assert "validation.image: wan of this folder starts from an image" in line
    assert main(["check", str(path), "validation.every=0"]) == 0
    assert main(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "starts from an image" in capsys.readouterr().err


def test_a_picture_for_a_teacher_that_takes_none_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "first.png")
    family = STARTS["family"] | {"random_tiny": "wan"}  # type: ignore[operator]
    assert main(["check", str(written(tmp_path, family=family)), f"validation.image={tmp_path / 'first.png'}"]) == 2
    assert "validation.image: wan of this folder does not start from an image" in capsys.readouterr().err


def test_validation_makes_clips_from_the_picture(tmp_path: Path) -> None:
    path, made = written(tmp_path), []
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (48, 32), colour).save(tmp_path / f"{name}.png")
        train(configs.load(path, [f"validation.image={tmp_path / name}.png"]), tmp_path / name)
        clip = tmp_path / name / "validation" / "step_1" / "00.mp4"
        assert clip.is_file()
        made.append(clip.read_bytes())
    assert made[0] != made[1]


LTX = {"name": "ltx", "random_tiny": "ltx", "frames": 9, "height": 32, "width": 32, "long_text": "cut"}


def test_the_frame_rate_reaches_the_network_and_stays_with_the_student(tmp_path: Path) -> None:
    rates = [published(FamilyStock.model_validate({**LTX, **more}), 0).frame_rate for more in ({}, {"frame_rate": 8.0})]
    assert rates == [25.0, 8.0]
    path = written(tmp_path, family={**LTX, "frame_rate": 8.0}, validation={"every": 0})
    train(configs.load(path), tmp_path / "run")
    student = open_model(tmp_path / "run")
    assert isinstance(student, LtxFamily)
    assert student.frame_rate == about(tmp_path / "run" / "student").frame_rate == 8.0


def test_a_frame_rate_for_a_network_that_is_told_none_is_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, validation={"every": 0})
    assert main(["check", str(path), "family.frame_rate=8"]) == 2
    assert "family.frame_rate: wan is told no frame rate, ltx is; leave it out" in capsys.readouterr().err
