"""The `talker` world: clips of people who speak, deterministic by index."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import UserError
from ...core.rng import Rng
from .clips import Clip, Performance, film, perform
from .identity import Person, person
from .speech import FPS, speak, voices

PEOPLE = 48  # who is seen in training


@dataclass(frozen=True)
class Split:
    """people: "seen", or "open" for somebody new in every clip; part: which speech (`speech.voices`); frames: None for
    as many as asked for."""

    people: str
    part: str
    frames: int | None = None


SPLITS = {
    "hq": Split("seen", "train"),
    "seen": Split("seen", "test"),
    "open": Split("open", "test"),
    "voice": Split("open", "voice"),
    "long": Split("open", "test", 60 * FPS),
}


@dataclass(frozen=True)
class Talker:
    """`clip(i)` depends on (split, seed, i) alone, and on speech from eSpeak NG if that is asked for.

    split: one of SPLITS; size: pixels; frames: of a clip, 4 k + 1; speech: "shipped" or "espeak".
    """

    split: str = "hq"
    size: int = 64
    frames: int = 49
    seed: int = 0
    speech: str = "shipped"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise UserError(f"no split {self.split!r}", "talker.split", f"there are {', '.join(SPLITS)}")
        if self.size < 16 or self.frames < 1:
            raise UserError(
                f"{self.frames} frames of {self.size} pixels are no clip", "talker", "size >= 16, frames >= 1"
            )

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
        said = speak(who.voice, self.length + spare, rng, SPLITS[self.split].part, self.speech)
        act = perform(who, said, rng)
        return act, rng.integer("start", len(act.mouth) - self.length + 1)

    def clip(self, index: int) -> Clip:
        """Clip `index`, any whole number from 0."""
        act, start = self.performance(index)
        number, _ = self.who(index)
        rng = Rng(self.seed, index, turn=f"talker/{self.split}/film")
        return film(act, start, self.length, self.size, rng, number, f"talker/{self.split}/{self.seed}/{index}")
