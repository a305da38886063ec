"""Speech of the `talker` world: what is shipped, its phoneme times, and the engine when it is there."""

from __future__ import annotations

import ctypes.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.worlds.talker import espeak, speech, visemes
from vdistill.worlds.talker import sound as wave
from vdistill.worlds.talker.sentences import BALANCED, sentence

HALF_A_HUNDREDTH = 80  # samples: 5 ms


def lag(a: Tensor, b: Tensor) -> int:
    """By how many samples b comes after a, from the peak of their cross-correlation."""
    n = len(a) + len(b)
    found = int(torch.fft.irfft(torch.fft.rfft(a, n).conj() * torch.fft.rfft(b, n), n).argmax())
    return found if found < n // 2 else found - n


def clicks(rate: int) -> Tensor:
    """Two seconds of bursts of noise, at `rate` Hz."""
    t = torch.arange(2 * rate) / rate
    noise = torch.nn.functional.avg_pool1d(Rng(0).normal("noise", (1, 1, len(t) + 8)), 9, 1)[0, 0]
    return 0.5 * noise * (torch.sin(2 * torch.pi * 2.3 * t) > 0.6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_another_rate_moves_no_sound(rate: int) -> None:
    at_16 = wave.resample(clicks(rate), rate)
    there_and_back = wave.resample(wave.resample(at_16, 16000, 48000), 48000)
    assert len(at_16) == 32000
    assert abs(lag(at_16, there_and_back)) <= 1
    t = (torch.arange(32000) / 16000 * rate).long().clamp(max=2 * rate - 1)
    assert abs(lag(clicks(rate)[t], at_16)) <= 2


@pytest.mark.parametrize("name", ["x.ogg", "x.flac", "x.wav"])
def test_a_codec_moves_no_sound(name: str, tmp_path: Path) -> None:
    sound = clicks(16000)
    codec = {"x.ogg": "libopus", "x.flac": "flac", "x.wav": "pcm_s16le"}[name]
    wave.encode(sound, tmp_path / name, codec)
    again = wave.decode(tmp_path / name)
    assert abs(lag(sound, again)) < HALF_A_HUNDREDTH and len(again) >= len(sound)
    assert torch.equal(wave.decode((tmp_path / name).read_bytes()), again)


def test_shipped_speech_is_complete_and_small() -> None:
    rows = speech.index()
    assert len(rows) >= 240 and sum(row["part"] == "voice" for row in rows) == 40
    assert sum(f.stat().st_size for f in speech.ASSETS.iterdir()) <= 6e6
    for one in (s for voice in ("en", "en-us+f2") for part in ("train", "test") for s in speech.shipped(voice, part)):
        assert 0.2 < float(one.sound.abs().max()) <= 1 and one.sentences[0][1] == len(one.sound) / 16000
        assert all(a < b for a, b, _ in one.phonemes)
        ends = [0.0] + [b for _, b, _ in one.phonemes]
        assert [a for a, _, _ in one.phonemes] == ends[:-1] and ends[-1] == pytest.approx(len(one.sound) / 16000)


def test_every_shipped_phoneme_is_known() -> None:
    names = {name for row in speech.index() for _, name in row["phonemes"]}
    strange = [n for n in names for s in visemes.MARKS.sub("", n) if s not in visemes.IPA and n[:2] not in visemes.IPA]
    assert strange == []


def test_speech_for_tests_and_held_out_voices_is_not_trained_on() -> None:
    assert speech.voices("train") == speech.voices("test")
    assert not set(speech.voices("voice")) & set(speech.voices("train"))
    for voice in speech.voices("train"):
        rows = [row for row in speech.index() if row["voice"] == voice]
        trained, kept = ({row["text"] for row in rows if row["part"] == part} for part in ("train", "test"))
        assert not trained & kept and len(trained) == 11 and len(kept) == 5


def test_phonemes_come_when_they_are_heard() -> None:
    """Vowels open the mouth when the sound gets loud: of all shifts, one within 20 ms explains loudness best."""
    rate, shifts = visemes.FPS * visemes.FINE, range(-16, 17)
    for part in ("test", "voice"):
        total = torch.zeros(len(shifts))
        for voice in speech.voices(part)[::6] if part == "test" else speech.voices(part):
            for one in speech.shipped(voice, part)[:4]:
                steps = one.frames * visemes.FINE
                power = one.sound[: steps * 80].reshape(steps, 80).square().mean(1, keepdim=True)
                loud = visemes.smooth((power + 1e-7).log(), 0.01)[:, 0]
                opening = visemes.smooth(visemes.targets(one.phonemes, steps)[:, :1], 0.01)[:, 0]
                loud, opening = (loud - loud.mean()) / loud.std(), (opening - opening.mean()) / opening.std()
                total += torch.stack([(opening.roll(k) * loud)[20:-20].mean() for k in shifts])
        assert abs(int(total.argmax()) - 16) / rate <= 0.02


def test_a_speech_is_as_long_as_wanted_and_follows_from_the_draw() -> None:
    one = speech.speak("en-us", 700, Rng(3))
    again = speech.speak("en-us", 700, Rng(3))
    assert one.frames >= 700 and torch.equal(one.sound, again.sound) and one.phonemes == again.phonemes
    ends = [0.0] + [b for _, b, _ in one.phonemes]
    assert [a for a, _, _ in one.phonemes] == pytest.approx(ends[:-1]) and len(one.sentences) > 5
    begin, end, text = one.sentences[2]
    known = next(s for s in speech.shipped("en-us", "train") if s.sentences[0][2] == text)
    a = round(begin * 16000)
    assert torch.equal(one.sound[a : a + len(known.sound)], known.sound) and end - begin == len(known.sound) / 16000


def test_what_is_not_there_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="no shipped train speech of voice 'xx'"):
        speech.speak("xx", 10, Rng(0))
    with pytest.raises(UserError, match="no speech source 'radio'; there are shipped, espeak"):
        speech.speak("en", 10, Rng(0), source="radio")
    with pytest.raises(UserError, match="does not load"):
        espeak.Espeak("libnosuch.so", None)


def test_without_an_engine_the_user_is_told_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="eSpeak NG is not installed; pip install espeakng-loader"):
        espeak.library()


def test_sentences_are_many_and_short() -> None:
    said = {sentence(Rng(n), "x") for n in range(400)}
    assert len(said) > 230 and set(BALANCED) & said
    assert all(4 <= len(text.split()) <= 16 and text[0].isupper() and text[-1] in ".?" for text in said)


def engine() -> espeak.Espeak:
    try:
        return espeak.engine()
    except UserError as error:
        pytest.skip(str(error))


def test_the_engine_speaks_with_phoneme_times() -> None:
    said = engine().say("Maps.", "en-us+f2")
    names = [visemes.visemes(name)[0] for _, name in said.phonemes]
    assert names[:4] == ["PP", "aa", "PP", "SS"] and 0.3 < len(said.sound) / said.rate < 1.5
    times = [t for t, _ in said.phonemes]
    assert times == sorted(times) and times[-1] <= len(said.sound) / said.rate
    again = engine().say("Maps.", "en-us+f2")
    assert len(again.sound) == pytest.approx(len(said.sound), abs=10) and abs(lag(again.sound, said.sound)) < 40


@pytest.mark.parametrize(("voice", "said"), [("xx", "no voice 'xx'"), ("en-us+nosuch", "no variant 'nosuch'")])
def test_the_engine_knows_what_it_does_not_know(voice: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        engine().say("Maps.", voice)


def test_the_engine_never_runs_out() -> None:
    engine()
    one, two = (speech.speak("en-us", 60, Rng(seed), source="espeak") for seed in (1, 2))
    assert one.frames >= 60 and one.sentences[0][2] != two.sentences[0][2]
