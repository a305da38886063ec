"""What is asked to be bfloat16 is float32 on a CPU that only emulates it, and the run says so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from yaml import safe_dump

from vdistill.core.precision import emulates_bf16, usable

BASE = {
    "name": "toy",
    "family": {"name": "tiny", "dim": 16, "heads": 2, "layers": 2, "ffn": 32, "text_dim": 16, "frames": 5, "size": 16},
    "data": {"name": "shapes"},
    "method": {"name": "flow"},
}
LINE = "train.precision: this CPU emulates bf16"


@pytest.mark.parametrize(
    ("machine", "capability", "device", "emulated"),
    [
        ("x86_64", "AVX2", "cpu", True),
        ("AMD64", "DEFAULT", "cpu", True),
        ("x86_64", "AVX512", "cpu", False),
        ("aarch64", "DEFAULT", "cpu", False),
        ("x86_64", "AVX2", "cuda:0", False),
    ],
)
def test_only_x86_without_avx512_emulates(
    machine: str, capability: str, device: str, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert emulates_bf16(device) is emulated
    assert usable("bf16", device) == ("no" if emulated else "bf16")
    assert usable("no", device) == "no"


def trained(out: Path, precision: str, **env: str) -> tuple[str, str]:
    """(what is said, metrics) of a run of two steps."""
    path = out.with_suffix(".yaml")
    train = {"steps": 2, "batch": 2, "precision": precision}
    path.write_text(safe_dump({**BASE, "train": train}))
    command = [sys.executable, "-m", "vdistill", "train", str(path), "--out", str(out)]
    made = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert made.returncode == 0, made.stderr
    return made.stdout + made.stderr, (out / "metrics.jsonl").read_text()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 alone is known to emulate")
def test_a_run_on_such_a_cpu_is_that_in_float32_and_says_so(tmp_path: Path) -> None:
    plain, asked = (trained(tmp_path / p, p, ATEN_CPU_CAPABILITY="avx2") for p in ("no", "bf16"))
    assert LINE in asked[0] and LINE not in plain[0]
    assert asked[1] == plain[1]


@pytest.mark.skipif(emulates_bf16("cpu"), reason="needs a CPU that has bfloat16")
def test_a_run_on_any_other_is_in_bfloat16(tmp_path: Path) -> None:
    plain, asked = (trained(tmp_path / p, p) for p in ("no", "bf16"))
    assert LINE not in asked[0]
    assert asked[1] != plain[1]
