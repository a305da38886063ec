"""Sound tracks: what is read of good files, and what is said of others."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from sounds import cut_short, tone, write_sound

from vdistill.core.errors import BadMedia
from vdistill.data.sound import RATE, checked, read_sound, resample


def inner(a: torch.Tensor, b: np.ndarray) -> float:
    """Largest difference apart from a tenth of a second at either end."""
    return float((a - torch.from_numpy(b)).abs()[1600:-1600].max())


def test_sixteen_kilohertz_mono_comes_as_it_is(tmp_path: Path) -> None:
    sound = tone(0.5, RATE)
    read = read_sound(write_sound(tmp_path / "a.wav", sound, RATE))
    assert torch.equal(read.samples, torch.from_numpy(sound))
    assert read.remarks == () and read.source == (RATE, 1) and read.seconds == 0.5


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_become_sixteen_kilohertz_in_place(tmp_path: Path, rate: int) -> None:
    read = read_sound(write_sound(tmp_path / "a.wav", tone(1.0, rate), rate))
    assert len(read.samples) == RATE and read.source == (rate, 1)
    assert inner(read.samples, tone(1.0, RATE)) < 0.003


def test_a_click_stays_where_it_was() -> None:
    struck = np.zeros(48_000, np.float32)
    struck[24_000] = 1
    assert int(np.abs(resample(struck, 48_000)).argmax()) == 8_000


def test_what_sixteen_kilohertz_cannot_hold_is_gone_and_not_folded() -> None:
    assert float(np.abs(resample(tone(0.5, 48_000, 11_000.0), 48_000)[800:-800]).max()) < 0.002


@pytest.mark.slow
def test_librosa_resamples_to_the_same(tmp_path: Path) -> None:
    librosa = pytest.importorskip("librosa")
    noise = np.random.default_rng(0).standard_normal(48_000).astype(np.float32) * 0.1
    noise = librosa.resample(noise, orig_sr=8_000, target_sr=48_000)[:48_000]  # speech has little above 4 kHz
    ours, theirs = resample(noise, 48_000), librosa.resample(noise, orig_sr=48_000, target_sr=16_000)
    error = (ours - theirs)[500:-500]
    assert 10 * np.log10(np.mean(theirs**2) / np.mean(error**2)) > 50
    heard, _ = librosa.load(write_sound(tmp_path / "s.wav", np.stack([noise, 0 * noise]), 48_000), sr=None, mono=True)
    assert float(np.abs(heard - noise / 2).max()) < 1e-7


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.2, RATE), tone(0.2, RATE, 660.0)
    read = read_sound(write_sound(tmp_path / "a.wav", np.stack([left, right]), RATE))
    assert torch.equal(read.samples, torch.from_numpy((left + right) / 2)) and read.source == (RATE, 2)


def test_whole_numbers_are_read_as_shares_of_full_scale(tmp_path: Path) -> None:
    for width, values in ((1, np.array([0, 128, 192], np.uint8)), (2, np.array([-(2**15), 0, 2**14], np.int16))):
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(width)
            file.setframerate(RATE)
            file.writeframes(np.tile(values, 100).tobytes())
        assert set((checked(read_sound(tmp_path / "a.wav").samples).samples * 4).round().tolist()) <= {
            -3,
            1,
            3,
            -4,
            0,
            2,
        }


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.flac", "flac"), ("a.m4a", "aac"), ("a.mp3", "libmp3lame"), ("a.ogg", "libopus"), ("a.mkv", "aac")],
)
def test_packed_sound_of_any_kind_is_read_in_place(tmp_path: Path, name: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else 44_100
    if codec != "flac":
        write_sound(tmp_path / name, tone(1.0, rate), rate, codec)
    else:  # of whole numbers only
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=44_100, layout="mono")
            frame = av.AudioFrame.from_ndarray((tone(1.0, 44_100)[None] * 32767).astype(np.int16), "s16", "mono")
            frame.sample_rate = 44_100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    read = read_sound(tmp_path / name)
    assert abs(read.seconds - 1.0) < 0.06
    assert inner(read.samples[:16_000], tone(1.0, RATE)[: len(read.samples)]) < 0.05


def test_sound_that_begins_late_is_placed_by_the_clock_of_the_picture(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", tone(0.5, RATE), RATE, "pcm_s16le", late=0.25)
    assert abs(read_sound(path).seconds - 0.5) < 0.01
    very = write_sound(tmp_path / "b.mkv", tone(0.5), late=3.0)
    assert abs(read_sound(very).seconds - 0.5) < 0.01 and abs(read_sound(very, begin=Fraction(0)).seconds - 3.5) < 0.01
    with pytest.raises(BadMedia, match="100000 s of sound is longer than 600 s"):  # and no such silence is made
        read_sound(write_sound(tmp_path / "c.mkv", tone(0.5), late=100_000.0), begin=Fraction(0))
    late = read_sound(path, begin=Fraction(0))
    assert abs(late.seconds - 0.75) < 0.01 and not late.samples[:3900].any()
    early = read_sound(path, begin=Fraction(1, 2))
    assert (
        abs(early.seconds - 0.25) < 0.01
        and inner(early.samples, tone(0.5, RATE)[4000 : 4000 + len(early.samples)]) < 0.01
    )


def test_silence_clipping_and_an_offset_are_remarked_upon() -> None:
    sound = torch.from_numpy(tone(0.5, RATE))
    assert checked(sound).remarks == ()
    assert [r.kind for r in checked(torch.zeros(640)).remarks] == ["silent"]
    clipped = checked((sound * 4).clamp(-1, 1))
    assert [r.kind for r in clipped.remarks] == ["clipped"] and "at full scale" in clipped.remarks[0].text
    moved = checked(sound + 0.1)
    assert [r.kind for r in moved.remarks] == ["offset"] and abs(float(moved.samples.mean())) < 1e-6
    assert [r.kind for r in checked(torch.full((640,), 0.3)).remarks] == ["offset", "silent"]


def bad(path: Path) -> str:
    with pytest.raises(BadMedia) as caught:
        read_sound(path, seconds=60)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_sounds_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "no such file" in bad(tmp_path / "none.wav")
    (tmp_path / "empty.wav").write_bytes(b"")
    assert "is empty" in bad(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_bytes(b"these are words" * 99)
    assert "cannot be decoded" in bad(tmp_path / "text.wav")
    nan = tone(0.1, RATE)
    nan[7] = np.nan
    assert "1 of 1600 samples are not finite" in bad(write_sound(tmp_path / "nan.wav", nan, RATE))
    assert "truncated: 0.50 s of 1.00 s" in bad(
        cut_short(write_sound(tmp_path / "cut.wav", tone(1.0, RATE), RATE), 0.5)
    )
    assert "truncated" in bad(cut_short(write_sound(tmp_path / "cut.mkv", tone(5.0, RATE), RATE, "pcm_s16le"), 0.5))
    assert "3600 s of sound is longer than 60 s" in bad(hour(tmp_path / "hour.wav"))
    assert "192000 Hz is not between 8 and 96 kHz" in bad(
        write_sound(tmp_path / "fast.wav", tone(0.1, 192_000), 192_000)
    )
    (tmp_path / "none.wav").mkdir()
    assert "no such file" in bad(tmp_path / "none.wav")


def test_a_video_without_a_sound_track_says_so(real: dict[str, Path]) -> None:
    assert "has a picture but no sound track; name a file with speech" in bad(real["phone"])


def test_a_video_with_a_sound_track_is_as_good_as_a_sound(real: dict[str, Path]) -> None:
    assert read_sound(real["bunny"]).seconds > 5


def hour(path: Path) -> Path:
    """An hour of silence."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        file.writeframes(bytes([128]) * 8_000 * 3600)
    return path
