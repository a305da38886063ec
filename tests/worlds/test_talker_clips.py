"""Clips of the `talker` world: splits, windows, films."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.data.buckets import Bucket
from vdistill.data.talking import survey
from vdistill.data.talking_check import TalkRule
from vdistill.worlds.talker import export, speech
from vdistill.worlds.talker import sound as wave
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.duo import Duo
from vdistill.worlds.talker.talker import SPLITS, Talker

EVERY_FAULT_BUT_CODECS = {"desync": 1.0, "hiss": 1.0, "crop": 1.0, "drops": 1.0}


def same(a: Clip, b: Clip, atol: float = 0.0) -> bool:
    """Equal in everything, pixels and masks up to `atol`."""
    for field in fields(Clip):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name == "masks":
            if not all(torch.allclose(x[k], y[k], rtol=0, atol=max(atol, 0.17 if atol else 0)) for k in x):
                return False
        elif isinstance(x, Tensor):
            if x.shape != y.shape or not torch.allclose(x, y, rtol=0, atol=atol):
                return False
        elif field.name != "phonemes" and x != y:
            return False
        elif field.name == "phonemes" and [p for *_, p in x] != [p for *_, p in y]:
            return False
    return True


@pytest.mark.parametrize("split", ["hq", "mq", "seen", "open", "voice", "bad"])
def test_a_clip_follows_from_split_seed_and_index(split: str) -> None:
    clip = Talker(split, 16, 9).clip(6)
    assert same(clip, Talker(split, 16, 9).clip(6))
    assert not torch.equal(clip.frames, Talker(split, 16, 9, seed=1).clip(6).frames)
    assert not torch.equal(clip.frames, Talker(split, 16, 9).clip(7).frames)
    assert (
        clip.frames.shape == (3, 9, 16, 16) and clip.sound.shape == (9 * 640,) and clip.reference.shape == (3, 16, 16)
    )
    assert clip.mouth.shape == (9, 6) and clip.pose.shape == clip.box.shape == (9, 4) and clip.blink.shape == (9,)
    assert {m.shape for m in clip.masks.values()} == {(9, 16, 16)} and set(clip.masks) == {"face", "lip", "person"}
    assert (clip.damage is None) == (split in ("hq", "seen", "open", "voice"))
    json.dumps(clip.damage)


def test_seen_people_are_those_of_training_and_open_ones_are_not() -> None:
    trained = {tuple(Talker("hq", seed=s).who(i)[1].face.tolist()) for s in (0, 1) for i in range(300)}
    assert len(trained) == 48
    assert {tuple(Talker("seen").who(i)[1].face.tolist()) for i in range(100)} <= trained
    for split in ("open", "voice", "long", "mq"):
        faces = {tuple(Talker(split).who(i)[1].face.tolist()) for i in range(50)}
        assert len(faces) == 50 and not faces & trained


def test_held_out_voices_are_heard_in_one_split_only() -> None:
    voices = {split: {Talker(split).who(i)[1].voice for i in range(60)} for split in SPLITS}
    assert voices["voice"] == set(speech.voices("voice"))
    assert all(not found & voices["voice"] for split, found in voices.items() if split != "voice")


def test_a_reference_shows_the_person_in_another_pose() -> None:
    clip = Talker("hq", 32, 25).clip(3)
    away = (clip.frames - clip.reference[:, None]).abs().mean((0, 2, 3))
    stranger = (clip.frames - Talker("hq", 32, 25).clip(4).reference[:, None]).abs().mean()
    assert float(away.min()) > 1e-3 and float(away.max()) < float(stranger)


def test_a_window_is_what_the_clip_shows_then() -> None:
    whole = Talker("hq", 16, 30).clip(2)
    part = whole.window(8, 9)
    assert torch.equal(part.frames, whole.frames[:, 8:17]) and torch.equal(part.sound, whole.sound[640 * 8 : 640 * 17])
    assert torch.equal(part.mouth, whole.mouth[8:17]) and torch.equal(part.masks["lip"], whole.masks["lip"][8:17])
    assert part.phonemes[0][0] == 0 and part.phonemes[-1][1] == pytest.approx(9 / 25)
    middle = next(p for a, b, p in whole.phonemes if a <= 0.5 < b)
    assert middle == next(p for a, b, p in part.phonemes if a <= 0.5 - 0.32 < b)


def test_a_long_clip_lasts_a_minute_and_speaks_to_the_end() -> None:
    world = Talker("long", 16)
    act, start = world.performance(0)
    assert world.length == 1500 and start + 1500 <= len(act.mouth)
    opening = act.mouth[start : start + 1500, 0].reshape(15, 100)
    assert float(opening.amax(1).min()) > 0.4
    assert float((act.pose[:, :2]).abs().max()) < 0.08


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"split": "hd"}, "no split 'hd'; there are hq, mq"),
        ({"size": 33}, "49 frames of 33 pixels"),
        ({"frames": 0}, "0 frames of 64 pixels"),
        ({"split": "voice", "speech": "espeak"}, "split 'voice' has speech of its own"),
        ({"damage": {"rust": 0.1}}, "no fault 'rust'; there are babble"),
        ({"damage": {"blur": 1.5}}, "talker.damage.blur: 1.5 is no probability"),
        ({"damage": {"desync": 0.7, "wrong": 0.7}}, "exclude each other"),
    ],
)
def test_a_world_that_cannot_be_is_refused_in_one_line(kwargs: dict, said: str) -> None:
    with pytest.raises(UserError) as error:
        Talker(**kwargs)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_films_have_every_frame_and_their_sound_in_time(tmp_path: Path) -> None:
    clip = Talker("mq", 32, 50, damage=EVERY_FAULT_BUT_CODECS).clip(0)
    (line,) = export.write([clip], tmp_path, "mq")
    assert json.loads((tmp_path / "manifest.jsonl").read_text()) == json.loads(json.dumps(line))
    with av.open(str(tmp_path / str(line["video"]))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 50 and container.streams.video[0].average_rate == 25
    exact = wave.decode(tmp_path / str(line["audio"]))
    assert torch.allclose(exact, clip.sound, atol=1e-4) and line["quality"] == "mq" and line["end"] == 2.0
    film = wave.fit(wave.decode(tmp_path / str(line["video"])), len(exact))
    n = 2 * len(exact)
    lag = int(torch.fft.irfft(torch.fft.rfft(exact, n).conj() * torch.fft.rfft(film, n), n).argmax())
    assert min(lag, n - lag) < 80
    with np.load(tmp_path / str(line["masks"])) as kept:
        assert np.allclose(kept["bbox"], clip.box, atol=1e-4)
        assert np.abs(kept["lip"] / 255 - clip.masks["lip"].numpy()).max() < 0.003


def test_films_of_one_and_of_two_are_fit_for_the_loader_of_real_clips(tmp_path: Path) -> None:
    export.write([Talker("hq", 32, 30).clip(i) for i in (0, 1)], tmp_path / "one", "train")
    rule = TalkRule(frames=17, stride=17, shape=Bucket(32, 32), masks=("face", "lip"))
    found = survey(tmp_path / "one" / "manifest.jsonl", rule)
    assert [each.count for each in found.items] == [30, 30] and found.bad == ()
    assert all(not each.remarks for each in found.items)
    export.write([Duo(32, 30).clip(0)], tmp_path / "two", "train")
    found = survey(tmp_path / "two" / "manifest.jsonl", TalkRule(frames=17, stride=17, shape=Bucket(64, 32)))
    assert found.bad == () and [each.id for each in found.items[0].item.speakers] == ["0", "1"]
