"""What goes wrong with sound: faults (clip, set, rng) -> (clip, what was done). Phonemes follow the sound heard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.rng import Rng
from .clips import Clip, Performance, during, heard
from .speech import FPS, HOP, Speech

MARGIN = 8  # frames of the performance kept before and after a clip, for sound that is early or late


@dataclass(frozen=True)
class Set:
    """Where a clip was filmed: the performance, the frame at which the clip begins, and what somebody else says:
    (rng, frames) -> speech."""

    act: Performance
    start: int
    other: Callable[[Rng, int], Speech]


def desync(clip: Clip, scene: Set, rng: Rng, least: int = 2) -> tuple[Clip, int]:
    """The sound comes k frames late, -MARGIN <= k <= MARGIN, at least `least` either way. -> k."""
    k = least + rng.integer("desync", MARGIN - least + 1)
    k = k if rng.integer("desync/sign", 2) else -k
    count, begin = clip.frames.shape[1], scene.start - k
    speech = scene.act.speech
    sound = speech.sound[HOP * begin : HOP * (begin + count)]
    phonemes = during(speech.phonemes, begin / FPS, count / FPS)
    return replace(clip, sound=sound, phonemes=phonemes, text=heard(speech, begin, count)), k


def wrong(clip: Clip, scene: Set, rng: Rng) -> tuple[Clip, str]:
    """Somebody off camera is heard instead. -> their voice."""
    count = clip.frames.shape[1]
    speech = scene.other(rng.at(turn="wrong"), count)
    phonemes = during(speech.phonemes, 0.0, count / FPS)
    clip = replace(clip, sound=speech.sound[: HOP * count], phonemes=phonemes, text=heard(speech, 0, count))
    return replace(clip, voice=speech.voice), speech.voice


def silent(clip: Clip, scene: Set, rng: Rng) -> tuple[Clip, bool]:
    """Lips move and nothing is heard."""
    quiet = ((0.0, clip.frames.shape[1] / FPS, ""),)
    return replace(clip, sound=torch.zeros_like(clip.sound), phonemes=quiet, text=""), True


def babble(clip: Clip, scene: Set, rng: Rng) -> tuple[Clip, float]:
    """Somebody else speaks in the background. -> signal over background in dB, 5 to 15."""
    other = scene.other(rng.at(turn="babble"), clip.frames.shape[1]).sound[: len(clip.sound)]
    return _under(clip, other, rng, "babble")


def hiss(clip: Clip, scene: Set, rng: Rng) -> tuple[Clip, float]:
    """Noise whose power falls with frequency. -> signal over noise in dB, 5 to 15."""
    spectrum = torch.fft.rfft(rng.normal("hiss", (len(clip.sound),)))
    falling = torch.arange(len(spectrum)).clamp(min=1).float().rsqrt()
    return _under(clip, torch.fft.irfft(spectrum * falling, len(clip.sound)), rng, "hiss/db")


def _under(clip: Clip, background: Tensor, rng: Rng, name: str) -> tuple[Clip, float]:
    db = float(rng.uniform(name, (), 5, 15))
    level = clip.sound.square().mean().sqrt() / background.square().mean().sqrt().clamp(min=1e-6)
    sound = clip.sound + background * level * 10 ** (-db / 20)
    return replace(clip, sound=sound.clamp(-1, 1)), db
