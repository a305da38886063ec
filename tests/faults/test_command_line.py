"""A careless user at the command line: one clear line, the right exit code, nothing lost, no traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import tiny_family

from vdistill.app.cli import main
from vdistill.core import checkpoint
from vdistill.core.checkpoint import Snapshot
from vdistill.data.buckets import Bucket
from vdistill.data.latents import fingerprint
from vdistill.data.store import Store

RUN = """name: toy
family: {name: tiny, path: teacher, frames: 5, size: 16}
data: {name: shapes}
method: {name: lcm, teacher_steps: 8}
train: {steps: 4, batch: 2, checkpoint_every: 2}
"""
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
CLIP = ["--frames", "5", "--size", "16x16"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a teacher and a config."""
    family = tiny_family()
    family.save(family.net, tmp_path / "teacher")
    (tmp_path / "toy.yaml").write_text(RUN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """(exit code, what stderr got) of a command; a bug would raise here."""
    capsys.readouterr()
    code = main(words)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "0"], "--steps: must be at least 1, found 0"),
        (["--steps", "-1"], "--steps: must be at least 1"),
        (["--frames", "0"], "--frames: must be at least 1"),
        (["--frames", "-3"], "--frames: must be at least 1"),
        (["--frames", "16"], "frames must be 1 + k * 4"),
        (["--size", "33x32"], "sides multiples of 8"),
        (["--size", "0"], "expected height x width"),
        (["--size", "²"], "expected height x width"),
        (["--seed", "-1"], "--seed: must be at least 0"),
        (["--seed", str(2**64)], "--seed: must be at least 0 and below"),
        (["--fps", "0"], "--fps: must be a number"),
        (["--fps", "nan"], "--fps: must be a number"),
        (["--guidance", "inf"], "--guidance: must be a number"),
        (["--guidance", "nan"], "--guidance: must be a number"),
        (["--scale", "2"], "does not take the guidance scale"),
        (["--out", "toy.yaml"], "toy.yaml: expected a folder, found a file"),
        (["--out", "toy.yaml/x"], "toy.yaml: expected a folder, found a file"),
        (["--prompt", "\ud800"], "--prompt: a prompt is not UTF-8"),
    ],
    ids=lambda v: ascii(v) if isinstance(v, list) else "",
)
def test_sample_refuses_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    code, line = told(capsys, "sample", "teacher", "--prompt", "a", *CLIP, "--steps", "1", *words)
    assert code == 2 and says in line and line.count("\n") == 1 and not (here / "clips").exists()


def test_an_empty_prompt_is_the_unconditioned_clip(here: Path) -> None:
    assert main(["sample", "teacher", "--prompt", "", *CLIP, "--steps", "1"]) == 0
    assert (here / "clips" / "000.mp4").is_file()


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])


def change(folder: Path, how: str) -> None:
    weights = load_file(folder / WEIGHTS)
    key = next(k for k in weights if weights[k].ndim == 2)
    if how == "shape":
        weights[key] = weights[key][1:].clone()
    else:
        del weights[key]
    save_file(weights, folder / WEIGHTS)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"w": torch.zeros(1)}, folder / "transformer" / "diffusion_pytorch_model.bin")


DAMAGE = {
    "cut": (cut, "not a whole safetensors file"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "not a whole safetensors file"),
    "gone": (lambda f: (f / WEIGHTS).unlink(), "does not open as a WanPipeline"),
    "shape": (lambda f: change(f, "shape"), "expected shape"),
    "a key less": (lambda f: change(f, "drop"), "weights do not fit: 1 missing"),
    "pickled": (pickled, "pickled .bin weights"),
    "another class": (lambda f: (f / "model_index.json").write_text('{"_class_name": "Flux"}'), "wrong family"),
    "list for index": (lambda f: (f / "model_index.json").write_text("[]"), "is no index of a pipeline"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "has no subfolder tokenizer/"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "not a diffusers pipeline folder"),
    "folder gone": (shutil.rmtree, "no such model"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_teacher_is_named_and_the_mended_one_trains_in_the_same_folder(
    here: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    shutil.copytree("teacher", "bad")
    damage, says = DAMAGE[kind]
    damage(here / "bad")
    code, line = told(capsys, "train", "toy.yaml", "--out", "run", "family.path=bad")
    assert code == 2 and says in line and "bad" in line
    assert main(["train", "toy.yaml", "--out", "run", "train.steps=1"]) == 0  # nothing was begun, nothing is in the way


@pytest.mark.parametrize("field", ['{"frames": "many"}', "[1]", '{"fames": 3}', "{"])
def test_a_damaged_card_is_named(here: Path, capsys: pytest.CaptureFixture[str], field: str) -> None:
    (here / "teacher" / "vdistill.json").write_text(field)
    code, line = told(capsys, "sample", "teacher", "--prompt", "a")
    assert code == 2 and "vdistill.json: is damaged" in line and line.count("\n") == 1


def test_a_model_of_nan_makes_no_clip(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({k: v * float("nan") for k, v in load_file(here / "teacher" / WEIGHTS).items()}, "teacher/" + WEIGHTS)
    code, line = told(capsys, "sample", "teacher", "--prompt", "a", *CLIP, "--steps", "1")
    assert code == 2 and "not finite" in line and not (here / "clips").exists()


# -- data -----------------------------------------------------------------------------------------------------------


def latents(folder: str, x: torch.Tensor, count: int = 8) -> str:
    """A folder as `vdistill prepare` leaves it, with `x` for every clip."""
    probe = fingerprint(tiny_family().codec, 5, Bucket(16, 16))
    store = Store(Path(folder), {"frames": 5, "buckets": ["16x16"], "probe": probe})
    store.begin(lambda source: None)
    for i in range(count):
        store.add(f"c{i}.mp4", "ab", [0.0], {"x": x.clone()})
    store.finish({f"c{i}.mp4": f"a red square {i}" for i in range(count)})
    return f"data={{name: latents, path: {folder}}}"


def test_poisoned_latents_are_skipped_counted_and_named_and_stop_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = latents("poison", torch.full((1, 768, 2, 2, 2), float("nan")))
    code, line = told(capsys, "train", "toy.yaml", "--out", "run", data, "train.steps=12", "train.max_bad=3")
    assert code == 2 and "not finite 3 times in a row" in line and ".mp4@0.000" in line and line.count("\n") == 1
    rows = [json.loads(row) for row in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["student/skipped"] for row in rows] == [1.0, 2.0]


def test_a_run_that_skipped_updates_says_so_at_its_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = latents("poison", torch.full((1, 768, 2, 2, 2), float("nan")))
    code, line = told(capsys, "train", "toy.yaml", "--out", "run", data, "train.steps=2")
    assert code == 0 and "2 updates were not finite" in line


@pytest.mark.parametrize(
    ("shape", "count", "says"),
    [((16, 2, 2, 2), 4, "16 channels, this"), ((768, 2, 2, 2), 0, "no clip")],
)
def test_latents_of_another_shape_and_none_at_all_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...], count: int, says: str
) -> None:
    code, line = told(capsys, "train", "toy.yaml", "--out", "run", latents("odd", torch.zeros(1, *shape), count))
    assert code == 2 and says in line and "odd" in line


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data={name: latents, path: nowhere}", "nowhere"),
        ("family.frames=16", "frames must be 1 + k * 4"),
        ("family.size=20", "sides multiples of 8"),
        ("report_to=[wandb]", "pip install 'vdistill[track]'"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_first_step(
    here: Path, capsys: pytest.CaptureFixture[str], change: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdistill.app.train.find_spec", lambda name: None)
    code, line = told(capsys, "train", "toy.yaml", "--out", "run", change)
    assert code == 2 and says in line and not (here / "run" / "metrics.jsonl").exists()


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_run_does_not_move_into_a_model_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(p.name for p in (here / "teacher").iterdir())
    code, line = told(capsys, "train", "toy.yaml", "--out", "teacher")
    assert code == 2 and "is a model folder" in line and before == sorted(p.name for p in (here / "teacher").iterdir())


def test_fresh_removes_what_a_run_wrote_and_nothing_else(here: Path) -> None:
    assert main(["train", "toy.yaml", "--out", ".", "train.steps=1"]) == 0
    (here / "thesis.tex").write_text("years of work")
    assert main(["train", "toy.yaml", "--out", ".", "--fresh", "train.steps=2"]) == 0
    assert (here / "thesis.tex").exists() and (here / "toy.yaml").exists() and (here / "teacher").is_dir()


def test_two_runs_in_one_folder_are_one_too_many(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vdistill.app.lock import sole_writer

    with sole_writer(here / "run"):
        code, line = told(capsys, "train", "toy.yaml", "--out", "run")
        assert code == 2 and "another run is at work" in line and line.count("\n") == 1
    assert main(["train", "toy.yaml", "--out", "run", "train.steps=1"]) == 0


def test_a_run_folder_may_be_moved(here: Path) -> None:
    assert main(["train", "toy.yaml", "--out", "run", "train.steps=2"]) == 0
    shutil.move("run", "moved")
    assert main(["train", "moved/config.yaml", "--out", "moved", "train.steps=3"]) == 0
    assert len((here / "moved" / "metrics.jsonl").read_text().splitlines()) == 3


def test_damage_is_said_and_whole_loss_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "toy.yaml", "--out", "run"]) == 0
    first, last = sorted((here / "run" / "checkpoints").iterdir())
    (last / "student.safetensors").write_bytes(b"")
    code, lines = told(capsys, "train", "toy.yaml", "--out", "run", "train.steps=5")
    assert code == 0 and f"skipped a damaged checkpoint, {last.name}: student.safetensors has 0 bytes" in lines
    for folder in (here / "run" / "checkpoints").iterdir():
        (folder / "state.json").unlink()
    code, line = told(capsys, "train", "toy.yaml", "--out", "run", "train.steps=6")
    assert code == 2 and "no checkpoint is whole" in line and line.count("\n") == 1


@pytest.mark.parametrize("text", ["{}", "[1]", '"x"', '{"state.json": 3}', '{"state.json": [1]}', "\x00"])
def test_a_manifest_that_says_nothing_of_its_files_is_damage(tmp_path: Path, text: str) -> None:
    path = checkpoint.save(tmp_path, Snapshot(1, {"net": {"w": torch.zeros(2)}}))
    (path / "MANIFEST.json").write_text(text)
    assert checkpoint.damage(path)


def test_damaged_newer_checkpoints_do_not_push_out_the_whole_ones(tmp_path: Path) -> None:
    def shot(step: int) -> Snapshot:
        return Snapshot(step, {"net": {"w": torch.zeros(2)}})

    checkpoint.save(tmp_path, shot(2))
    (checkpoint.save(tmp_path, shot(9)) / "state.json").unlink()
    checkpoint.save(tmp_path, shot(3), keep=1)
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None and found.name == "step-00000003"


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_demo_refuses_a_time_that_is_none(here: Path, capsys: pytest.CaptureFixture[str], minutes: str) -> None:
    code, line = told(capsys, "demo", "--out", "d", "--minutes", minutes)
    assert code == 2 and "--minutes" in line and not (here / "d").exists()


def test_demo_and_export_do_not_write_over_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "demo", "--out", "toy.yaml")[0] == 2
    assert told(capsys, "export", "teacher", "toy.yaml")[0] == 2
    assert (here / "toy.yaml").read_text() == RUN
