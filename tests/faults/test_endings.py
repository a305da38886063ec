"""How a real `vdistill train` process ends: signals, a full disk, a kill; and that nothing is lost by it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vdistill.core import checkpoint

ROOT = Path(__file__).resolve().parents[2]
RUN = """name: toy
family: {name: tiny, dim: 16, heads: 2, layers: 2, ffn: 32, text_dim: 16, frames: 5, size: 16}
data: {name: shapes}
method: {name: flow}
train: {steps: 100000, batch: 2, checkpoint_every: 5}
"""


def start(folder: Path, *more: str, **how: object) -> subprocess.Popen[str]:
    (folder / "toy.yaml").write_text(RUN)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vdistill", "train", "toy.yaml", "--out", "run", *more]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, **how)  # type: ignore[call-overload,no-any-return]


def steps(folder: Path) -> int:
    path = folder / "run" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for(folder: Path, count: int, run: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while steps(folder) < count:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_a_checkpoint(folder: Path, run: subprocess.Popen[str]) -> None:
    """The first one is written beside the training: a kill before it is whole leaves none, and that is no fault."""
    deadline = time.monotonic() + 120
    while not any((folder / "run" / "checkpoints").glob("step-*")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_the_same_command_goes_on_after_any_ending(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    run = start(tmp_path)
    wait_for(tmp_path, 7, run)
    wait_for_a_checkpoint(tmp_path, run)
    run.send_signal(sent)
    _, said = run.communicate(timeout=120)
    assert run.returncode == code and "Traceback" not in said
    found, skipped = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None and not skipped
    saved = int(found.name[5:])
    if sent != signal.SIGKILL:
        assert saved == steps(tmp_path) and f"step {saved} of 100000 is saved; the same command goes on" in said
    again = start(tmp_path, f"train.steps={saved + 3}")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0
    assert said.splitlines() == ["done: run/student", "next: vdistill sample run --prompt '...' --out run/samples"]
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, saved + 4))


@pytest.mark.slow
def test_a_full_disk_is_one_line_with_path_and_free_space_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    assert start(tmp_path, "train.steps=5").wait(120) == 0

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    full = start(tmp_path, "train.steps=20", preexec_fn=little_room)
    _, said = full.communicate(timeout=120)
    assert full.returncode == 1 and said.count("\n") == 1, said
    assert ".safetensors: File too large" in said and "run/checkpoints" in said and "MiB are free" in said
    root = tmp_path / "run" / "checkpoints"
    assert [p.name for p in root.iterdir()] == ["step-00000005"] and not checkpoint.damage(root / "step-00000005")
