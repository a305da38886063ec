"""`vdistill demo talk`: what it measures is exact where the answer is known; its page is one file; errors in a line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from talkers import model, write_sound

from vdistill.app.build_scales import plan_of, push_alike, tokens_of, with_tokens
from vdistill.app.cli import main
from vdistill.app.demo_talk import STAGES, Show, named, page_of, teacher_of, ways
from vdistill.app.demos import recipe
from vdistill.app.generate import Sampled
from vdistill.app.models import clip_shape, open_model
from vdistill.app.talk_clips import under
from vdistill.app.talk_exam import (
    HELD_OUT,
    IN_RANGE,
    Paper,
    TargetError,
    guided_way,
    paper,
    rendered,
    said,
    scale_points,
    scores,
    target_error,
    told_way,
)
from vdistill.app.talk_report import Film, render
from vdistill.app.talk_shows import Shown, drift, on_average
from vdistill.core.denoiser import Denoiser
from vdistill.data.encode import png
from vdistill.families.stock import StockFamily
from vdistill.worlds.talker.duo import Duo, DuoClip

ROOT = Path(__file__).resolve().parents[2]
USUAL = {"ref": 1.5, "audio": 2.0}


@cache
def given() -> Paper:
    return paper(2, 9, 32)


@cache
def newborn() -> StockFamily:
    """A student that was born of the teacher, and told its scales, but learned nothing, nor is pushed."""
    family = with_tokens(open_model(model()), recipe("demo_talk.yaml", 0).scales)
    tokens = tokens_of(family)
    assert tokens is not None
    assert tokens.size.gain == {"ref": 0.3, "audio": 0.1} and tokens.size.gains_at(USUAL) == {}
    assert tokens.size.gains_at({"ref": 3.0, "audio": 1.0}) == pytest.approx({"ref": 1.45, "audio": 0.9})
    tokens.size = replace(tokens.size, gain={})
    return family


def test_a_student_that_goes_on_from_another_pushes_as_the_config_says() -> None:
    family, other = (with_tokens(open_model(model()), recipe("demo_talk.yaml", 0).scales) for _ in range(2))
    theirs = tokens_of(other)
    assert theirs is not None
    theirs.size = replace(theirs.size, gain={})
    push_alike(family, other.net)
    assert theirs.size.gain == {"ref": 0.3, "audio": 0.1}
    with pytest.raises(ValueError, match="gain of ref: -1"):
        replace(theirs.size, gain={"ref": -1})
    with pytest.raises(ValueError, match="gain of text"):
        replace(theirs.size, gain={"text": 1})


def errors_of(ask: Callable[[Mapping[str, float]], Denoiser]) -> TargetError:
    config = recipe("demo_talk.yaml", 0)
    assert config.scales is not None
    points = scale_points({"ref": 3.0, "audio": 4.0}, IN_RANGE)
    return target_error(ask, open_model(model()), plan_of(config.scales), given(), points)


def test_a_student_that_ignores_its_scales_misses_all_that_guidance_does() -> None:
    found = errors_of(partial(said, newborn(), newborn().net))
    assert found.of_guidance == 1.0 and found.relative == found.ignorant > 0


def test_error_to_the_guided_target_is_what_guidance_is_left_to_do() -> None:
    """A chain is linear in scales - 1, so who is guided three quarters as much misses a quarter."""
    teacher = open_model(model())

    def short(point: Mapping[str, float]) -> Denoiser:
        return under(teacher.net, {name: 1 + 0.75 * (scale - 1) for name, scale in point.items()})

    found = errors_of(short)
    assert found.of_guidance == pytest.approx(0.25, rel=1e-4)
    assert found.relative == pytest.approx(0.25 * found.ignorant, rel=0.01)


def test_scales_held_out_are_past_those_that_were_learned() -> None:
    most = {"ref": 3.0, "audio": 4.0}
    inside, beyond = (scale_points(most, shares) for shares in (IN_RANGE, HELD_OUT))
    assert all(point[name] <= most[name] for point in inside for name in most) and most in inside
    assert all(any(point[name] > most[name] for name in most) for point in beyond)


def test_passes_are_those_of_the_paper() -> None:
    """25 x 3, and 6 x 3 of a student that is told nothing; a few-step student takes its times."""
    family = open_model(model())
    shape = clip_shape(family, 9, 32, 32)
    few = open_model(model())
    few.times = (1.0, 0.5)
    made = {name: rendered(way, given(), shape).passes for name, way in {
        "teacher": guided_way(family, USUAL, 25), "balanced": guided_way(newborn(), USUAL, 6),
        "told": told_way(newborn(), USUAL, 6), "two": told_way(few, {}), "plain": guided_way(family, {}, 6),
    }.items()}  # fmt: skip
    assert made == {"teacher": 75, "balanced": 18, "told": 6, "two": 2, "plain": 6}
    named = ways(family, dict.fromkeys(STAGES, newborn()), USUAL)
    assert [*named] == ["teacher", "balanced", "fast", "ours4", "ours2", "plain"]


def test_a_newborn_student_guided_in_passes_is_the_teacher_guided() -> None:
    shape = clip_shape(newborn(), 9, 32, 32)
    own = rendered(guided_way(newborn(), USUAL, 2), given(), shape).pixels
    assert torch.equal(own, rendered(guided_way(open_model(model()), USUAL, 2), given(), shape).pixels)


def test_true_clips_are_in_sync_and_show_the_right_people() -> None:
    truth = torch.stack([clip.frames for clip in given().clips])
    found = scores(Sampled(truth, 0, 0.0), given())
    assert found["sync_pcc"] > 0.8 and found["identity_error"] < 0.2


def test_drift_is_the_larger_loss_between_both_ends() -> None:
    ends = {"sync_pcc_first": 0.8, "sync_pcc_last": 0.6, "identity_error_first": 0.2, "identity_error_last": 0.22}
    assert drift(ends) == pytest.approx(0.25)
    assert drift({**ends, "sync_pcc_last": 0.9}) == pytest.approx(0.1)


def test_several_long_clips_are_judged_by_their_means() -> None:
    """Two clips, one of which loses what the other gains, do not drift; an offset counts where it is largest."""
    pixels, sound = torch.zeros(3, 1, 8, 8), torch.zeros(640)
    ends = {"identity_error_first": 0.2, "identity_error_last": 0.2}
    one = Shown(
        pixels, sound, {**ends, "sync_pcc_first": 0.9, "sync_pcc_last": 0.7, "offset_largest": 2.0, "drift": 0.2}
    )
    two = Shown(
        pixels, sound, {**ends, "sync_pcc_first": 0.7, "sync_pcc_last": 0.9, "offset_largest": 1.0, "drift": 0.0}
    )
    found = on_average([one, two])
    assert found["drift"] == pytest.approx(0.0) and found["offset_largest"] == 2.0
    assert found["sync_pcc_first"] == pytest.approx(0.8) and on_average([one])["drift"] == pytest.approx(2 / 9)


def test_each_stage_has_a_config_and_takes_the_times_it_says(tmp_path: Path) -> None:
    _, about = teacher_of(str(model()))
    for name, stage in STAGES.items():
        config = stage.config(name, tmp_path, about, 3)
        assert config.seed == 3 and getattr(config.method, "times", None) == (stage.times or None)
    assert sum(stage.share for stage in STAGES.values()) == pytest.approx(1)


def test_the_page_is_one_file_with_a_player_for_every_way() -> None:
    clips = torch.stack([clip.frames for clip in given().clips])
    row = {"passes": 6, "seconds_per_clip": 0.5, "sync_pcc": 0.9, "offset": 0.0, "identity_error": 0.2, "jitter": 0.01,
           "motion": 0.1, "aperture": 0.01}  # fmt: skip
    names = ["teacher", "balanced", "fast", "ours4", "ours2", "plain"]
    live = {"wait_ms": 240.0, "compute_p95_ms": 90.0, "realtime_factor": 1.3, "drift": 0.02, "offset_largest": 1.0,
            "sync_pcc_first": 0.9, "sync_pcc_last": 0.8, "identity_error_first": 0.2,
            "identity_error_last": 0.2}  # fmt: skip
    seconds = [{"second": s, **row} for s in (0.0, 2.0)]
    response = {name: [{"scale": s, **row} for s in (1.0, 2.0)] for name in ("audio", "ref")}
    long = Shown(clips[0], given().clips[0].sound, live, seconds)
    rows = {name: {**row, "passes": 75 if name == "teacher" else 6} for name in names}
    made = {name: Sampled(clips, 6, 0.5) for name in names}
    duo = Shown(clips[0], long.sound, {"crosstalk": 0.03})
    errors = {where: TargetError(0.1, 0.2, 0.5) for where in ("in_range", "held_out")}
    show = Show(rows, made, given(), errors, response, [long], [duo], {"ours4": live})
    found = show.summary() | {"clips": 2, "seconds": 10, "seed": 0, "machine": "here", "teacher_model": "<talker>",
                              "wall_s": 60.0, "peak_rss_gib": 1.0}  # fmt: skip
    film = Film(b"mp4", clips[0, :, 0])
    page = render(page_of(show, found, (film, film), {"ours4": Path("runs/ours4/student")}))
    assert "of its length; 0.2 if scales were ignored" in page
    assert "means over 1 such sessions" in page and "mean over 1 such scenes" in page
    assert page.count("<video controls") == 2 and page.count('class="clip"') == 2 * (1 + len(names))
    assert not re.search(r'(src|href)="(?!data:)', page) and "&lt;talker&gt;" in page and "12.5×" in page
    assert found["against_teacher"]["fast"]["passes"] == 12.5 and json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--clips", "1"], "--clips: must be at least 2"),
        (["--seconds", "9"], "--seconds: must be from 10 to 600, found 9"),
        (["--minutes", "nan"], "--minutes"),
        (["--teacher", "shapes"], "this model does not hear"),
        (["--teacher", "nowhere"], "nowhere: no such model"),
        (["--students", "ours4=nowhere"], "nowhere: no such model"),
        (["--students", "ours4=shapes"], "this model does not hear"),
        (["--students", "ours4=talker"], "talker: takes any number of steps, ours4 does not"),
        (["--students", "scales=talker_student"], "talker_student: is a student of few steps, scales does not"),
        (["--students", "scales=talker"], "--students: lacks ours4"),
        (["--students", "talker_student"], "--students: found 'talker_student'; give NAME=MODEL"),
        (["--students", "ours4=talker_student", "--minutes", "1"], "--students: measures students, and --minutes"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "talk", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and told in said
    assert not (tmp_path / "out").exists()


def test_students_that_are_there_are_measured_in_the_order_of_their_stages() -> None:
    assert list(named(["ours4=talker_student", "scales=talker"])) == ["scales", "ours4"]


@pytest.mark.parametrize("option", ["--teacher", "--students"])
def test_talkers_belong_to_the_demo_that_talks(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "clip", option, "shapes", "--out", str(tmp_path / "out")]) == 2
    assert f"{option}: belongs to vdistill demo talk" in capsys.readouterr().err


# -- two speakers ---------------------------------------------------------------------------------------------------


@cache
def two() -> DuoClip:
    return Duo(32, 25).clip(0)


@pytest.fixture
def scene(tmp_path: Path) -> list[str]:
    """--image and --speaker of two people side by side."""
    (tmp_path / "two.png").write_bytes(png(two().reference, 1))
    said = ["--image", str(tmp_path / "two.png")]
    for i in (0, 1):
        write_sound(tmp_path / f"{i}.wav", two().tracks[i])
        mask = two().masks["person"][i].amax(0).expand(3, -1, -1)
        (tmp_path / f"{i}.png").write_bytes(png(2 * mask - 1, 1))
        said += ["--speaker", f"{tmp_path / str(i)}.wav:{tmp_path / str(i)}.png"]
    return said


def test_two_people_in_one_picture_talk_for_as_long_as_the_longer_sound(scene: list[str], tmp_path: Path) -> None:
    out = tmp_path / "talk.mp4"
    assert main(["talk", str(model()), *scene, "--steps", "1", "--out", str(out)]) == 0
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["frames"] == 25 and told["passes"] == 3 * 3  # blocks of one pass for each branch


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--speaker", "a.wav"], "--speaker: expected AUDIO:MASK.png such as ann.wav:ann.png, found 'a.wav'"),
        (["--box", "1,2,3,4"], "--box: the masks say where people are"),
        (["--speaker", "{0}/0.wav:{0}/small.png"], "small.png: is 16x16, the picture 64x32"),
        (["--speaker", "{0}/0.wav:{0}/black.png"], "black.png: shows nobody"),
        (["--speaker", "{0}/0.wav:{0}/1.png"], "1.png: lies on that of 1.png"),
        (["--speaker", "{0}/0.wav:{0}/none.png"], "none.png: no such file"),
        (["--speaker", "{0}/none.wav:{0}/right.png"], "none.wav: no such file"),
        (["--audio", "a.wav"], "not allowed with argument"),
    ],
)
def test_a_wrong_speaker_is_one_line(
    more: list[str], says: str, scene: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size, level in (("small", (16, 16), 1.0), ("black", (32, 64), -1.0)):
        (tmp_path / f"{name}.png").write_bytes(png(torch.full((3, *size), level), 1))
    right = torch.full((3, 32, 64), -1.0)
    right[..., 28:36] = 1.0
    (tmp_path / "right.png").write_bytes(png(right, 1))
    command = [
        "talk",
        str(model()),
        *scene,
        *(word.format(tmp_path) for word in more),
        "--out",
        str(tmp_path / "t.mp4"),
    ]
    try:
        code = main(command)
    except SystemExit as ended:  # what argparse itself refuses
        code = int(ended.code or 0)
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert says in error.splitlines()[-1] and not (tmp_path / "t.mp4").exists()


@pytest.mark.slow
def test_it_distils_measures_and_writes_a_page(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--minutes", "0.05", "--clips", "2", "--seconds", "10", "--teacher", str(model())]
    command = [sys.executable, "-m", "vdistill", "demo", "talk", *words, "--out", str(out)]  # precision is of a process
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((out / "summary.json").read_text())
    passes = {"teacher": 75, "balanced": 18, "fast": 6, "ours4": 4, "ours2": 2}
    assert {name: found[name]["passes"] for name in passes} == passes
    keys = ("sync_pcc", "identity_error", "jitter", "seconds_per_clip")
    assert all(isinstance(found[name][key], float) for name in passes for key in keys)
    errors = [
        f"{what}_error_{where}" for what in ("target", "ignorant", "guidance") for where in ("in_range", "held_out")
    ]
    single = (*errors, "drift_60s", "duo_leak", "session_realtime_factor")
    assert all(isinstance(found[key], float) for key in single)
    text = (out / "report.html").read_text()
    assert text.count("<video") == 2 + 2 * 7 and not re.search(r'(src|href)="(?!data:)', text)


@pytest.mark.slow
def test_it_measures_the_student_that_comes_with_the_package(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["demo", "talk", "--clips", "2", "--seconds", "10", "--out", str(out)]) == 0
    found = json.loads((out / "summary.json").read_text())
    assert found["main"] == "ours4" and {"fast", "balanced", "target_error_in_range"}.isdisjoint(found)
    assert found["against_teacher"]["ours4"]["passes"] == 18.75
    assert "vdistill demo talk --minutes 150" in (out / "report.html").read_text()
