"""Speech of any length in one voice, with phoneme times: from the utterances that are shipped, or from eSpeak NG."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.rng import Rng
from . import sound as wave
from .espeak import engine
from .sentences import sentence

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "talker_speech"
FPS = 25
HOP = wave.RATE // FPS  # 640 samples a frame
SOURCES = ("shipped", "espeak")
PAUSE = (0.12, 0.6)  # seconds between utterances

Phoneme = tuple[float, float, str]  # begin and end in seconds, IPA ("" is silence)


@dataclass(frozen=True)
class Speech:
    """sound: float32 [N] at 16 kHz; phonemes cover it without gaps; sentences: begin and end in seconds, text."""

    sound: Tensor
    phonemes: tuple[Phoneme, ...]
    sentences: tuple[tuple[float, float, str], ...]
    voice: str

    @property
    def frames(self) -> int:
        return len(self.sound) // HOP


@cache
def index() -> tuple[dict, ...]:
    """The shipped utterances: voice, part (train, test or voice), file, begin and samples in it, text, phonemes."""
    return tuple(json.loads((ASSETS / "index.json").read_text(encoding="utf-8"))["utterances"])


@cache
def voices(part: str) -> tuple[str, ...]:
    """The shipped voices of a part: "train" and "test" share theirs, "voice" has voices of another synthesiser."""
    return tuple(sorted({row["voice"] for row in index() if row["part"] == part}))


@lru_cache(maxsize=64)
def _file(name: str) -> Tensor:
    return wave.decode(ASSETS / name)


def spans(starts: list[tuple[float, str]], end: float) -> tuple[Phoneme, ...]:
    """(begin, IPA) in order -> (begin, end, IPA) up to `end` seconds; what takes no time is left out."""
    ends = [min(begin, end) for begin, _ in starts[1:]] + [end]
    return tuple((begin, till, name) for (begin, name), till in zip(starts, ends, strict=True) if till > begin)


def shipped(voice: str, part: str) -> tuple[Speech, ...]:
    """Every shipped utterance of a voice in a part. Raises UserError when there is none."""
    rows = [row for row in index() if row["voice"] == voice and row["part"] == part]
    if not rows:
        raise UserError(
            f"no shipped {part} speech of voice {voice!r}", "talker", f"there are {', '.join(voices(part))}"
        )
    return tuple(_shipped(row) for row in rows)


def _shipped(row: dict) -> Speech:
    sound = wave.fit(_file(row["file"])[row["begin"] :], row["samples"])
    starts = [(ms / 1000, name) for ms, name in row["phonemes"]]
    seconds = row["samples"] / wave.RATE
    return Speech(sound, spans([(0.0, ""), *starts], seconds), ((0.0, seconds, row["text"]),), row["voice"])


def spoken(voice: str, rng: Rng, name: str) -> Speech:
    """A new utterance by eSpeak NG; speed and pitch vary."""
    speed, pitch = 150 + rng.integer(f"{name}/speed", 45), 35 + rng.integer(f"{name}/pitch", 30)
    text = sentence(rng, name)
    said = engine().say(text, voice, speed, pitch)
    sound = wave.resample(said.sound, said.rate)
    sound = sound * (0.5 / sound.abs().max().clamp(min=1e-3))
    seconds = len(sound) / wave.RATE
    return Speech(sound, spans([(0.0, ""), *said.phonemes], seconds), ((0.0, seconds, text),), voice)


def silence(seconds: float, voice: str) -> Speech:
    count = round(seconds * wave.RATE)
    return Speech(torch.zeros(count), ((0.0, count / wave.RATE, ""),), (), voice)


def join(parts: list[Speech]) -> Speech:
    """One after another."""
    phonemes: list[Phoneme] = []
    sentences: list[tuple[float, float, str]] = []
    begin = 0.0
    for part in parts:
        phonemes += [(begin + a, begin + b, name) for a, b, name in part.phonemes]
        sentences += [(begin + a, begin + b, text) for a, b, text in part.sentences]
        begin += len(part.sound) / wave.RATE
    return Speech(torch.cat([part.sound for part in parts]), tuple(phonemes), tuple(sentences), parts[0].voice)


def speak(voice: str, frames: int, rng: Rng, part: str = "train", source: str = "shipped") -> Speech:
    """At least `frames` frames of one voice: utterances in random order, pauses of PAUSE between them.

    source: "shipped" needs nothing installed; "espeak" never says the same twice (voice: any of eSpeak NG's).
    """
    if source not in SOURCES:
        raise UserError(f"no speech source {source!r}", "talker", f"there are {', '.join(SOURCES)}")
    known = shipped(voice, part) if source == "shipped" else ()
    order: list[int] = []
    parts: list[Speech] = []
    total = 0
    while total < frames * HOP:
        n = len(parts)
        pause = float(rng.uniform(f"pause/{n}", (), *PAUSE))
        if known and not order:
            order = torch.randperm(len(known), generator=rng.generator(f"order/{n}")).tolist()
        utterance = known[order.pop()] if known else spoken(voice, rng, f"say/{n}")
        parts += [silence(pause, voice), utterance]
        total = sum(len(each.sound) for each in parts)
    return join(parts)
