"""From phonemes to the mouth: closure, diphthongs, no delay."""

from __future__ import annotations

import pytest
import torch

from vdistill.worlds.talker.speech import HOP, Speech
from vdistill.worlds.talker.visemes import CHANNELS, FINE, VISEMES, mouth, smooth, targets, visemes


def said(*phonemes: str, seconds: float = 0.12) -> Speech:
    """Each phoneme for `seconds`, evenly loud."""
    spans = tuple((i * seconds, (i + 1) * seconds, name) for i, name in enumerate(phonemes))
    t = torch.arange(round(len(phonemes) * seconds * 16000)) / 16000
    return Speech(0.3 * torch.sin(2 * torch.pi * 200 * t), spans, (), "test")


@pytest.mark.parametrize(
    ("ipa", "expected"),
    [
        *[("aɪ", ["aa", "I"]), ("ˈɔːɹ", ["O", "RR"]), ("tʃ", ["CH"]), ("dʒ", ["CH"]), ("əl", ["AX", "nn"])],
        *[("", ["sil"]), ("(en)", ["sil"]), ("_:", ["sil"]), ("t̪", ["DD"]), ("a:", ["aa"]), ("☃", ["AX"])],
    ],
)
def test_ipa_becomes_visemes(ipa: str, expected: list[str]) -> None:
    assert visemes(ipa) == expected


def test_a_diphthong_shares_its_time_between_two_visemes() -> None:
    aims = targets(((0.0, 0.2, "aɪ"),), 40)
    assert (aims[:20] == torch.tensor(VISEMES["aa"])).all() and (aims[20:] == torch.tensor(VISEMES["I"])).all()


def test_smoothing_has_no_delay_and_keeps_the_mean() -> None:
    track = torch.zeros(401, 1)
    track[200] = 1
    soft = smooth(track, 0.045)
    assert torch.allclose(soft, soft.flip(0), atol=1e-7) and int(soft.argmax()) == 200
    assert float(soft.sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(smooth(torch.full((50, 2), 0.3), 0.045), torch.full((50, 2), 0.3), atol=1e-6)


@pytest.mark.parametrize("consonant", ["p", "b", "m"])
def test_bilabials_close_a_mouth_that_vowels_open(consonant: str) -> None:
    track = mouth(said("ɑː", "ɑː", consonant, "ɑː", "ɑː"))
    opening = track[:, CHANNELS.index("open")]
    assert float(opening[4:6].max()) > 0.6 and float(opening[10:12].max()) > 0.6
    assert float(opening[6:9].min()) < 0.03


def test_a_rest_is_a_closed_mouth() -> None:
    track = mouth(said("", "", ""))
    assert torch.allclose(track, torch.tensor(VISEMES["sil"]).expand_as(track), atol=1e-6)


def test_rounded_vowels_are_narrow_and_spread_ones_wide() -> None:
    names = dict(zip(CHANNELS, mouth(said("uː", "uː", "uː"))[4], strict=True))
    assert names["round"] > 0.9 and names["width"] < 0.1
    names = dict(zip(CHANNELS, mouth(said("iː", "iː", "iː"))[4], strict=True))
    assert names["round"] < 0.05 and names["width"] > 0.9


def test_speech_that_begins_five_frames_later_moves_the_mouth_five_frames_later() -> None:
    """Exactly, but for the opening, of which a hundredth follows from how loud the speech is on average."""
    later = said("ɑː", "m", "iː")
    pause = Speech(torch.zeros(5 * HOP), ((0.0, 0.2, ""),), (), "test")
    phonemes = ((0.0, 0.2, ""), *((a + 0.2, b + 0.2, p) for a, b, p in later.phonemes))
    both = Speech(torch.cat([pause.sound, later.sound]), phonemes, (), "test")
    early, late = mouth(later), mouth(both)
    assert len(late) == len(early) + 5 and len(early) * FINE * 80 == len(later.sound)
    assert torch.allclose(late[10:, 1:], early[5:, 1:], atol=1e-5) and torch.allclose(late[10:], early[5:], atol=0.02)


def test_people_open_differently() -> None:
    one = said("ɑː", "iː", "ɑː")
    assert float(mouth(one, gain=0.8).amax(0)[0]) < float(mouth(one, gain=1.0).amax(0)[0])
    assert float(mouth(one, spread=1.2)[:, 1].amax()) >= float(mouth(one, spread=0.8)[:, 1].amax())


def test_louder_is_wider() -> None:
    one = said("ɑː", "ɑː", "ɑː", "ɑː", "ɑː", "ɑː", seconds=0.2)
    half = len(one.sound) // 2
    sound = torch.cat([one.sound[:half] * 0.5, one.sound[half:] * 1.6])
    opening = mouth(Speech(sound, one.phonemes, (), "test"), gain=0.7)[:, 0]
    assert float(opening[20:].mean()) > 1.1 * float(opening[:10].mean())
