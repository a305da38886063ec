"""What can be wrong with a published teacher: folder, recipe, caption. One line, exit code 2, before any long work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vdistill.app.cli import main
from vdistill.app.models import open_model
from vdistill.core.errors import UserError
from vdistill.core.scope import Lora, lora_roles
from vdistill.families.random_tiny import random_tiny

RECIPE = """
name: recipe
family: {{name: {family}, path: {path}, frames: {frames}, height: {height}, width: 64}}
data: {{name: prompts, path: prompts.txt}}
method: {{name: dmd2, steps: 2}}
scope: {{name: lora, rank: 2}}
train: {{steps: 1, batch: 1}}
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    for variant in ("wan", "ltx", "flux"):
        random_tiny(variant).save_pretrained(root / variant)
    return root


@pytest.fixture
def here(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(folders, tmp_path, dirs_exist_ok=True)
    (tmp_path / "prompts.txt").write_text("a red square\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(family: str = "wan", path: str = "wan", frames: int = 9, height: int = 64) -> None:
    Path("recipe.yaml").write_text(RECIPE.format(family=family, path=path, frames=frames, height=height))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """check and train both say it in one line."""
    for command in (["check", "recipe.yaml"], ["train", "recipe.yaml", "--out", "run"]):
        capsys.readouterr()
        assert main(command) == 2
        told = capsys.readouterr().err.strip()
        assert len(told.splitlines()) == 1 and all(word in told for word in words), told
    assert not (Path("run") / "checkpoints").exists()


def test_a_whole_folder_is_fine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe()
    assert main(["check", "recipe.yaml"]) == 0
    assert main(["train", "recipe.yaml", "--out", "run", "family.long_text=cut"]) == 0


def test_a_folder_of_another_family(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(family="cogvideox")
    refused(capsys, "wrong family", "WanPipeline", "wan", "not cogvideox")


def test_a_folder_of_a_pipeline_nobody_knows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = Path("wan/model_index.json")
    index.write_text(index.read_text().replace("WanPipeline", "MochiPipeline"))
    recipe()
    refused(capsys, "wrong family", "MochiPipeline", "known are", "WanPipeline")


def gone(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def mixed(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    kinds = (torch.float16, torch.bfloat16)
    save_file({name: t.to(kinds[i % 2]) for i, (name, t) in enumerate(tensors.items())}, path)


def cut(folder: Path) -> None:
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def foreign_scheduler(folder: Path) -> None:
    change(folder, "scheduler", prediction_type="something")


def betas_of_its_own(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "DDIMScheduler", "trained_betas": [0.1, 0.2], "num_train_timesteps": 2})
    )
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))


def change(folder: Path, part: str, **values: object) -> None:
    config = next((folder / part).glob("*config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | values))


DAMAGE: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no vae": (gone, ("no subfolder vae/", "model_index.json")),
    "mixed dtypes": (mixed, ("mixed dtypes", "F16", "BF16")),
    "cut weights": (cut, ("not a whole safetensors file",)),
    "strange prediction": (foreign_scheduler, ("prediction_type 'something'", "known are")),
    "strange betas": (betas_of_its_own, ("betas of its own", "known are")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder(here: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    damage, words = DAMAGE[kind]
    damage(here / "wan")
    recipe()
    refused(capsys, *words)


@pytest.mark.parametrize(
    ("family", "frames", "height", "words"),
    [
        ("wan", 10, 64, ("10 frames", "1 + k * 4")),
        ("wan", 9, 68, ("68x64", "multiples of 8")),
        ("wan", 9, 72, ("not tiled by patches",)),
        ("ltx", 9, 80, ("80x64", "multiples of 32")),
        ("flux", 1, 72, ("72x64", "multiples of 16")),
    ],
)
def test_a_size_that_does_not_divide(
    here: Path, capsys: pytest.CaptureFixture[str], family: str, frames: int, height: int, words: tuple[str, ...]
) -> None:
    recipe(family, family, frames, height)
    refused(capsys, *words)


def test_a_caption_longer_than_the_model_reads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caption = "a red square " * 40
    assert main(["sample", "wan", "--prompt", caption, "--out", "clips", "--frames", "9", "--size", "64x64"]) == 2
    told = capsys.readouterr().err.strip()
    assert "tokens, wan reads 16" in told and "long_text" in told and len(told.splitlines()) == 1


def test_an_adapter_of_another_base(here: Path) -> None:
    flux, wan = open_model("flux"), open_model("wan")
    roles = lora_roles(flux.net, ["student"], Lora(2, None, flux.lora_targets))
    tensors = {k.removeprefix("net."): v for k, v in roles.modules["student"].tensors().items()}  # type: ignore[operator]
    with pytest.raises(UserError, match="a LoRA for another base: .* layers are not in this network"):
        wan.load_adapter(tensors, here / "lora")
    name = "transformer.blocks.0.attn1.to_q"
    odd = {f"{name}.lora_A.weight": torch.zeros(2, 7), f"{name}.lora_B.weight": torch.zeros(24, 2)}
    with pytest.raises(UserError, match="takes 7 channels, the layer has 24"):
        wan.load_adapter(odd, here / "lora")


def test_a_first_image_where_there_is_no_place_for_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save("first.png")
    assert main(["sample", "wan", "--prompt", "a", "--image", "first.png", "--frames", "9", "--size", "64x64"]) == 2
    assert "does not start from an image" in capsys.readouterr().err
