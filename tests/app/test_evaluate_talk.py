"""`vdistill eval` of a model that hears: its numbers are those of the exam by hand, to the bit, every time."""

from __future__ import annotations

import json
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from talkers import model
from torch import Tensor

from vdistill.app.about import About
from vdistill.app.build_scales import tokens_of, with_tokens
from vdistill.app.causal_file import Saved
from vdistill.app.cli import main
from vdistill.app.demos import recipe
from vdistill.app.evaluate_talk import drifts
from vdistill.app.models import clip_shape, open_model
from vdistill.app.talk_clips import talking, told
from vdistill.app.talk_exam import Paper, guided_way, paper, rendered, scores, told_way
from vdistill.app.talk_shows import Talking, both, drift, duo, long, losses, scenes
from vdistill.avatar.rates import FPS
from vdistill.core.rng import Rng
from vdistill.eval.talking import talking_scores
from vdistill.families.stock import StockFamily

USUAL = {"ref": 1.5, "audio": 2.0}
TIMES = (1.0, 0.6)
CLOCKS = ("seconds_per_clip", "realtime_factor", "compute_p50_ms", "compute_p95_ms", "latency_p95_ms")


@cache
def given() -> Paper:
    return paper(2, 9, 32)


def evaluated(out: Path, *words: str) -> dict[str, Any]:
    """What --json holds, without what a clock says."""
    assert main(["eval", *words, "--clips", "2", "--json", str(out / "found.json")]) == 0
    found: dict[str, Any] = json.loads((out / "found.json").read_text())
    return timeless(found)


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    """Without clocks, also in what lies deeper."""
    rest = {k: v for k, v in found.items() if k not in CLOCKS}
    rest |= {k: timeless(v) for k, v in rest.items() if isinstance(v, dict)}
    return rest | {k: [timeless(r) for r in v] for k, v in rest.items() if isinstance(v, list) and k == "clips"}


def student(folder: Path, causal: bool = False) -> str:
    """A few-step student, of the same weights."""
    family = open_model(model())
    family.save(family.net, folder, TIMES)
    About(9, 32, 32).write(folder)
    if causal:
        Saved(1, 3, 1, "anchored", times=TIMES).write(folder)
    return str(folder)


def shape(family: StockFamily) -> tuple[int, ...]:
    return clip_shape(family, 9, 32, 32)


def same(found: dict[str, Any], expected: dict[str, float]) -> bool:
    return all(found[name] == value for name, value in expected.items() if name not in CLOCKS)


def test_a_teacher_is_measured_under_its_own_scales_as_the_exam_does(tmp_path: Path) -> None:
    found, family = evaluated(tmp_path, str(model())), open_model(model())
    made = rendered(guided_way(family, USUAL, 3), given(), shape(family))
    assert same(found, scores(made, given())) and found["passes"] == 3 * 3
    assert same(found["true"], talking_scores(torch.stack([c.frames for c in given().clips]), given().truth))
    asked = {"clips": 2, "seed": 0, "steps": 3, "scales": USUAL, "frames": 9, "size": 32, "model": str(model())}
    assert {k: found[k] for k in asked} == asked and "long" not in found and "duo" not in found
    assert {"net_d", "net_c", "net_offset", "motion", "aperture", "jitter"} < found.keys()
    assert evaluated(tmp_path, str(model())) == found


def test_scales_steps_seed_and_length_are_those_asked_for(tmp_path: Path) -> None:
    words = ["--audio-scale", "1", "--ref-scale", "1", "--steps", "2", "--seed", "5", "--frames", "13"]
    found, family = evaluated(tmp_path, str(model()), *words), open_model(model())
    longer = paper(2, 13, 32)
    made = rendered(guided_way(family, {}, 2), longer, clip_shape(family, 13, 32, 32), 5)
    assert same(found, scores(made, longer)) and found["passes"] == 2 and found["scales"] == {"ref": 1.0, "audio": 1.0}


def test_a_student_is_told_its_usual_scales_and_those_asked_for(tmp_path: Path) -> None:
    family = with_tokens(open_model(model()), recipe("demo_talk.yaml", 0).scales)
    tokens = tokens_of(family)
    assert tokens is not None
    for name, p in sorted(tokens.named_parameters()):
        p.data = 0.1 * Rng(1).normal(name, p.shape)
    family.save(family.net, tmp_path / "student", TIMES)
    About(9, 32, 32).write(tmp_path / "student")
    opened = open_model(tmp_path / "student")
    pixels: list[Tensor] = []
    for words, scales in (([], USUAL), (["--audio-scale", "4"], {**USUAL, "audio": 4.0})):
        found = evaluated(tmp_path, str(tmp_path / "student"), *words)
        made = rendered(told_way(opened, scales), given(), shape(opened))
        pixels.append(made.pixels)
        assert same(found, scores(made, given())) and found["passes"] == 2 and found["scales"] == scales
    assert not torch.equal(*pixels)


@pytest.mark.slow
def test_long_clips_and_pictures_of_two_are_means_of_what_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = student(tmp_path / "student")
    found = evaluated(tmp_path, name, "--seconds", "10", "--long", "2", "--duo", "2")
    said = capsys.readouterr().out
    talker = Talking(open_model(name), {}, 9, 32, steps=2)
    shown = [long(talker, 10.0, i, index=i).scores for i in (0, 1)]
    rows = found["long"]["clips"]
    for row, each in zip(rows, shown, strict=True):
        assert same(row, each) and row["drift"] == max(row["drift_sync"], row["drift_identity"]) == drift(each)
    assert rows[0]["sync_pcc_first"] != rows[1]["sync_pcc_first"]
    assert all(found["long"]["mean"][k] == (rows[0][k] + rows[1][k]) / 2 for k in rows[0])
    leaks = [both(talker, clip, i).scores["crosstalk"] for i, clip in enumerate(islice(scenes(32), 2))]
    assert found["duo"] == {"scenes": 2, "leaks": leaks, "leak": sum(leaks) / 2}
    assert duo(talker).scores["crosstalk"] == leaks[0]
    assert "mean of 2: " in said and "sync lost" in said


def test_drifts_are_of_different_clips_and_their_means() -> None:
    """Through `long`, which a second time says the same."""
    talker = Talking(open_model(model()), USUAL, 9, 32, steps=1)
    found = drifts(talker, 2.0, 2, 7)
    rows = found["clips"]
    assert same(rows[1], long(talker, 2.0, 8, index=1).scores)
    assert rows[0]["sync_pcc_first"] != rows[1]["sync_pcc_first"]
    assert all(found["mean"][k] == (rows[0][k] + rows[1][k]) / 2 for k in rows[0])
    assert {"drift_sync", "drift_identity"} < rows[0].keys() and found["seconds"] == 2.0


def test_the_past_is_shown_as_it_is_in_scenes_and_under_noise_alone() -> None:
    calm, rough = (Talking(open_model(model()), USUAL, 9, 32, 2, level, steps=1) for level in (0.0, 0.5))
    assert torch.equal(both(calm, (scene := next(scenes(32)))).pixels, both(rough, scene).pixels)
    assert not torch.equal(long(calm, 2.0).pixels, long(rough, 2.0).pixels)


def test_in_every_scene_of_two_both_have_a_turn() -> None:
    some = [*islice(scenes(16, 3.0), 2)]
    assert some[0].key != some[1].key
    assert all((clip.active.sum(1) >= FPS).all() for clip in some)


def test_losses_are_relative_to_the_first_seconds() -> None:
    ends = {"sync_pcc_first": 0.8, "sync_pcc_last": 0.6, "identity_error_first": 0.2, "identity_error_last": 0.22}
    assert losses(ends) == {"sync": pytest.approx(0.25), "identity": pytest.approx(0.1)}
    assert drift(ends) == pytest.approx(0.25)


def test_a_causal_student_makes_its_clips_block_by_block(tmp_path: Path) -> None:
    name = student(tmp_path / "causal", causal=True)
    found, family = evaluated(tmp_path, name), open_model(name)
    cond = told(family, given().clips, given().captions)
    spec = Saved(1, 3, 1, "anchored", times=TIMES)
    made = talking(family, cond, shape(family), 2, {}, 0, None, TIMES, spec)
    assert same(found, talking_scores(made, given().truth))
    assert found["passes"] == 3 * 3  # positions, two steps and one to remember
    whole = rendered(told_way(family, {}), given(), shape(family))
    assert not torch.equal(whole.pixels, made)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--guidance", "2"], "--guidance: is not for a model that hears; use --audio-scale and --ref-scale"),
        (["--scale", "2"], "--scale: is not for a model that hears"),
        (["--solver", "heun"], "--solver: is not for a model that hears"),
        (["--clips", "1"], "--clips: must be at least 2"),
        (["--long", "2"], "--long: counts long clips"),
        (["--long", "0", "--seconds", "10"], "--long: must be at least 1"),
        (["--duo", "0"], "--duo: must be at least 1"),
        (["--seconds", "9"], "--seconds: must be from 10 to 600, found 9"),
        (["--steps", "0"], "--steps: must be at least 1"),
        (["--audio-scale", "nan"], "--audio-scale: must be a number"),
        (["--size", "32x64"], "--size: the talker world is square, found 32x64"),
        (["--split", "all"], "--split: is not for a model that hears; leave it out"),
        (["--frames", "10"], "10"),
    ],
)
def test_what_a_model_that_hears_has_no_use_for_is_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model()
    capsys.readouterr()
    assert main(["eval", str(model()), *words, "--json", str(tmp_path / "found.json")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and says in said.err and not said.out
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "5"], "--steps: this student takes 2 steps, found 5"),
        (["--audio-scale", "2"], "--audio-scale: this few-step student has its guidance in its weights"),
    ],
)
def test_what_a_few_step_student_has_no_use_for_is_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = student(tmp_path / "student")
    assert main(["eval", name, *words]) == 2
    assert says in capsys.readouterr().err


def test_blocks_made_ahead_of_their_sound_are_not_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = student(tmp_path / "student")
    Saved(1, 3, times=TIMES, rolling=2).write(tmp_path / "student")
    assert main(["eval", name, "--duo"]) == 2
    assert "--duo: this student denoises 2 blocks together" in capsys.readouterr().err
    Saved(2, 4, times=TIMES).write(tmp_path / "student")
    assert main(["eval", name]) == 2
    assert "3 positions are not whole blocks" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--duo"], ["--long", "2"], ["--audio-scale", "2"], ["--ref-scale", "2"]])
def test_what_only_a_model_that_hears_takes_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "shapes", *words]) == 2
    assert capsys.readouterr().err == f"vdistill: {words[0]}: this model does not hear; leave it out\n"
