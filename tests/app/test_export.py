"""Exports open in stock diffusers and say the same as `vdistill sample`, bit for bit."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline
from toys import tiny_family

from vdistill.app import export, sample
from vdistill.app.about import About
from vdistill.app.generate import Plan, generate
from vdistill.app.models import open_model
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core.errors import UserError
from vdistill.families.few_step import FewStepScheduler
from vdistill.families.guidance_input import GuidanceEmbedding
from vdistill.families.tiny import TinyFamily
from vdistill.families.wan import WanNet

TIMES = [1.0, 0.9375, 0.8333333, 0.625]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-step student of random weights, as a run leaves it."""
    out, family = tmp_path_factory.mktemp("model") / "student", tiny_family()
    family.save(family.net, out, TIMES)
    About(5, 16, 16).write(out)
    return out


def asked(run: Path, out: Path, to: str = "diffusers", guidance: float | None = None) -> argparse.Namespace:
    return argparse.Namespace(run=run, out=out, to=to, guidance=guidance, dtype="float32")


def stock(pipe: WanPipeline, prompt: str | list[str], generator: object, steps: int = 50) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        prompt, height=16, width=16, num_frames=5, num_inference_steps=steps, guidance_scale=1.0,
        max_sequence_length=16, generator=generator, output_type="pt",
    ).frames  # fmt: skip
    return frames.transpose(1, 2)  # [B, C, T, H, W] in [0, 1]


@pytest.mark.parametrize(("seed", "steps"), [(0, 50), (7, 1), (123, 4)])
def test_exported_pipeline_equals_vdistill_sample_bit_for_bit(
    folder: Path, tmp_path: Path, seed: int, steps: int
) -> None:
    assert export.run(asked(folder, tmp_path / "out")) == 0
    caption = "a red square moves left"
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipe) is WanPipeline and type(pipe.scheduler) is FewStepScheduler
    ours = generate(open_model(folder), [caption], Plan(seed=seed), 5, (16, 16)).pixels
    assert torch.equal(stock(pipe, caption, torch.Generator().manual_seed(seed), steps), ours * 0.5 + 0.5)


def test_a_batch_with_a_generator_each_gives_the_clips_of_a_batch(folder: Path) -> None:
    captions, seeds = ["a red square moves left", "a blue circle rotates"], [3, 4]
    pipe = DiffusionPipeline.from_pretrained(folder)
    clips = stock(pipe, captions, [torch.Generator().manual_seed(s) for s in seeds])
    ours = generate(open_model(folder), captions, Plan(seed=3), 5, (16, 16)).pixels
    assert torch.allclose(clips, ours * 0.5 + 0.5, atol=1e-5)
    alone = generate(open_model(folder), captions[1:], Plan(seed=4), 5, (16, 16)).pixels
    assert torch.allclose(alone[0], ours[1], atol=1e-5), "a clip depends on what else is in its batch"


@pytest.mark.slow
def test_the_cards_snippet_runs_as_it_stands(folder: Path, tmp_path: Path) -> None:
    export.run(asked(folder, tmp_path / "out"))
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    assert code
    done = subprocess.run(
        [sys.executable, "-c", code[1]], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.strip().endswith("(5, 3, 16, 16)")


def test_a_fixed_guidance_scale_is_baked_in_exactly(tmp_path: Path) -> None:
    family = tiny_family()
    embedding = GuidanceEmbedding(16)
    torch.nn.init.normal_(embedding.outer.weight, std=0.5)
    net = family.as_net(WanNet({"transformer": family.pipe.transformer}, family.clock, embedding))
    family.save(net, tmp_path / "run")
    back = TinyFamily.load(tmp_path / "run")
    x, t, cond = torch.randn(2, 768, 2, 2, 2), torch.rand(2).double(), family.text(["a red square", "a cross rotates"])
    want = net.x0(x, t, cond.with_field("guidance", torch.full((2,), 3.0)))
    assert torch.equal(back.net.x0(x, t, cond.with_field("guidance", torch.full((2,), 3.0))), want)
    assert not torch.allclose(net.x0(x, t, cond), want, atol=1e-3), "the scale has no effect, so nothing is shown"
    export.run(asked(tmp_path / "run", tmp_path / "out", guidance=3.0))
    assert torch.allclose(open_model(tmp_path / "out").net.x0(x, t, cond), want, atol=1e-5)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, family = tmp_path_factory.mktemp("lora"), tiny_family()
    family.save(family.net, root / "teacher")
    config = Config.model_validate(
        {
            "name": "toy",
            "family": {"name": "tiny", "path": str(root / "teacher"), "frames": 5, "size": 16},
            "data": {"name": "shapes"},
            "method": {"name": "dmd2", "critic_per_student": 1},
            "scope": {"name": "lora", "rank": 4},
            "optim": {"lr": 0.01, "warmup": 0},
            "train": {"steps": 3, "batch": 2},
        }
    )
    train(config, root / "run")
    return root / "run"


def test_a_lora_file_turns_the_teachers_pipeline_into_the_student(lora_run: Path, tmp_path: Path) -> None:
    export.run(asked(lora_run, tmp_path / "lora", to="lora"))
    pipe = WanPipeline.from_pretrained(lora_run.parent / "teacher")
    x, t, text = torch.randn(1, 768, 2, 2, 2), torch.tensor([700.0]), torch.randn(1, 16, 16)
    base = pipe.transformer(x, t, text, return_dict=False)[0]
    pipe.load_lora_weights(tmp_path / "lora")
    adapted = pipe.transformer(x, t, text, return_dict=False)[0]
    student = open_model(lora_run).pipe.transformer(x, t, text, return_dict=False)[0]
    assert not torch.allclose(base, student, atol=1e-4)
    assert torch.allclose(adapted, student, atol=1e-6)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "lora" / "README.md").read_text(), re.DOTALL)
    assert code and "load_lora_weights" in code[1]


def test_half_precision_weights_are_half_the_size(folder: Path, tmp_path: Path) -> None:
    name = "transformer/diffusion_pytorch_model.safetensors"
    args = asked(folder, tmp_path / "out")
    args.dtype = "float16"
    export.run(args)
    assert (tmp_path / "out" / name).stat().st_size < 0.6 * (folder / name).stat().st_size
    assert open_model(tmp_path / "out").pipe.transformer.dtype == torch.float32


def test_what_cannot_be_exported_is_said_in_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for args, word in [
        (asked(folder, tmp_path / "full"), "not empty"),
        (asked(folder, tmp_path / "out", to="lora"), "not trained as an adapter"),
        (asked(folder, tmp_path / "out", guidance=2.0), "does not take the guidance scale"),
        (asked(tmp_path / "none", tmp_path / "out"), "no such model"),
    ]:
        with pytest.raises(UserError, match=word):
            export.run(args)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]


def test_models_that_do_not_open_get_one_line_each(folder: Path, tmp_path: Path) -> None:
    import shutil

    def broken(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    weights = "transformer/diffusion_pytorch_model.safetensors"
    cut = broken("cut") / weights
    cut.write_bytes(cut.read_bytes()[:-100])
    (broken("missing") / weights).unlink()
    pickled = broken("pickled")
    (pickled / weights).rename(pickled / "transformer/diffusion_pytorch_model.bin")
    foreign = broken("foreign")
    index = json.loads((foreign / "model_index.json").read_text())
    (foreign / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))
    shape = broken("shape") / "transformer/config.json"
    shape.write_text(shape.read_text().replace('"ffn_dim": 32', '"ffn_dim": 48'))
    for name, words in [
        ("cut", "not a whole safetensors"), ("missing", "does not open"), ("pickled", "pickled"),
        ("foreign", "wrong family"), ("shape", "does not open"), ("nowhere", "no such model"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            open_model(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_sample_writes_a_clip_a_prompt_and_says_what_made_it(folder: Path, tmp_path: Path) -> None:
    args = argparse.Namespace(
        model=str(folder), prompt=["a red square", "a circle rotates"], prompts=None, out=tmp_path, fps=8.0, steps=None,
        guidance=None, scale=None, solver="ddim", seed=5, frames=None, size=None, image=None,
            long="error", whole=0.9, device="auto",
    )  # fmt: skip
    assert sample.run(args) == 0
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [r["seed"] for r in rows] == [5, 6] and all((tmp_path / r["file"]).stat().st_size > 500 for r in rows)
    args.guidance = 3.0
    with pytest.raises(UserError, match="without guidance"):
        sample.run(args)
