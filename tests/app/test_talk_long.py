"""Long sounds at once, in windows, and sounds that are piped in: what a session makes, where it can be compared."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import av
import numpy as np
import pytest
import torch
from sounds import write_sound
from torch import Tensor
from torch.nn.functional import conv1d

from vdistill.app import cli
from vdistill.app import config as configs
from vdistill.app.about import About
from vdistill.app.build_family import make_family
from vdistill.app.models import open_model
from vdistill.app.speaker import Speaker, session_of, speaker_of
from vdistill.app.talk_live import Live, latency, pcm
from vdistill.app.talk_windows import checked, heard_whole, in_windows
from vdistill.avatar.rates import SAMPLES
from vdistill.avatar.session import Meter
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.data.encode import png
from vdistill.data.sound import read_sound
from vdistill.families.stock import StockFamily
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.talker import Talker

ROOT = Path(__file__).resolve().parents[2]


@cache
def model() -> Path:
    """A folder of an untrained model that hears, its outputs not all one."""
    folder = Path(mkdtemp()) / "model"
    family = make_family(configs.load(ROOT / "configs/avatar/talker_teacher_tiny.yaml"))
    assert isinstance(family, StockFamily)
    for i, (name, p) in enumerate(sorted(family.net.named_parameters())):
        if not p.any():
            p.data = 0.02 * Rng(i).normal(name, p.shape)
    family.save(family.net, folder)
    About(9, 32, 32, steps=2, scales={"audio": 2.0}).write(folder)
    return folder


@cache
def clip() -> Clip:
    return Talker("open", 32, 49, 1).clip(3)


def speaker(frames: int = 9) -> Speaker:
    family = open_model(model())
    return speaker_of(family, clip().reference, frames, "a person speaks", scales={"audio": 2.0}, steps=2)


def windows(one: Speaker, sound: Tensor) -> Tensor:
    cond, frames = heard_whole(one, sound)
    return torch.cat([*in_windows(one, cond, frames, Meter(0.0))], 1)


def by_session(one: Speaker, sound: Tensor) -> Tensor:
    session = session_of(one)
    return torch.cat([chunk.frames for chunk in session.push(sound) + session.finish()], 1)


@dataclass(frozen=True)
class Mouth:
    """A network that shows what it hears: of each position the mean of its sound, everywhere."""

    schedule: Schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return cond.along["audio"].mean((2, 3))[:, None, :, None, None].expand_as(x)


@pytest.mark.parametrize("frames", [9, 7])
def test_a_sound_no_longer_than_a_clip_is_what_a_session_makes(frames: int) -> None:
    sound = clip().sound[: frames * SAMPLES + 11]
    assert torch.equal(windows(speaker(), sound), by_session(speaker(), sound))


@pytest.mark.parametrize("frames", [49, 46, 10])
def test_every_position_shows_its_own_sound_whatever_windows_see_it(frames: int) -> None:
    """To the bit what a clip as long as the sound would show: in sync everywhere, also at the seams."""
    sound = clip().sound[: frames * SAMPLES]
    one, long = speaker(9), speaker(49)
    one, long = (replace(s, net=Mouth(s.family.net.schedule)) for s in (one, long))
    made = windows(one, sound)
    assert made.shape == (3, frames, 32, 32)
    assert torch.equal(made, by_session(long, sound))
    assert all(not torch.equal(made[:, 4 * i], made[:, 4 * i + 4]) for i in range((frames - 1) // 4))


def test_a_real_network_is_asked_in_windows_and_changes_with_its_sound_alone() -> None:
    sound = clip().sound
    other = torch.cat([sound[: 30 * SAMPLES], torch.zeros(19 * SAMPLES)])
    one, two = windows(speaker(), sound), windows(speaker(), other)
    assert one.shape == (3, 49, 32, 32) and one.isfinite().all()
    assert torch.equal(one[:, :9], two[:, :9])  # out of reach of what changed, in two steps
    assert not torch.equal(one[:, 30:], two[:, 30:])


def test_too_much_sound_to_hold_is_refused() -> None:
    with pytest.raises(UserError, match=r"301 s of sound are not held at once.*--long blocks"):
        checked(speaker(), 301 * 25)


# -- piped in --------------------------------------------------------------------------------------------------------


class Trickle(io.RawIOBase):
    """Bytes that come in pieces of given sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes = data, sizes

    def read(self, size: int = -1) -> bytes:
        count = min(self.sizes[0], size)
        self.sizes = [*self.sizes[1:], self.sizes[0]]
        part, self.data = self.data[:count], self.data[count:]
        return part


def raw(sound: Tensor) -> bytes:
    return (sound.clamp(-1, 1) * 32767).round().numpy().astype("<i2").tobytes()


def test_samples_come_whole_whatever_the_reads() -> None:
    data = raw(clip().sound[:5000])
    pieces = [*pcm(Trickle(data + b"\0", [1, 3, 700]))]
    expected = torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)
    assert torch.equal(torch.cat(pieces), expected)


def test_a_piped_sound_makes_the_frames_of_the_same_sound_from_a_file() -> None:
    data = raw(clip().sound)
    fed = Live(session_of(speaker()), Trickle(data, [1, 4000, 333]))
    heard: list[Tensor] = []

    def frames() -> Iterator[Tensor]:
        for part in fed:
            heard.append(fed.fresh())
            yield part

    made = torch.cat([*frames()], 1)
    sound = torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float32) / 32768)
    assert torch.equal(made, by_session(speaker(), sound))
    assert torch.equal(torch.cat([*heard, fed.fresh()]), sound)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"RIFF$\0\0\0WAVEfmt ", "is a file of kind WAV, raw samples are expected"),
        (b"\0\0\0\x1cftypisom", "is a file of kind MP4"),
        (b"", "ended after 0.000 s, less than one frame"),
        (raw(torch.zeros(600)), "ended after 0.037 s, less than one frame"),
    ],
)
def test_what_is_no_sound_is_one_line(data: bytes, says: str) -> None:
    with pytest.raises(UserError, match=says):
        [*Live(session_of(speaker()), Trickle(data, [5, 4000]))]


def test_the_meter_says_when_a_session_falls_behind() -> None:
    assert latency(Meter(0.24, [0.5, 0.5], 50)) == (
        "2.0 s: latency 740 ms (240 ms of sound and 500 ms of computing, p95), 2.00 x real time"
    )
    assert latency(Meter(0.24, [2.0, 2.0], 50)).endswith("0.50 x real time; too slow for live sound, "
                                                         "1.00 s later with every second")  # fmt: skip


def test_the_command_writes_a_film_out_of_a_pipe_with_its_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    face, out = tmp_path / "face.png", tmp_path / "talk.mp4"
    face.write_bytes(png(clip().reference, 1))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw(clip().sound))))
    given = ["talk", str(model()), "--image", str(face), "--audio", "-", "--audio-scale", "1", "--steps", "1"]
    assert cli.main([*given, "--out", str(out)]) == 0
    assert "2.0 s: latency " in capsys.readouterr().err
    with av.open(str(out)) as film:
        assert film.streams.video[0].frames == 49
        sound = film.streams.audio[0]
        assert abs(float(sound.duration * sound.time_base) - 49 / 25) < 0.03
    heard = read_sound(out).samples
    lag = conv1d(heard[None, None, :30000], clip().sound[None, None, 2000:26000]).argmax().item() - 2000
    assert abs(lag) < SAMPLES / 8  # 5 ms


def test_the_command_makes_a_long_sound_in_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    face, sound = tmp_path / "face.png", tmp_path / "speech.wav"
    face.write_bytes(png(clip().reference, 1))
    write_sound(sound, clip().sound.numpy())
    given = ["talk", str(model()), "--image", str(face), "--audio", str(sound), "--long", "windows"]
    assert cli.main([*given, "--steps", "2", "--out", str(tmp_path / "a.mp4")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == 49
    capsys.readouterr()
    for more, says in (
        (["--block", "1"], "--block: windows are as long as the model's clips"),
        (["--audio", "-"], "--long windows: a sound that is not over cannot be made at once"),
    ):
        assert cli.main([*given, *more, "--out", str(tmp_path / "b.mp4")]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "b.mp4").exists()
