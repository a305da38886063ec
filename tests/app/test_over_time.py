"""Long streams measured window by window: true ones hold out, ones that fade are seen to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import SIZE, captions

from vdistill.app.about import About
from vdistill.app.causal_file import Saved
from vdistill.app.cli import main
from vdistill.app.evaluate import exam
from vdistill.app.over_time import measured, summary
from vdistill.families.tiny import TinyFamily
from vdistill.worlds.shapes import Shapes, held_out, parse


@pytest.fixture(scope="module")
def truth() -> tuple[torch.Tensor, list[str]]:
    world = Shapes(97, open=0.0, split="test", seed=1)
    return torch.stack([world.clip(i) for i in range(12)]), [world.caption(i) for i in range(12)]


def test_true_clips_hold_out(truth: tuple[torch.Tensor, list[str]]) -> None:
    rows = measured(*truth)
    assert [row["second"] for row in rows] == [0, 2, 4, 6, 8, 10]
    assert min(row["accuracy"] for row in rows) >= 11 / 12
    assert min(row["motion"] for row in rows) >= 11 / 12 and 0 < rows[0]["motion_energy"] < 0.5
    found = summary(rows)
    assert found["accuracy_first_5s"] == 1 and found["kept"] >= 0.95


def test_clips_that_stop_and_fade_do_not(truth: tuple[torch.Tensor, list[str]]) -> None:
    clips, texts = truth
    faded = clips.clone()
    faded[:, :, 48:] = 0.4 * clips[:, :, 48:49]
    rows = measured(faded, texts)
    assert summary(rows)["kept"] < 0.6
    assert rows[-1]["identity"] < 0.5 < 0.9 < rows[1]["identity"]
    assert rows[-1]["sharpness"] < 0.6 * rows[0]["sharpness"]


def test_the_command_measures_a_causal_model_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = TinyFamily.build(replace(SIZE, predicts="flow"), captions(), 0)
    folder = tmp_path / "student"
    family.save(family.net, folder, (1.0,))
    About(frames=5, height=32, width=32).write(folder)
    ask = ["eval", str(folder), "--clips", "2", "--json", str(tmp_path / "new" / "found.json")]
    assert main([*ask, "--seconds", "10"]) == 2
    assert "does not stream" in capsys.readouterr().err
    Saved(block=1, window=3, rope="relative", times=(1.0,)).write(folder)
    assert main([*ask, "--seconds", "9"]) == 2
    assert "must be 10 or more" in capsys.readouterr().err
    assert main([*ask, "--seconds", "10", "--split", "all"]) == 0
    found = json.loads((tmp_path / "new" / "found.json").read_text())
    assert found["split"] == "all"
    assert len(found["windows"]) == 5 and found["accuracy_first_5s"] == 0
    assert "accuracy_last_5s" in capsys.readouterr().out


@pytest.mark.parametrize(("split", "count"), [("test", 48), ("train", 0), ("all", 13)])
def test_an_exam_asks_for_what_its_split_holds(split: str, count: int) -> None:
    captions = exam(48, 17, 8, open_clips=0, split=split).captions
    assert sum(held_out(parse(caption)[0]) for caption in captions) == count
