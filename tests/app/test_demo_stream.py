"""`vdistill demo stream` as typed: it trains, streams, measures and writes a page; what is wrong is said first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

from vdistill.app.cli import main

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--seconds", "10", "--clips", "4", "--minutes", "0.05"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stream", "--seconds", "9"], "--seconds: must be 10 or more, found 9"),
        (["stream", "--seconds", "inf"], "--seconds"),
        (["stream", "--clips", "1"], "--clips: must be at least 4, found 1"),
        (["--clips", "8"], "--clips: belongs to vdistill demo stream"),
        (["clip", "--seconds", "20"], "--seconds: belongs to vdistill demo stream"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_it_streams_and_is_measured(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vdistill", "demo", "stream", "--out", "out", "--json", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "out" / "summary.json").read_text())
    shares = [found[f"{who}accuracy_{end}_5s"] for who in ("", "init_only_", "world_") for end in ("first", "last")]
    assert all(0 <= share <= 1 for share in [*shares, found["teacher_accuracy"], found["world_teacher_accuracy"]])
    assert found["steps"] >= 1 and found["world_held_out"] == 0
    assert found["memory_growth"] == 1 and found["native_fps"] == 8 and found["cached_speedup"] > 1
    assert found["first_frame_ms"] > 0 and found["fps"] > 0
    with av.open(str(tmp_path / "out" / "stream.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 80
    text = (tmp_path / "out" / "report.html").read_text()
    assert "a cyan square moves up" in text and text.count("data:video/mp4") == 1 + 4 * 4
