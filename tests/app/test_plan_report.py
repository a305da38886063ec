"""What `vdistill plan` tells: whether it fits, what to change, how long it takes; and what it says of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from plans import large, planned, shallow, tiny, written

from vdistill.app.cli import main
from vdistill.app.plan_flops import GPUS, Gpu, gpu_named
from vdistill.core.errors import UserError


def test_time_is_operations_over_what_is_reached_of_the_peak() -> None:
    gpu = Gpu(half=100, single=10, memory=24)
    flops = {torch.bfloat16: 2 * 10**14, torch.float32: 10**13}
    assert gpu.seconds(flops, 1.0) == pytest.approx(2 + 1)
    assert gpu.seconds(flops, 0.5) == pytest.approx(6)
    for name in ("h100", "H100", "NVIDIA H100"):
        assert gpu_named(name) is GPUS["h100"]
    assert gpu_named("GeForce RTX 4090") is gpu_named("4090") is GPUS["rtx4090"]
    assert gpu_named("A100-40GB") is GPUS["a100-40"]
    with pytest.raises(UserError, match="there are a100-40"):
        gpu_named("abacus")


def test_a_plan_says_whether_it_fits_and_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow(monkeypatch, 3)
    config = large("wan2.1-1.3b", (81, 480, 832))
    plain = ["train.gradient_checkpointing=false", "--set", "family.path=x/Wan2.1-T2V-1.3B-Diffusers"]
    assert main(["plan", written(tmp_path, config), "--gpu", "l4", "--set", *plain]) == 0
    out = capsys.readouterr().out
    assert "text_encoder" in out and "5680.91 million" in out
    assert "does not fit" in out and "text encoders, 10.58 GiB, leave memory" in out
    assert "--set train.gradient_checkpointing=true" in out and out.rstrip().endswith("fits")
    assert "h for 100 steps" in out


@pytest.mark.slow
def test_a_plan_as_json_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(tmp_path)
    assert main(["plan", written(tmp_path, config), "--gpu", "l4", "--gpus", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["memory"].values()) == told["resident"] <= told["peak"]
    assert told["fits"] is True
    assert told["samples"] == 4
    assert told["hours"] == pytest.approx(told["seconds"] * 10 / 3600)
    assert told["seconds"] == pytest.approx(told["flops"]["float32"] / (30.3e12 * 0.4))
    assert told["peak_with_gradient_checkpointing"] < told["peak_without_gradient_checkpointing"] == told["peak"]


@pytest.mark.slow
def test_what_the_vae_needs_between_updates_counts(tmp_path: Path) -> None:
    found = planned(tiny(tmp_path, validation={"every": 5, "prompts": ["a", "b", "c"]}))
    assert found.between["decoding 3 clips"] >= 3 * 4 * 3 * 9 * 64 * 48  # float32 pixels
    assert found.peak == found.resident + found.between["decoding 3 clips"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ([], "name a published teacher with --shape: wan2.1-1.3b"),
        (["--shape", "sd15"], "wrong family: a StableDiffusionPipeline is sd, not wan"),
        (["--shape", "wan9"], "no published teacher is called 'wan9'"),
        (["--gpu", "abacus"], "no GPU 'abacus'"),
        (["--gpus", "0"], "must be at least 1"),
        (["--mfu", "2"], "must be in (0, 1]"),
        (["--shape", "wan2.1-1.3b", "--set", "family.height=12"], "12x64"),
    ],
)
def test_a_mistake_is_one_line(more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = large("wan2.1-1.3b", (5, 64, 64))
    assert main(["plan", written(tmp_path, config), *more]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
