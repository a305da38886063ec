"""Two people side by side who take turns: who speaks when, what each says, and where each of them is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.rng import Rng
from . import sound as wave
from .clips import MASKS, Clip, Performance, film, perform
from .identity import Person, person
from .speech import FPS, HOP, Speech, join, shipped, silence, voices

OVERLAP = 0.1  # share of an utterance during which the other already speaks
NOD_EVERY = (1.5, 4.0)  # seconds between the nods of who listens
NOD = 0.02  # frame widths


@dataclass(frozen=True)
class Turn:
    """Speaker 0 (left) or 1 (right) speaks from `begin` to `end` seconds."""

    speaker: int
    begin: float
    end: float


@dataclass(frozen=True)
class DuoClip:
    """Two talkers in one picture: S pixels high, 2 S wide, speaker 0 on the left.

    frames [3, T, S, 2 S]; sound [640 T] of both, tracks [2, 640 T] of each; reference [3, S, 2 S]; people: each one's
    clip alone, S x S, with the truth about it; masks "face", "lip", "person" [2, T, S, 2 S]; box [2, T, 4] in pixels of
    the whole picture; active [2, T]: whose turn it is; turns in seconds of the clip.
    """

    frames: Tensor
    sound: Tensor
    tracks: Tensor
    reference: Tensor
    people: tuple[Clip, Clip]
    masks: Mapping[str, Tensor]
    box: Tensor
    active: Tensor
    turns: tuple[Turn, ...]
    key: str


@dataclass(frozen=True)
class Duo:
    """`clip(i)` depends on (seed, i, part, spare) alone. part: which shipped speech, see `speech.voices`; those of each
    part are other people. spare: a clip begins up to so many frames into its conversation; 0: with it."""

    size: int = 64
    frames: int = 149
    seed: int = 0
    part: str = "test"
    spare: int = 0

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 2 or self.frames < 1:
            said = f"{self.frames} frames of {self.size} pixels are no clip"
            raise UserError(said, "talker.duo", "size is even and at least 16, frames at least 1")

    def who(self, index: int) -> tuple[Person, Person]:
        """Two people nobody has seen, with two voices, before one wall."""
        known = voices(self.part)
        left = person(Rng(self.seed, index, turn=f"{self._turn}/left"), known)
        right = person(Rng(self.seed, index, turn=f"{self._turn}/right"), tuple(v for v in known if v != left.voice))
        face = right.face.clone()
        face[12:15] = left.face[12:15]
        return left, replace(right, face=face)

    def clip(self, index: int) -> DuoClip:
        """Clip `index`, any whole number from 0."""
        who, rng = self.who(index), Rng(self.seed, index, turn=self._turn)
        start = rng.integer("start", self.spare + 1)
        speeches, turns = converse((who[0].voice, who[1].voice), start + self.frames, rng, self.part)
        active = during(turns, start + self.frames)
        key = f"talker/{self._turn}/{self.seed}/{index}"
        people = []
        for i in (0, 1):
            mine = rng.at(turn=f"{self._turn}/{i}")
            act = listen(perform(who[i], speeches[i], mine), active[i], mine)
            people.append(film(act, start, self.frames, self.size, mine, 2 * index + i, f"{key}/{i}"))
        return compose((people[0], people[1]), active[:, start:], since(turns, start / FPS), key)

    @property
    def _turn(self) -> str:
        return "duo" if self.part == "test" else f"duo/{self.part}"


Talk = tuple[tuple[Speech, Speech], tuple[Turn, ...]]


def converse(names: tuple[str, str], frames: int, rng: Rng, part: str) -> Talk:
    """What each of two voices says in `frames` frames, taking turns; who begins and what is said is drawn."""
    said = tuple(shipped(name, part) for name in names)
    orders: list[list[int]] = [[], []]
    parts: list[list[Speech]] = [[], []]
    ends, turns = [0.0, 0.0], list[Turn]()
    speaker, begin = rng.integer("first", 2), float(rng.uniform("lead", (), 0.1, 0.5))
    while begin * FPS < frames:
        n = len(turns)
        if not orders[speaker]:
            orders[speaker] = torch.randperm(len(said[speaker]), generator=rng.generator(f"order/{n}")).tolist()
        words = said[speaker][orders[speaker].pop()]
        begin = max(begin, ends[speaker])
        end = begin + len(words.sound) / wave.RATE
        parts[speaker] += [silence(begin - ends[speaker], names[speaker]), words]
        ends[speaker] = sum(len(each.sound) for each in parts[speaker]) / wave.RATE
        turns.append(Turn(speaker, begin, end))
        speaker, begin = 1 - speaker, end - OVERLAP * (end - begin)
    tracks = tuple(_until(parts[i], frames, names[i]) for i in (0, 1))
    seconds = frames / FPS
    return (tracks[0], tracks[1]), tuple(replace(turn, end=min(turn.end, seconds)) for turn in turns)


def _until(parts: list[Speech], frames: int, name: str) -> Speech:
    """Joined, with silence to the end, cut to `frames` frames."""
    missing = frames * HOP - sum(len(each.sound) for each in parts)
    whole = join([*parts, silence(max(missing, HOP) / wave.RATE, name)])
    return replace(whole, sound=wave.fit(whole.sound, frames * HOP))


def during(turns: tuple[Turn, ...], frames: int) -> Tensor:
    """Whose turn it is, [2, T] bool; both where they overlap."""
    times, active = (torch.arange(frames) + 0.5) / FPS, torch.zeros(2, frames, dtype=torch.bool)
    for turn in turns:
        active[turn.speaker] |= (times >= turn.begin) & (times < turn.end)
    return active


def since(turns: tuple[Turn, ...], begin: float) -> tuple[Turn, ...]:
    """What is left of them from `begin` seconds on, times counted from there."""
    return tuple(Turn(t.speaker, max(t.begin - begin, 0.0), t.end - begin) for t in turns if t.end > begin)


def listen(act: Performance, speaks: Tensor, rng: Rng) -> Performance:
    """Whoever does not speak nods now and then."""
    pose, at = act.pose.clone(), 0.0
    nod, n = NOD * torch.sin(torch.linspace(0, math.pi, 12)) ** 2, 0
    while (at := at + float(rng.uniform(f"nod/{n}", (), *NOD_EVERY))) * FPS < len(speaks) - len(nod):
        first, n = round(at * FPS), n + 1
        if not bool(speaks[first : first + len(nod)].any()):
            pose[first : first + len(nod), 1] += nod
    return replace(act, pose=pose)


def compose(people: tuple[Clip, Clip], active: Tensor, turns: tuple[Turn, ...], key: str) -> DuoClip:
    """Side by side."""
    left, right = people
    size = left.frames.shape[-1]
    tracks = torch.stack([left.sound, right.sound])
    nobody = torch.zeros_like(left.masks["face"])
    masks = {
        name: torch.stack([torch.cat([left.masks[name], nobody], -1), torch.cat([nobody, right.masks[name]], -1)])
        for name in MASKS
    }
    return DuoClip(
        frames=torch.cat([left.frames, right.frames], -1),
        sound=tracks.sum(0).clamp(-1, 1),
        tracks=tracks,
        reference=torch.cat([left.reference, right.reference], -1),
        people=people,
        masks=masks,
        box=torch.stack([left.box, right.box + torch.tensor([size, 0, size, 0])]),
        active=active,
        turns=turns,
        key=key,
    )
