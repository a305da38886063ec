"""Recipes of published teachers: each is right, says what it must, and has a twin that trains to the end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vdistill.app.catalog import PIPELINES
from vdistill.app.cli import main, parse
from vdistill.app.config import load
from vdistill.app.schema_family import FamilyStock
from vdistill.core.checkpoint import read_tensors

ROOT = Path(__file__).resolve().parents[2]
STOCK = r"^  name: ({})$".format("|".join(set(PIPELINES.values())))
RECIPES = {p.stem: p for p in sorted(ROOT.glob("configs/*/*.yaml")) if re.search(STOCK, p.read_text(), re.MULTILINE)}
QUICK = ("wan21_i2v_14b_dmd2_lora", "cogvideox_5b_dmd2_lora", "hunyuanvideo_lcm_lora", "sd15_lcm", "dit_xl_dmd2")
"""Twins that run with the fast tests; the others are slow ones."""
PLAN = re.compile(r"^# (\d) x (\d+) GB: (.+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def head(name: str) -> str:
    text = RECIPES[name].read_text()
    return text[: text.index("\nname:") + 1]


def twin(name: str) -> Path:
    return RECIPES[name].with_name(f"{name}_tiny.yaml")


def test_every_family_has_a_recipe() -> None:
    assert {load(path).family.name for path in RECIPES.values()} == set(PIPELINES.values())
    assert not [name for name in RECIPES if name.endswith("_tiny")]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_a_folder_and_says_what_is_known_of_it(name: str) -> None:
    for word in ("Paper", "Teacher", "Hardware", "Time", "Expect", "Verified"):
        assert re.search(rf"\b{word}: \S", head(name)), word
    config = load(RECIPES[name])
    family = config.family
    assert isinstance(family, FamilyStock) and family.path and family.path.startswith("models/")
    assert family.path.removeprefix("models/") in head(name)
    assert family.dtype == "bfloat16" and config.train.gradient_checkpointing and config.name == name
    assert len(RECIPES[name].read_text().splitlines()) <= 35


@pytest.mark.parametrize("name", RECIPES)
def test_the_overrides_of_its_memory_plans_fit_the_recipe(name: str) -> None:
    plans = PLAN.findall(head(name))
    assert plans and head(name).count("--set") == sum(plan.count("--set") for _, _, plan in plans)
    for _, _, plan in plans:
        overrides = re.findall(r"--set (?:'([^']+)'|(\S+))", plan)
        changed = load(RECIPES[name], [quoted or plain for quoted, plain in overrides])
        assert (changed == load(RECIPES[name])) == (not overrides)


def test_the_figures_of_its_memory_plans_are_those_planned_and_fit() -> None:
    done = subprocess.run([sys.executable, "tools/plan_recipes.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in RECIPES if "vdistill prepare" in head(name)])
def test_the_command_for_its_data_is_right_and_makes_clips_of_its_size(name: str) -> None:
    found = re.search(r"^# Data: vdistill (.*) \\\n#   (.*)$", head(name), re.MULTILINE)
    assert found
    args = parse(f"{found[1]} {found[2]}".split())
    config = load(RECIPES[name])
    family = config.family
    assert isinstance(family, FamilyStock)
    assert (args.frames, args.size) == (family.frames, f"{family.width}x{family.height}") and args.text
    assert (ROOT / args.family, str(args.out)) == (RECIPES[name], getattr(config.data, "path", None))
    prompts = config.data.name == "prompts"
    assert prompts == (args.src.suffix == ".txt") and args.images == (family.frames == 1 and not prompts)


@pytest.mark.parametrize("name", RECIPES)
def test_its_twin_differs_in_size_alone(name: str) -> None:
    whole, tiny = load(RECIPES[name]), load(twin(name))
    assert isinstance(tiny.family, FamilyStock) and tiny.family.random_tiny and tiny.name == f"{name}_tiny"
    assert (tiny.family.name, tiny.method.name, tiny.scope) == (whole.family.name, whole.method.name, whole.scope)
    assert (tiny.data.name == "prompts") == (whole.data.name == "prompts")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in RECIPES])
def test_the_tiny_twin_trains_to_the_end_and_samples(name: str, tmp_path: Path) -> None:
    run, path = tmp_path / "run", twin(name)
    assert main(["check", str(path)]) == 0
    assert main(["train", str(path), "--out", str(run)]) == 0
    prompt = "2" if name.startswith("dit") else "a red square"
    ask = ["sample", str(run), "--prompt", prompt, "--out", str(tmp_path / "clips")]
    if "i2v" in name.split("_"):
        from PIL import Image

        Image.new("RGB", (64, 64), "red").save(tmp_path / "first.png")
        ask += ["--image", str(tmp_path / "first.png")]
    assert main(ask) == 0
    kind = "*.png" if path.parent.name == "image" else "*.mp4"
    assert len(list((tmp_path / "clips").glob(kind))) == 1


def test_a_recipe_with_weights_in_8_bits_ends_in_a_whole_student(tmp_path: Path) -> None:
    sets = ["--set", "family.fp8=true", "--set", "family.dtype=bfloat16"]
    assert main(["train", str(twin("wan21_t2v_14b_dmd2_lora")), "--out", str(tmp_path / "run"), *sets]) == 0
    (weights,) = (tmp_path / "run/student/transformer").glob("*.safetensors")
    assert {t.dtype for t in read_tensors(weights).values()} == {torch.bfloat16}
