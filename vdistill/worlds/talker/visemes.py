"""What the mouth does while phonemes are spoken: IPA -> 16 visemes -> six numbers a frame, with coarticulation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .speech import FPS, HOP, Phoneme, Speech

CHANNELS = ("open", "width", "round", "teeth", "tongue", "press")
VISEMES: dict[str, tuple[float, ...]] = {  # the six channels, each in [0, 1]; width 0.5 is the mouth at rest
    "sil": (0.0, 0.5, 0.0, 0.0, 0.0, 0.0),
    "PP": (0.0, 0.5, 0.1, 0.0, 0.0, 1.0),
    "FF": (0.12, 0.5, 0.0, 1.0, 0.0, 0.3),
    "TH": (0.22, 0.5, 0.0, 0.6, 1.0, 0.0),
    "DD": (0.22, 0.5, 0.0, 0.5, 0.6, 0.0),
    "kk": (0.3, 0.5, 0.0, 0.2, 0.2, 0.0),
    "CH": (0.22, 0.3, 0.6, 0.9, 0.0, 0.0),
    "SS": (0.14, 0.65, 0.0, 1.0, 0.0, 0.0),
    "nn": (0.22, 0.5, 0.0, 0.3, 0.6, 0.0),
    "RR": (0.25, 0.35, 0.5, 0.1, 0.2, 0.0),
    "aa": (1.0, 0.55, 0.05, 0.3, 0.1, 0.0),
    "E": (0.6, 0.75, 0.0, 0.5, 0.1, 0.0),
    "I": (0.35, 0.95, 0.0, 0.6, 0.1, 0.0),
    "O": (0.7, 0.25, 0.8, 0.0, 0.0, 0.0),
    "U": (0.35, 0.05, 1.0, 0.0, 0.0, 0.0),
    "AX": (0.45, 0.5, 0.1, 0.3, 0.0, 0.0),
}
_SPELLED = """PP p b m β ɸ / FF f v ɱ / TH θ ð / DD t d ɾ ʈ ɖ / kk k ɡ g ŋ h x ɣ ʔ q χ / CH tʃ dʒ ʃ ʒ ç ɕ ʑ
/ SS s z ts dz / nn n l ɲ ʎ ɫ ɭ / RR ɹ r ʁ ʀ ɻ ɚ ɝ / aa a ɑ ɐ æ ʌ ɒ / E e ɛ ɜ œ ø / I i ɪ j y ʏ / O o ɔ
/ U u ʊ w ʍ ɯ ʉ ɥ / AX ə ᵻ ɨ ɵ"""
IPA = {symbol: name for name, *symbols in map(str.split, _SPELLED.split("/")) for symbol in symbols}
MARKS = re.compile(r"\([^)]*\)|[ˈˌː:ʲʰʷ|_\u0300-\u036f]")  # stress, length, ties, language switches

FINE = 8  # steps in a frame: 200 Hz
TAU = 0.045  # seconds, standard deviation of coarticulation
TAU_PRESS = 0.02  # lips close faster than jaws move
PRESS_CLOSES = 1.3  # opening is multiplied by 1 - this x press, so that p, b and m close the mouth
LOUD_POWER, LOUD_RANGE = 0.25, (0.75, 1.15)  # louder is wider


def visemes(ipa: str) -> list[str]:
    """The visemes of one phoneme in order: two of a diphthong or of a syllabic consonant, "sil" of a pause.

    A symbol unknown to the table counts as the neutral vowel.
    """
    rest, found = MARKS.sub("", ipa), []
    while rest:
        size = 2 if rest[:2] in IPA else 1
        found.append(IPA.get(rest[:size], "AX"))
        rest = rest[size:]
    return found or ["sil"]


def targets(phonemes: Sequence[Phoneme], steps: int) -> Tensor:
    """What each of `steps` moments at 200 Hz aims at, [steps, 6]; a phoneme's visemes share its time evenly."""
    aims = torch.tensor([VISEMES["sil"]]).repeat(steps, 1)
    rate = FPS * FINE
    for begin, end, ipa in phonemes:
        parts = visemes(ipa)
        for i, name in enumerate(parts):
            a, b = (begin + (end - begin) * (i + k) / len(parts) for k in (0, 1))
            aims[round(a * rate) : round(b * rate)] = torch.tensor(VISEMES[name])
    return aims


def smooth(track: Tensor, tau: float) -> Tensor:
    """Gaussian along the first axis of [steps, C] without delay, ends repeated; tau in seconds."""
    sigma = tau * FPS * FINE
    reach = math.ceil(4 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    rows = torch.nn.functional.pad(track.T[:, None], (reach, reach), mode="replicate")  # [C, 1, steps + 2 reach]
    return torch.nn.functional.conv1d(rows, (kernel / kernel.sum())[None, None])[:, 0].T


def loudness(sound: Tensor, steps: int) -> Tensor:
    """How wide a speaker opens for being loud, [steps, 1] about 1, from the loudness within a quarter of a second."""
    hop = HOP // FINE
    power = torch.nn.functional.pad(sound, (0, max(steps * hop - len(sound), 0)))[: steps * hop]
    power = smooth(power.reshape(steps, hop).square().mean(1, keepdim=True), 0.1)
    usual = power[power > 0.01 * power.max()].median() if float(power.max()) > 0 else torch.tensor(1.0)
    return (power / usual).clamp(min=1e-6).pow(LOUD_POWER / 2).clamp(*LOUD_RANGE)


def mouth(speech: Speech, gain: float = 1.0, spread: float = 1.0) -> Tensor:
    """Mouth state [T, 6] of every whole frame of a speech, the mean over the frame's 40 ms, in [0, 1].

    gain: how far this speaker opens; spread: how much this speaker moves the corners.
    """
    steps = speech.frames * FINE
    aims = targets(speech.phonemes, steps)
    track = torch.cat([smooth(aims[:, :5], TAU), smooth(aims[:, 5:], TAU_PRESS)], 1)
    closing = (1 - PRESS_CLOSES * track[:, 5:]).clamp(0, 1)
    opening = track[:, :1] * closing * gain * loudness(speech.sound, steps)
    width = 0.5 + (track[:, 1:2] - 0.5) * spread
    track = torch.cat([opening, width, track[:, 2:]], 1).clamp(0, 1)
    return track.reshape(-1, FINE, len(CHANNELS)).mean(1)
