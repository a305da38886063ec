"""Recipes of published teachers: each is right, says what it must, and has a twin that trains to the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vdistill.app.cli import main
from vdistill.app.config import load
from vdistill.app.schema_family import FamilyStock

ROOT = Path(__file__).resolve().parents[2]
ALL = {path.stem: path for path in sorted(ROOT.glob("configs/*/*.yaml")) if "random_tiny" in path.read_text()}
TWINS = {name: path for name, path in ALL.items() if name.endswith("_tiny")}
RECIPES = {name.removesuffix("_tiny"): path.with_name(path.name.replace("_tiny", "")) for name, path in TWINS.items()}
QUICK = ("wan21_i2v_14b_dmd2_lora", "cogvideox_5b_dmd2_lora", "hunyuanvideo_lcm_lora", "sd15_lcm", "dit_xl_dmd2")
"""Twins that run with the fast tests; the others are slow ones."""


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_family_has_a_recipe(at_home: None) -> None:
    from vdistill.app.catalog import PIPELINES

    used = {load(path).family.name for path in RECIPES.values()}
    assert used == set(PIPELINES.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_a_folder_and_says_what_is_known_of_it(at_home: None, name: str) -> None:
    config, text = load(RECIPES[name]), RECIPES[name].read_text()
    header = text[: text.index("\nname:")]
    for word in ("Paper", "Hardware", "Time", "Expect", "Verified", "Teacher"):
        assert re.search(rf"{word}: \S", header), word
    assert re.search(r"1 x (24|80) GB: ", header)
    family = config.family
    assert isinstance(family, FamilyStock) and family.path and family.path.startswith("models/")
    assert family.dtype == "bfloat16" and config.train.gradient_checkpointing and config.name == name


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_the_tiny_twin_trains_to_the_end_and_samples(at_home: None, name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    twin = TWINS[f"{name}_tiny"]
    assert main(["check", str(twin)]) == 0
    assert main(["train", str(twin), "--out", str(run)]) == 0
    prompt = "2" if name.startswith("dit") else "a red square"
    ask = ["sample", str(run), "--prompt", prompt, "--out", str(tmp_path / "clips")]
    if "i2v" in name:
        from PIL import Image

        Image.new("RGB", (64, 64), "red").save(tmp_path / "first.png")
        ask += ["--image", str(tmp_path / "first.png")]
    assert main(ask) == 0
    kind = "*.png" if "image" in str(twin.parent) else "*.mp4"
    assert len(list((tmp_path / "clips").glob(kind))) == 1
