"""Causal students from configs: every stage trains, resumes bit for bit, and two ranks compute what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from ranks import assert_same_losses, by_one, by_two, losses
from toys import same_tensors, tiny_family

from vdistill.app.build import build
from vdistill.app.build_causal import Held
from vdistill.app.causal_file import read_causal
from vdistill.app.cli import main
from vdistill.app.config import load
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.causal.long_tuning import LongTuning
from vdistill.core import checkpoint
from vdistill.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DMD2 = {"name": "dmd2", "critic_per_student": 2, "steps": 2}
ROLLED: dict[str, Any] = {**DMD2, "inputs": "rollout"}
TRUE = {"name": "guidance", "scale_low": 1, "scale_high": 1, "times": [1.0, 0.6], "inputs": "mix", "truth": 2}
STAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "forcing": ({"name": "forcing", "context_noise": 0.2, "own": 0.5}, {}),
    "forcing_anchored": ({"name": "forcing"}, {"places": "anchored"}),
    "ode_init": ({"name": "ode_init", "teacher_steps": 4, "steps": 2}, {}),
    "consistency": ({"name": "causal_consistency", "teacher_steps": 6, "steps": 2}, {}),
    "consistency_each": ({"name": "causal_consistency", "teacher_steps": 6, "each": True, "average": 0.0}, {}),
    "guidance": ({"name": "guidance", "scale_low": 2, "scale_high": 2, "times": [1.0, 0.6], "inputs": "mix"}, {}),
    "truth": (TRUE, {}),
    "resampled": ({"name": "forcing", "own_scale": 2}, {"resample": {}}),
    "mended": (
        {"name": "guidance", "scale_low": 1, "scale_high": 1, "times": [1.0, 0.6], "inputs": "mix"},
        {"resample": {"levels": [0.4, 0.9], "rounds": 2}},
    ),
    "dagger": (TRUE, {"dagger": {"each": 2, "switch": 0.5}}),
    "causal_teacher": (ROLLED, {"teacher": "causal", "window": 4, "whole": True}),
    "causvid": ({**DMD2, "inputs": "data"}, {}),
    "self_forcing": (ROLLED, {"last": 2, "level": 0.05}),
    "through": (ROLLED, {"through": True, "first_times": [1.0, 0.6, 0.3]}),
    "rolling": (ROLLED, {"rolling": 0.5, "window": 4}),
    "f_distill": ({**ROLLED, "divergence": "forward_kl", "gan_weight": 0.01}, {"last": 2}),
    "longer": (ROLLED, {"rollout": 8}),
    "long_tuning": (ROLLED, {"rollout": 8, "extend": 2}),
}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder to distil from."""
    folder, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, folder)
    return folder


def said(teacher: Path, stage: str, scope: str = "full", **train_keys: Any) -> dict[str, Any]:
    method, causal = STAGES[stage]
    return {
        "name": "toy",
        "family": {"name": "tiny", "path": str(teacher), "frames": 13, "size": 16},
        "data": {"name": "shapes"},
        "method": method,
        "causal": {"block": 2, "window": 3, "sink": 1, **causal},
        "scope": {"name": "lora", "rank": 2} if scope == "lora" else {"name": "full"},
        "optim": {"lr": 1e-3, "ema": 0.9, "warmup": 2},
        "train": {"steps": 4, "batch": 2, "checkpoint_every": 2, "keep": 4, **train_keys},
    }


def toy(teacher: Path, stage: str, scope: str = "full", **train_keys: Any) -> Config:
    return Config.model_validate(said(teacher, stage, scope, **train_keys))


def assert_same_run(a: Path, b: Path, step: int) -> None:
    one, two = (checkpoint.load(p / "checkpoints" / checkpoint.name(step)) for p in (a, b))
    assert one.state == two.state and one.groups.keys() == two.groups.keys()
    for group in one.groups:
        assert same_tensors(dict(one.groups[group]), dict(two.groups[group])), group
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


FAST = ("consistency", "long_tuning")
CASES = [*((s, "full") for s in STAGES), ("self_forcing", "lora"), ("consistency", "lora"), ("long_tuning", "lora")]


@pytest.mark.parametrize(
    ("stage", "scope"), [c if c[0] in FAST else pytest.param(*c, marks=pytest.mark.slow) for c in CASES]
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, teacher: Path, stage: str, scope: str) -> None:
    train(toy(teacher, stage, scope), tmp_path / "a")
    train(toy(teacher, stage, scope, steps=3), tmp_path / "b")  # not at a checkpoint's step
    train(toy(teacher, stage, scope), tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b", 4)
    known = read_causal(tmp_path / "b" / "student")
    assert known is not None and known.block == 2


def test_forcing_reads_the_sink_from_where_streams_do(tmp_path: Path, teacher: Path) -> None:
    """Its loss is another one as soon as the window has moved on from the sink, and not before."""
    found = {}
    for frames in (21, 29):  # six latent frames, which the window holds, and eight
        for places in ("absolute", "anchored"):
            given = said(teacher, "forcing_anchored", steps=2)
            given["family"]["frames"] = frames
            given["causal"] = {"block": 2, "window": 6, "sink": 1, "places": places}
            out = tmp_path / f"{frames}-{places}"
            assert train(Config.model_validate(given), out).step == 2
            found[frames, places] = [row["student/loss"] for row in losses(out)]
    assert found[21, "absolute"] == found[21, "anchored"]
    assert all(a != b for a, b in zip(found[29, "absolute"], found[29, "anchored"], strict=True))


TWO = ("self_forcing", "long_tuning", "consistency", "rolling", "dagger")


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """STAGE/one, trained here, and STAGE/two, trained by two processes that stop in the middle and go on."""
    runs = tmp_path_factory.mktemp("ranks")
    by_one([(toy(teacher, stage), runs / stage / "one") for stage in TWO])
    by_two([(toy(teacher, stage, steps=n), runs / stage / "two") for n in (2, 4) for stage in TWO])
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("stage", TWO)
def test_two_ranks_train_with_the_losses_of_one(by_ranks: Path, stage: str) -> None:
    """And a run of two ranks goes on as a run of one, clips that grow included."""
    one, two = (by_ranks / stage / name for name in ("one", "two"))
    assert_same_losses(one, two)
    kept = [checkpoint.load(run / "checkpoints" / checkpoint.name(4)).groups for run in (one, two)]
    assert kept[0].keys() == kept[1].keys()
    assert (stage in ("self_forcing", "rolling")) != ("carried" in kept[0])
    if stage == "long_tuning":
        assert {k.partition("/")[0] for k in kept[1]["carried"]} == {
            f"{r}.{m}" for r in ("student", "critic") for m in (0, 1)
        }
        for key, value in kept[0]["carried"].items():
            torch.testing.assert_close(value, kept[1]["carried"][key], rtol=2e-3, atol=2e-4)


def test_a_student_goes_on_from_its_own_weights_and_its_critic_from_the_teachers(tmp_path: Path, teacher: Path) -> None:
    other = tiny_family(seed=1)
    other.save(other.net, tmp_path / "start")
    moved = {k: v.clone() for k, v in other.net.state_dict().items()}
    for scope in ("full", "lora"):
        given = said(teacher, "self_forcing", scope)
        given["causal"]["start"] = str(tmp_path / "start")
        built = build(Config.model_validate(given))
        student, critic = built.student, built.method.critic  # type: ignore[attr-defined]
        whole = (student, critic) if scope == "full" else (student.net, critic.net)  # type: ignore[attr-defined]
        bases = [
            {k.replace(".base_layer", ""): v for k, v in n.state_dict().items() if "lora_" not in k} for n in whole
        ]
        assert same_tensors(bases[0], moved) and not same_tensors(bases[1], moved)
        assert same_tensors(bases[1], dict(tiny_family().net.state_dict()))


def test_clips_that_grow_keep_their_captions_until_all_are_done(teacher: Path) -> None:
    built = build(toy(teacher, "long_tuning"))
    make, source = built.method.generate, built.source  # type: ignore[attr-defined]
    assert isinstance(make, LongTuning) and isinstance(source, Held)
    assert make.calls(4) == 3 and source.steps == 6  # the student learns at every second step
    keys = [source(step, 0).keys for step in range(8)]
    assert len(set(keys[:6])) == 1 and keys[6] == keys[7] != keys[0]
    assert not isinstance(build(toy(teacher, "longer")).source, Held)


def test_the_last_picture_of_a_clip_is_a_latent_of_its_own(teacher: Path) -> None:
    """As encoding the clip that begins there makes it, for a codec that loses nothing."""
    built = build(toy(teacher, "longer"))
    again, codec = built.method.generate.again, built.family.codec  # type: ignore[attr-defined,union-attr]
    pixels = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(again(codec.encode(pixels)), codec.encode(pixels[:, :, -1:]))


@pytest.mark.parametrize(
    ("stage", "change", "key"),
    [
        ("ode_init", {"causal": None}, "method.name"),
        ("self_forcing", {"causal": None}, "method.inputs"),
        ("ode_init", {"method": {"name": "ode_init", "kind": "diffusion"}}, "method.kind"),
        ("causvid", {"causal": {"extend": 3, "rollout": 6}}, "causal.extend"),
        ("long_tuning", {"causal": {"block": 2, "extend": 2}}, "causal.extend"),
        ("long_tuning", {"causal": {"block": 2, "extend": 3, "rollout": 8}}, "causal.extend"),
        ("rolling", {"causal": {"rolling": 0.5, "first_times": [1.0]}}, "causal.rolling"),
        ("rolling", {"causal": {"rolling": 0.5, "rollout": 8}}, "causal.rolling"),
        ("rolling", {"causal": {"rolling": 0.5, "whole": True}}, "causal.rolling"),
        ("causvid", {"causal": {"whole": True}}, "causal.whole"),
        ("self_forcing", {"method": {"name": "dmd2", "inputs": "backward"}}, "method.name"),
        ("consistency", {"method": {"name": "causal_consistency", "teacher_steps": 2, "skip": 3}}, "method.skip"),
        ("consistency", {"causal": {"teacher": "causal"}}, "causal.teacher"),
        ("causal_teacher", {"method": {**ROLLED, "gan_weight": 0.1}}, "method.gan_weight"),
        ("forcing", {"method": {"name": "forcing", "kind": "diffusion", "own": 0.5}}, "method.own"),
        ("guidance", {"method": {"name": "guidance", "scale_low": 1, "scale_high": 2}}, "method.scale_low"),
        ("guidance", {"method": {**STAGES["guidance"][0], "inputs": "bank"}}, "method.inputs"),
        ("mended", {"method": {"name": "guidance", "scale_low": 1, "scale_high": 1}}, "method.times"),
        ("guidance", {"method": {**STAGES["guidance"][0], "truth": 3}}, "method.truth"),
        ("guidance", {"method": {**STAGES["guidance"][0], "truth": 2}, "causal": None}, "method.truth"),
        ("resampled", {"method": {"name": "forcing", "kind": "diffusion"}}, "causal.resample"),
        ("self_forcing", {"causal": {"resample": {}}}, "causal.resample"),
        ("dagger", {"method": STAGES["guidance"][0]}, "causal.dagger"),
        ("dagger", {"data": {"name": "shapes", "counts": [2]}}, "causal.dagger"),
        ("dagger", {"causal": {"dagger": {}, "resample": {}}}, "causal.dagger"),
        ("dagger", {"train": {"steps": 1, "batch": 1}}, "causal.dagger.switch"),
        ("self_forcing", {"causal": {"dagger": {}}}, "causal.dagger"),
        ("resampled", {"causal": {"resample": {"levels": [0.0, 0.5]}}}, "levels"),
        ("resampled", {"causal": {"resample": {"levels": [0.9, 0.5]}}}, "levels"),
    ],
)
def test_what_does_not_go_together_is_said_with_its_key(
    teacher: Path, stage: str, change: dict[str, Any], key: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({**said(teacher, stage), **change})
    where = [".".join(map(str, e["loc"])) for e in caught.value.errors()]
    named = [pair[0] for e in caught.value.errors() for pair in e.get("ctx", {}).get("faults", ())]
    found = [f"{w}.{n}".strip(".") for w in where for n in named] + named
    assert any(key.endswith(f.split(".")[-1]) for f in found), caught.value


def test_a_clip_that_ends_before_the_truth_begins_is_refused_before_training(teacher: Path) -> None:
    given = said(teacher, "truth")
    given["method"] = {**given["method"], "truth": 4}
    with pytest.raises(UserError, match=r"method.truth: a clip has 4 latent frames, found 4"):
        build(Config.model_validate(given))


def test_a_rollout_that_is_not_whole_blocks_more_than_a_clip_is_refused_before_training(teacher: Path) -> None:
    given = said(teacher, "longer")
    given["causal"]["rollout"] = 9
    with pytest.raises(UserError, match=r"causal.rollout.*whole blocks of 2"):
        build(Config.model_validate(given))


@pytest.mark.parametrize(
    ("method", "level", "wrong"),
    [
        ("forcing", 0.2, ""),
        ("forcing", 0.3, "forcing shows pasts of at most 0.2, .* at 0.3; take 0.2, or raise method.context_noise"),
        ("guidance", 0.1, "guidance shows pasts of at most 0, "),
        ("consistency", 0.1, "causal_consistency shows pasts of at most 0, "),
        ("self_forcing", 0.3, ""),
    ],
)
def test_a_stream_remembers_no_more_noise_than_training_showed(
    teacher: Path, method: str, level: float, wrong: str, tmp_path: Path
) -> None:
    given = said(teacher, method)
    given["causal"]["level"] = level
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    if not wrong:
        assert load(tmp_path / "c.yaml").causal is not None
        return
    with pytest.raises(UserError, match=rf"causal.level: {wrong}"):
        load(tmp_path / "c.yaml")


def test_self_forcing_needs_captions_alone(tmp_path: Path, teacher: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red square moves right\na blue circle\n")
    data = {"name": "prompts", "path": str(tmp_path / "captions.txt")}
    given = {**said(teacher, "self_forcing", steps=2), "data": data}
    assert train(Config.model_validate(given), tmp_path / "run").step == 2


TINY = sorted(p.stem for p in ROOT.glob("configs/causal/*_tiny.yaml") if "causvid_init" not in p.stem)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_recipes_tiny_twin_trains_to_the_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", f"configs/causal/{name}.yaml", "--out", str(tmp_path / "run")]) == 0
    assert read_causal(tmp_path / "run" / "student") is not None


@pytest.mark.slow
def test_causvids_start_is_made_from_a_bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    bank, run = str(tmp_path / "bank"), str(tmp_path / "run")
    of = ["configs/causal/shapes_causvid_tiny.yaml", "--out", bank, "--count", "4", "--keep", "student"]
    assert main(["bank", *of, "--steps", "5"]) == 0
    start = ["train", "configs/causal/shapes_causvid_init_tiny.yaml", "--out", run, "--set", f"data.path={bank}"]
    assert main(start) == 0
    then = ["train", "configs/causal/shapes_causvid_tiny.yaml", "--out", f"{run}2", "--set", f"causal.start={run}"]
    assert main(then) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY, ids=str)
def test_what_a_stage_needs_can_be_said_beforehand(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    # diffusers takes a kernel for all of a process: those of later tests are not to change
    assert main(["plan", f"configs/causal/{name}.yaml", "--set", "family.attention=null"]) == 0
    assert "fits" in capsys.readouterr().out
