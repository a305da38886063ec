"""tools/bench_stream_gpu.py, tried on a CPU: its FLOPs are those of the formula, and what cannot run is said."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vdistill.causal.stream import Stream
from vdistill.core.cond import Cond

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_stream_gpu.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_stream_gpu", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_flops_of_a_block_are_those_of_the_formula(tool: ModuleType) -> None:
    cond = Cond({"text": torch.zeros(1, tool.TEXT, 64)})
    stream = Stream(tool.student("tiny", CPU, torch.float32), tool.PLAN, (16, 16, 24), cond)
    for _ in range(tool.FULL):
        next(stream)
    width, layers, ffn, rows = 128, 2, 256, 16 * 24 // 4
    own, keys = 3 * rows, 12 * rows
    linear = 2 * own * (4 * width**2 + 2 * width**2 + 2 * width * ffn)  # itself, the text (k and v are known), ffn
    attention = 4 * own * width * (keys + tool.TEXT)
    ends = 2 * own * width * 64 * 2  # patches of 16 channels and 2 x 2 in, and out
    told = 2 * tool.TEXT * (64 * width + width**2)  # the text's two linear layers in front of all
    expected = (len(tool.PLAN.times) + 1) * (layers * (linear + attention) + ends + told)
    assert tool.block_flops(stream) == pytest.approx(expected, rel=0.002)


def test_it_runs_without_a_gpu(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_stream_gpu.py"])
    out = tmp_path / "found.json"
    size = ["--size", "tiny", "--pixels", "32x32", "--blocks", "2", "--no-compile"]
    tool.main([*size, "--device", "cpu", "--kernels", "native", "cudnn", "--json", str(out)])
    native, cudnn = json.loads(out.read_text())["rows"]
    assert native["fps"] == pytest.approx(12_000 / native["block_ms"]) and 0 < native["mfu"] < 1
    assert "No viable backend" in cudnn["fault"] and "fps" not in cudnn
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            tool.main(size)
        assert "no GPU was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--pixels", "30x32"], "multiples of 16"),
        (["--pixels", "big"], "--pixels"),
        (["--json", "none/a.json"], "no folder"),
    ],
)
def test_what_cannot_be_measured_is_said_first(
    tool: ModuleType, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tool.main(["--device", "cpu", "--size", "tiny", *given])
    assert stopped.value.code == 2 and said in capsys.readouterr().err
