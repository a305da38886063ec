"""The `talker` world: clips of people who speak, deterministic by index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...core.errors import UserError
from ...core.rng import Rng
from .clips import Clip, Performance, film, perform
from .damage import BAD, USUAL, check, damaged, spoilt
from .identity import Person, person
from .sound_faults import MARGIN, Set
from .speech import FPS, Speech, speak, voices

PEOPLE = 48  # who is seen in training


@dataclass(frozen=True)
class Split:
    """people: "seen", or "open" for somebody new in every clip; part: which speech (`speech.voices`); frames: None for
    as many as asked for; state: "clean", "damaged" (`damage.damaged`) or "spoilt" (`damage.spoilt`)."""

    people: str
    part: str
    frames: int | None = None
    state: str = "clean"


SPLITS = {
    "hq": Split("seen", "train"),
    "mq": Split("open", "train", state="damaged"),
    "seen": Split("seen", "test"),
    "open": Split("open", "test"),
    "voice": Split("open", "voice"),
    "long": Split("open", "test", 60 * FPS),
    "bad": Split("open", "test", state="spoilt"),
}


@dataclass(frozen=True)
class Talker:
    """`clip(i)` depends on (split, seed, i) alone, and on speech from eSpeak NG if that is asked for.

    split: one of SPLITS; size: pixels, even; frames: of a clip; speech: "shipped" or "espeak" (training splits only);
    damage: probabilities of the faults in the split "mq", those left out being 0.
    """

    split: str = "hq"
    size: int = 64
    frames: int = 49
    seed: int = 0
    speech: str = "shipped"
    damage: Mapping[str, float] = field(default_factory=lambda: USUAL)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"no split {self.split!r}", "talker.split", f"there are {', '.join(SPLITS)}")
        if self.size < 16 or self.size % 2 or self.frames < 1:
            said = f"{self.frames} frames of {self.size} pixels are no clip"
            raise UserError(said, "talker", "size is even and at least 16, frames at least 1")
        if self.speech == "espeak" and SPLITS[self.split].part != "train":
            raise UserError(f"split {self.split!r} has speech of its own", "talker.speech", "leave it at shipped")
        check(self.damage)

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return SPLITS[self.split].frames or self.frames

    def who(self, index: int) -> tuple[int, Person]:
        """The number of the person in clip `index`, and the person. Seen people are the same in every seed."""
        split = SPLITS[self.split]
        if split.people == "seen":
            number = Rng(self.seed, index, turn=self.split).integer("person", PEOPLE)
            return number, person(Rng(0, number, turn="talker/seen"), voices(split.part))
        return index, person(Rng(self.seed, index, turn=f"talker/{self.split}"), voices(split.part))

    def performance(self, index: int) -> tuple[Performance, int]:
        """What is acted in clip `index`, longer than the clip, and the frame at which the clip begins."""
        rng = Rng(self.seed, index, turn=f"talker/{self.split}/act")
        _, who = self.who(index)
        spare = 2 * FPS
        act = perform(who, self._speak(who.voice, rng, self.length + spare), rng)
        return act, MARGIN + rng.integer("start", len(act.mouth) - self.length - 2 * MARGIN + 1)

    def _speak(self, voice: str, rng: Rng, frames: int) -> Speech:
        return speak(voice, frames, rng, SPLITS[self.split].part, self.speech)

    def clip(self, index: int) -> Clip:
        """Clip `index`, any whole number from 0."""
        act, start = self.performance(index)
        number, who = self.who(index)
        rng = Rng(self.seed, index, turn=f"talker/{self.split}/film")
        clip = film(act, start, self.length, self.size, rng, number, f"talker/{self.split}/{self.seed}/{index}")
        state = SPLITS[self.split].state
        if state == "clean":
            return clip
        others = [voice for voice in voices(SPLITS[self.split].part) if voice != who.voice]
        scene = Set(act, start, lambda rng, frames: self._speak(others[rng.integer("other", len(others))], rng, frames))
        rng = rng.at(turn=f"talker/{self.split}/damage")
        return (
            damaged(clip, scene, rng, self.damage)
            if state == "damaged"
            else spoilt(clip, scene, rng, BAD[index % len(BAD)])
        )
