"""`vdistill talk`: as many frames as the sound has, with the sound; the same whatever the pieces; errors in a line."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file, save_file
from talkers import model, write_sound
from torch import Tensor
from torch.nn.functional import conv1d

import vdistill
from vdistill.app import cli
from vdistill.app.models import open_model
from vdistill.app.speaker import Speaker, session_of, speaker_of
from vdistill.avatar.rates import SAMPLES
from vdistill.avatar.session import Session
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.data.encode import png
from vdistill.data.sound import read_sound
from vdistill.eval.aperture import aperture
from vdistill.eval.sync import pearson
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.talker import Talker


@cache
def clip() -> Clip:
    return Talker("open", 32, 49, 1).clip(3)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """--image and --audio of a clip."""
    model()  # its making is heard on stderr
    face, sound = tmp_path / "face.png", tmp_path / "speech.wav"
    face.write_bytes(png(clip().reference, 1))
    write_sound(sound, clip().sound)
    return ["--image", str(face), "--audio", str(sound)]


def spoken(pieces: int, **how: int) -> Tensor:
    family = open_model(model())
    speaker = speaker_of(family, clip().reference, 9, "a person speaks", scales={"audio": 2.0}, begins=2, steps=2)
    session, made = session_of(speaker, **how), []
    for piece in clip().sound.split(pieces):
        made += session.push(piece)
    return torch.cat([chunk.frames for chunk in made + session.finish()], 1)


@pytest.mark.parametrize("how", [{}, {"block": 1, "back": 1}])
def test_a_model_says_the_same_whatever_the_pieces(how: dict[str, int]) -> None:
    whole = spoken(1 << 20, **how)
    assert whole.shape == (3, 49, 32, 32) and whole.isfinite().all()
    assert torch.equal(spoken(777, **how), whole)


@pytest.mark.parametrize(("back", "level"), [(None, 0.0), (2, 0.0), (None, 0.2)])
def test_a_block_begins_with_the_frames_before_it(back: int | None, level: float) -> None:
    """What the network is shown of its past is what it made, to the bit, or just that under noise of the level."""
    family = open_model(model())
    speaker = speaker_of(family, clip().reference, 9, "a person speaks", scales={}, begins=2, level=level, steps=1)
    seen: list[Tensor] = []
    inner = family.net.x0

    def watch(x: Tensor, t: Tensor, cond: object, **how: object) -> Tensor:
        seen.append(x)
        return inner(x, t, cond, **how)  # type: ignore[arg-type]

    family.net.x0 = watch  # type: ignore[method-assign]
    session = session_of(speaker, back=back)
    made = torch.cat([c.frames for c in session.push(clip().sound) + session.finish()], 1)
    given = family.codec.encode(made[None, :, 9 - (1 if back is None else 5) : 9])
    if level:
        eps = Rng(0, turn="talk/3").normal("begin/eps", given.shape)
        given = family.net.schedule.noise(given, eps, torch.full((1,), level, dtype=torch.float64))
    assert torch.equal(seen[1][:, :, : back or 1], given)


def test_a_file_has_the_frames_of_the_sound_and_the_sound_in_time(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "talk.mp4"
    assert cli.main(["talk", str(model()), *files, "--out", str(out)]) == 0
    with av.open(str(out)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert video.frames == 49 and video.average_rate == 25
        assert abs(float(audio.duration * audio.time_base) - 49 / 25) < 0.03
    heard = read_sound(out).samples
    lag = conv1d(heard[None, None, :30000], clip().sound[None, None, 2000:26000]).argmax().item() - 2000
    assert abs(lag) < SAMPLES / 8  # 5 ms
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["frames"] == 49 and told["passes"] == 3 * 3 * 6  # steps, passes, blocks


def test_a_session_of_the_library_makes_what_the_command_makes(files: list[str], tmp_path: Path) -> None:
    whole = spoken(1 << 20)
    session = vdistill.talk_session(model(), files[1], steps=2, audio_scale=2.0, ref_scale=1.0)
    made = torch.cat([c.frames for c in session.push(clip().sound) + session.finish()], 1)
    assert (made - whole).abs().max() < 0.05  # the picture of the file has bytes
    with pytest.raises(UserError, match="no option 'scale'"):
        vdistill.talk_session(model(), files[1], scale=2.0)


@pytest.mark.parametrize("cut", [0, 700, 20_000])
def test_a_session_that_is_kept_goes_on_to_the_bit(cut: int, tmp_path: Path) -> None:
    def begun(face: Tensor = clip().reference, steps: int = 1) -> Session:
        speaker = speaker_of(open_model(model()), face, 9, "a person speaks", scales={}, begins=2, steps=steps)
        return session_of(speaker)

    sound, first = clip().sound, begun()
    first.push(sound[:cut])
    save_file(first.state(), tmp_path / "kept.safetensors")
    kept = load_file(tmp_path / "kept.safetensors")
    rest = torch.cat([c.frames for c in first.push(sound[cut:]) + first.finish()], 1)
    other = begun(clip().reference.flip(2))  # another face, of which nothing stays
    other.push(sound[:9000])
    other.restore(kept)
    assert torch.equal(torch.cat([c.frames for c in other.push(sound[cut:]) + other.finish()], 1), rest)
    again = begun()
    again.restore(first.state())
    with pytest.raises(UserError, match="this session is finished"):
        again.push(sound)
    with pytest.raises(UserError, match="session state: is of steps 1, this session has 2"):
        begun(steps=2).restore(kept)
    rough = begun()
    assert isinstance(rough.make, Speaker)
    rough.make.level = 0.2
    with pytest.raises(UserError, match=r"session state: is of level 0, this session has 0\.2"):
        rough.restore(kept)
    large = begun(torch.zeros(3, 64, 64))
    with pytest.raises(UserError, match="is of pixels 32x32, this session has 64x64"):
        large.restore(kept)
    assert large.push(sound[:20_000])[0].frames.shape[-1] == 64
    with pytest.raises(UserError, match="is not the state of a session"):
        begun().restore({})


def test_a_session_of_another_model_is_not_gone_on_with() -> None:
    family = open_model(model())
    one, two = (session_of(speaker_of(family, clip().reference, 9, "hi", scales={}, steps=1)) for _ in range(2))
    kept = one.state()
    two.restore(kept)
    next(iter(family.net.parameters())).data.view(-1)[0] += 1
    with pytest.raises(UserError, match="session state: is of another model"):
        two.restore(kept)


def test_options_take_the_place_of_the_models_own(files: list[str], tmp_path: Path) -> None:
    out = tmp_path / "talk.mp4"
    more = ["--audio-scale", "1", "--ref-scale", "1", "--steps", "2", "--block", "1"]
    assert cli.main(["talk", "--student", str(model()), *files, *more, "--out", str(out)]) == 0
    assert json.loads(out.with_suffix(".json").read_text())["passes"] == 2 * 11


def test_a_model_that_was_not_trained_to_go_on_is_drawn_on(files: list[str], tmp_path: Path) -> None:
    assert cli.main(["talk", str(model(0)), *files, "--steps", "1", "--out", str(tmp_path / "talk.mp4")]) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "x.gif"], "x.gif: is no name of an .mp4 file"),
        (["--box", "1,2"], "--box: expected X0,Y0,X1,Y1"),
        (["--box", "5,5,4,9"], "face.png: "),
        (["--block", "3"], "session: 3 positions after 1 of the past, in clips of 3"),
        (["--audio-scale", "nan"], "--audio-scale"),
        (["--steps", "0"], "--steps"),
        (["--audio", "nothing.wav"], "nothing.wav: no such file"),
        (["--image", "nothing.png"], "nothing.png: no such file"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: list[str], says: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in options else ["--out", str(tmp_path / "talk.mp4")]
    assert cli.main(["talk", str(model()), *files, *options, *out]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and error.count("\n") == 0
    assert not (tmp_path / "talk.mp4").exists()


def test_a_few_step_student_without_scales_talks_unasked_for_any(files: list[str], tmp_path: Path) -> None:
    """What its clips were validated under in training is the teacher's."""
    config, run = tmp_path / "student.yaml", tmp_path / "run"
    config.write_text(f"""
name: student
family: {{name: tiny, path: {model()}, size: 32, frames: 9}}
data: {{name: talker, takes: 1, take: 17}}
method: {{name: dmd2, steps: 1, critic_per_student: 1, guidance: {{kind: chain, scales: {{ref: 1.5, audio: 2.0}}}}}}
train: {{steps: 1, batch: 1}}
validation: {{scales: {{ref: 1.5, audio: 2.0}}}}
""")
    assert cli.main(["train", str(config), "--out", str(run)]) == 0
    assert cli.main(["talk", str(run), *files, "--out", str(tmp_path / "talk.mp4")]) == 0


def test_one_model_is_named(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["talk", "a", "--student", "b", *files]) == 2
    assert "talk: two models, a and b; name one" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_talker_says_what_it_hears(tmp_path: Path) -> None:
    """Somebody it never saw, a sentence it never heard: its mouth opens with the true one's, at least as 0.6."""
    said = Talker("open", 64, 49, 1).clip(3)
    face, sound = tmp_path / "face.png", tmp_path / "speech.wav"
    face.write_bytes(png(said.reference, 1))
    write_sound(sound, said.sound)
    session = vdistill.talk_session("talker", face, steps=8)
    made = torch.cat([c.frames for c in session.push(said.sound) + session.finish()], 1)
    assert pearson(aperture(made[None]), said.mouth[None, :, 0]).item() > 0.6


def test_a_model_that_does_not_hear_is_refused(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["talk", "shapes", *files]) == 2
    assert "this model does not hear" in capsys.readouterr().err


def test_sound_shorter_than_a_frame_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sound(tmp_path / "short.wav", torch.full((600,), 0.1))
    options = [*files[:2], "--audio", str(tmp_path / "short.wav"), "--out", str(tmp_path / "a.mp4")]
    assert cli.main(["talk", str(model()), *options]) == 2
    assert "lasts 0.037 s, less than one frame" in capsys.readouterr().err


def test_a_run_and_its_export_say_how_it_talks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run = Path(__file__).resolve().parents[2] / "configs/avatar/talker_teacher_tiny.yaml", tmp_path / "run"
    quick = ["train.steps=1", "train.batch=1", "data.takes=1"]
    assert cli.main(["train", str(config), "--out", str(run), *quick]) == 0
    assert f"next: vdistill talk {run} --image" in capsys.readouterr().err
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"vdistill talk {tmp_path / 'out'} --image" in card and "from_pretrained" not in card
