"""tools/mean_of_models.py: the mean in closed form, and what cannot be averaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]


def model(folder: Path, value: float, name: str = "weight", dtype: torch.dtype = torch.float32) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "config.json").write_text(folder.name)
    tensors = {name: torch.full((2, 3), value, dtype=dtype)}
    save_file(tensors, folder / "transformer" / "net.safetensors", metadata={"format": "pt"})
    return folder


def ran(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "mean_of_models.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_weights_are_averaged_by_their_shares_and_all_else_is_the_firsts(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1.0, dtype=torch.bfloat16), model(tmp_path / "b", 5.0)
    done = ran(tmp_path / "out", f"{a}=3", f"{b}=1")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "out" / "transformer" / "net.safetensors"
    assert torch.equal(load_file(file)["weight"], torch.full((2, 3), 2.0, dtype=torch.bfloat16))
    assert (tmp_path / "out" / "config.json").read_text() == "a"
    with safe_open(str(file), "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_what_cannot_be_averaged_is_said_and_nothing_written(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1.0), model(tmp_path / "b", 5.0, name="bias")
    bare = tmp_path / "bare"
    bare.mkdir()
    cut = model(tmp_path / "cut", 1.0)
    file = cut / "transformer" / "net.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    out = tmp_path / "out"
    for words, said in (
        ((f"{a}=1", f"{b}=1"), "tensors are not those of"),
        ((f"{a}=1", f"{bare}=1"), "lacks transformer/net.safetensors"),
        ((f"{bare}=1", f"{a}=1"), "no *.safetensors in it"),
        ((f"{a}=1", f"{b}=0"), "expected MODEL=WEIGHT"),
        ((f"{a}=1", f"{b}=much"), "expected MODEL=WEIGHT"),
        ((f"{a}=1", f"{cut}=1"), "net.safetensors: cannot be read"),
        ((f"{a}=1", f"{a}=2"), "two models or more"),
    ):
        done = ran(out, *words)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
        assert not out.exists()
    done = ran(a, f"{a}=1", f"{b}=1")
    assert done.returncode == 2 and "is there already" in done.stderr
