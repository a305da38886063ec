"""One clip of a talker, and how it is made from a person and a speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.rng import Rng
from .face import render
from .identity import Person, describe
from .motion import blinks, pose
from .speech import FPS, HOP, Phoneme, Speech
from .visemes import VISEMES, mouth

MASKS = ("face", "lip", "person")


@dataclass(frozen=True)
class Clip:
    """A clip of T frames at 25 per second with the truth about it. Rows of all [T, ...] belong to the frames shown.

    frames [3, T, H, W] in [-1, 1]; sound float32 [640 T] at 16 kHz; reference [3, H, W]: the same person at another
    time, in another pose; mouth [T, 6] (`visemes.CHANNELS`), blink [T], pose [T, 4] (x, y, roll, scale); identity [31]
    and person: which one of the split; masks "face", "lip", "person" [T, H, W] in [0, 1]; box [T, 4] of the face in
    pixels; phonemes: (begin, end, IPA) in seconds of the clip; text: the sentences heard, whole ones; damage: what was
    done to the clip this one was cut from, None if it is clean.
    """

    frames: Tensor
    sound: Tensor
    reference: Tensor
    mouth: Tensor
    blink: Tensor
    pose: Tensor
    identity: Tensor
    person: int
    voice: str
    masks: Mapping[str, Tensor]
    box: Tensor
    phonemes: tuple[Phoneme, ...]
    text: str
    damage: Mapping[str, object] | None = None
    key: str = ""

    @property
    def caption(self) -> str:
        """The person in words."""
        return describe(self.identity)

    def window(self, start: int, frames: int) -> Clip:
        """Frames [start, start + frames) as a clip of their own; the reference and the text stay."""
        cut = slice(start, start + frames)
        return replace(
            self,
            frames=self.frames[:, cut],
            sound=self.sound[HOP * start : HOP * (start + frames)],
            mouth=self.mouth[cut],
            blink=self.blink[cut],
            pose=self.pose[cut],
            masks={name: mask[cut] for name, mask in self.masks.items()},
            box=self.box[cut],
        ).timed(start, frames)

    def timed(self, start: int, frames: int) -> Clip:
        """What is said of the sound of frames [start, start + frames), times counted from there."""
        phonemes = during(self.phonemes, start / FPS, frames / FPS)
        return replace(self, phonemes=phonemes, key=f"{self.key}@{start}")


def during(phonemes: tuple[Phoneme, ...], begin: float, seconds: float) -> tuple[Phoneme, ...]:
    """The phonemes that sound within [begin, begin + seconds), cut to it, times counted from `begin`."""
    moved = ((max(a - begin, 0.0), min(b - begin, seconds), name) for a, b, name in phonemes)
    return tuple((a, b, name) for a, b, name in moved if b > a)


def heard(speech: Speech, start: int, frames: int) -> str:
    """The sentences of which something is heard in frames [start, start + frames)."""
    return " ".join(text for _, _, text in during(speech.sentences, start / FPS, frames / FPS))


@dataclass(frozen=True)
class Performance:
    """A speech as one person acts it, before it is drawn: mouth [T, 6], blink [T] and pose [T, 4] of all its frames."""

    who: Person
    speech: Speech
    mouth: Tensor
    blink: Tensor
    pose: Tensor


def perform(who: Person, speech: Speech, rng: Rng) -> Performance:
    """Act a speech."""
    lips = mouth(speech, who.gain, who.spread)
    return Performance(who, speech, lips, blinks(len(lips), rng), pose(lips[:, 0], rng, who.liveliness))


def film(act: Performance, start: int, frames: int, size: int, rng: Rng, person: int = 0, key: str = "") -> Clip:
    """Draw frames [start, start + frames) of a performance, and a reference that is none of them."""
    cut = slice(start, start + frames)
    drawn = render(act.who.face, act.mouth[cut], act.blink[cut], act.pose[cut], size)
    speech = act.speech
    return Clip(
        frames=drawn.frames.transpose(0, 1),
        sound=speech.sound[HOP * start : HOP * (start + frames)],
        reference=reference(act.who, size, rng),
        mouth=act.mouth[cut],
        blink=act.blink[cut],
        pose=act.pose[cut],
        identity=act.who.face,
        person=person,
        voice=speech.voice,
        masks={name: getattr(drawn, name) for name in MASKS},
        box=drawn.box,
        phonemes=during(speech.phonemes, start / FPS, frames / FPS),
        text=heard(speech, start, frames),
        key=key,
    )


def reference(who: Person, size: int, rng: Rng) -> Tensor:
    """A picture [3, H, W] of somebody at another time: eyes open, any pose, half the time at rest, else mid-word."""
    states = torch.tensor(list(VISEMES.values()))
    blend = rng.uniform("reference/mouth", (2,)).float()
    state = states[rng.integer("reference/viseme", len(states))] * (blend[0] > 0.5) * blend[1]
    rest = torch.tensor(VISEMES["sil"])
    lips = torch.where(torch.arange(6) == 1, torch.maximum(state, rest), state)[None]
    place = pose(torch.zeros(1), rng.at(turn="reference"), who.liveliness)
    return render(who.face, lips, torch.zeros(1), place, size).frames[0]
