"""`vdistill stream` and `vdistill.stream`: a file as long as asked, prompts at their seconds, streams that go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import SIZE, captions

import vdistill
from vdistill.app.about import About
from vdistill.app.causal_file import Saved
from vdistill.app.cli import main
from vdistill.core.errors import UserError
from vdistill.data.media import read_video
from vdistill.families.tiny import TinyFamily

SAID = Saved(block=1, window=4, sink=1, rope="relative")


def model(folder: Path, seed: int = 0, said: Saved | None = SAID, times: tuple[float, ...] | None = (1.0, 0.7)) -> Path:
    """A causal student of random weights."""
    family = TinyFamily.build(replace(SIZE, predicts="flow"), captions(), seed)
    family.save(family.net, folder, times)
    About(frames=5, height=16, width=16).write(folder)
    if said is not None:
        replace(said, times=times).write(folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("model") / "student")


def stream(*words: object) -> int:
    return main(["stream", *map(str, words)])


def test_a_stream_is_as_long_as_asked(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "a.mp4"
    assert stream(student, "--prompt", "a red square", "--seconds", 3, "--out", out) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out) and "3.0 s of video" in told.err
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["frames"] for row in rows] == [1, 4, 4, 4, 4, 4, 3]
    assert read_video(out, 8).shape[1] == 24


def test_prompts_come_at_their_seconds(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.mp4"
    cues = ["--switch", "1.125:a blue circle", "--switch", "2:a green cross", "--how", "keep"]
    assert stream(student, "--prompt", "a red square", "--seconds", 3, "--out", out, *cues) == 0
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["prompt"].split()[1] for row in rows] == ["red", "red", "red", "blue", "blue", "green", "green"]
    assert "'a green cross' begins at 2.12 s, with a block, and not at 2 s" in capsys.readouterr().err


def test_a_stream_goes_on_from_its_snapshot(student: Path, tmp_path: Path) -> None:
    whole = vdistill.stream(student, "a red square moves left", seed=5)
    first = [next(whole) for _ in range(4)]
    whole.keep(tmp_path / "kept.safetensors")
    rest = torch.cat([next(whole) for _ in range(3)], 2)
    again = vdistill.stream(student, None, resume=tmp_path / "kept.safetensors")
    assert again.prompt == "a red square moves left"
    assert torch.equal(torch.cat([next(again) for _ in range(3)], 2), rest)
    assert torch.cat(first, 2).shape == (1, 3, 13, 16, 16)


def test_a_picture_begins_a_stream(student: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    live = vdistill.stream(student, "a red square", image=tmp_path / "red.png")
    shown = next(live)
    assert shown.shape[2] == 1 and torch.allclose(shown[0, 0], torch.tensor(200 / 127.5 - 1), atol=0.02)
    assert next(live).shape[2] == 4


def test_a_video_is_painted_over(student: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.mp4"
    assert stream(student, "--prompt", "a red square", "--seconds", 1, "--out", out) == 0
    made = {s: next(vdistill.stream(student, "a red square", edit=out, strength=s, seed=5)) for s in (0.01, 1.0)}
    source = read_video(out, 8)[:, :1, ::16, ::16]
    assert (made[0.01][0] - source).abs().mean() < (made[1.0][0] - source).abs().mean()


def test_a_causal_teacher_streams_under_guidance(tmp_path: Path) -> None:
    teacher = model(tmp_path / "teacher", times=None)
    a = next(vdistill.stream(teacher, "a red square", steps=3, guidance=1.0))
    b = next(vdistill.stream(teacher, "a red square", steps=3, guidance=4.0))
    assert a.shape == b.shape and (a - b).abs().max() > 1e-4


def test_public_weights_stream_by_their_preset(student: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from vdistill.families.wan_keys import to_original

    other = TinyFamily.build(replace(SIZE, predicts="flow"), captions(), 9)
    weights = {f"model.{to_original(k)}": v.contiguous() for k, v in other.pipe.transformer.state_dict().items()}
    save_file(weights, tmp_path / "public.safetensors")
    base = model(tmp_path / "base", said=None, times=None)
    how = {"preset": "causal_forcing_frame", "weights": tmp_path / "public.safetensors"}
    live = vdistill.stream(base, "a red square", **how)
    assert [next(live).shape[2] for _ in range(3)] == [1, 4, 4]
    own = live.family.pipe.transformer.state_dict()
    assert all(torch.equal(own[k], v) for k, v in other.pipe.transformer.state_dict().items())
    assert live.stream.plan.times == pytest.approx((1.0, 0.9375, 5 / 6, 0.625))


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert stream(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--window", 0], "smaller than a block"),
        (["--sink", 4], "do not fit in a window of 4"),
        (["--switch", "3"], "expected SECONDS:TEXT"),
        (["--switch", "2:a", "--switch", "2.0:b"], "two prompts at second 2"),
        (["--seconds", "-1"], "--seconds"),
        (["--strength", "0"], "--strength"),
        (["--preset", "self_forcing"], "needs both"),
        (["--resume", "gone.safetensors"], "no such snapshot"),
        (["--image", "gone.png"], "no readable picture"),
        (["--size", "15x16"], "15x16"),
        (["--steps", "9"], "takes 2 steps, found 9"),
        (["--guidance", "3"], "without guidance"),
        (["--device", "tpu"], "no device 'tpu'"),
        (["--snapshot", "."], "is a folder"),
        (["--switch", "5:" + "a red square " * 40], "tokens"),
    ],
)
def test_a_mistake_is_one_line(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[object], says: str
) -> None:
    assert says in refused(capsys, student, "--prompt", "a red square", "--out", tmp_path / "a.mp4", *words)
    assert not (tmp_path / "a.mp4").exists()


def test_a_model_that_sees_its_whole_clip_does_not_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model(tmp_path / "whole", said=None)
    assert "does not stream" in refused(capsys, folder, "--prompt", "x", "--out", tmp_path / "a.mp4")


def test_a_snapshot_of_another_stream_is_refused(student: Path, tmp_path: Path) -> None:
    other = model(tmp_path / "other", seed=1)
    live = vdistill.stream(student, "a red square")
    next(live)
    live.keep(tmp_path / "s.safetensors")
    with pytest.raises(UserError, match="is a snapshot of another model"):
        vdistill.stream(other, None, resume=tmp_path / "s.safetensors")
    with pytest.raises(UserError, match="other blocks, times or window"):
        vdistill.stream(student, None, resume=tmp_path / "s.safetensors", window=3)
    (tmp_path / "s.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:300])
    with pytest.raises(UserError, match="is damaged"):
        vdistill.stream(student, None, resume=tmp_path / "s.safetensors")


def test_a_damaged_description_is_one_line(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model(tmp_path / "damaged")
    (folder / "causal.json").write_text('{"blocks": 3}')
    assert "unknown key 'blocks'" in refused(capsys, folder, "--prompt", "x", "--out", tmp_path / "a.mp4")


def test_an_export_still_streams_and_says_how_it_was_trained(student: Path, tmp_path: Path) -> None:
    assert main(["export", str(student), str(tmp_path / "out")]) == 0
    assert "block by block" in (tmp_path / "out" / "README.md").read_text()
    a, b = (next(vdistill.stream(model, "a red square")) for model in (student, tmp_path / "out"))
    assert torch.equal(a, b)


def test_what_was_cut_off_a_stream_is_the_beginning_of_the_next(student: Path, tmp_path: Path) -> None:
    ask = [student, "--prompt", "a red square", "--seed", 5, "--out", tmp_path / "a.mp4", "--seconds"]
    kept = tmp_path / "kept.safetensors"
    assert stream(*ask, 1, "--snapshot", kept) == 0  # 8 frames: three of the last chunk are left
    whole = vdistill.stream(str(student), "a red square", seed=5)
    frames = torch.cat([next(whole) for _ in range(4)], 2)
    again = vdistill.stream(str(student), resume=str(kept))
    assert torch.equal(torch.cat([next(again) for _ in range(3)], 2)[:, :, :5], frames[:, :, 8:13])
    again.keep(str(tmp_path / "again.safetensors"))
    assert vdistill.stream(str(student), resume=str(tmp_path / "again.safetensors")).waiting is None


def test_an_interrupted_stream_is_whole(student: Path, tmp_path: Path) -> None:
    import signal
    import threading

    out, kept = tmp_path / "a.mp4", tmp_path / "kept.safetensors"
    threading.Timer(1.5, signal.raise_signal, (signal.SIGINT,)).start()
    assert (
        stream(student, "--prompt", "a red square", "--seed", 5, "--seconds", 0, "--out", out, "--snapshot", kept) == 0
    )
    frames = read_video(out, 8).shape[1]
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert frames == sum(row["frames"] for row in rows) == 1 + 4 * (len(rows) - 1)
    assert vdistill.stream(student, resume=kept).stream.number == len(rows)


def test_compiling_needs_a_compiler(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    said = refused(capsys, student, "--prompt", "a red square", "--compile", "--out", tmp_path / "a.mp4")
    assert "needs a compiler: $CXX or one of g++" in said and "leave --compile out" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_a_compiled_stream_is_the_same(student: Path) -> None:
    plain, compiled = (vdistill.stream(student, "a red square", compile=way) for way in (False, True))
    for _ in range(4):
        torch.testing.assert_close(next(compiled), next(plain), rtol=0, atol=1e-5)
