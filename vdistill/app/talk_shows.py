"""What is shown of a student that talks: a long clip through a live session, and two people who take turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..avatar.rates import FPS
from ..avatar.session import Meter
from ..eval.talking import ends, seconds, talking_scores
from ..families.stock import StockFamily
from ..worlds.talker.duo import Duo, DuoClip
from ..worlds.talker.talker import SPLITS, Talker
from .causal_file import Saved
from .causal_speaker import causal
from .scene import Scene, spoken
from .speaker import Speaker, session_of, speaker_of
from .talk_windows import heard_whole, in_windows
from .talker_source import caption
from .talker_truth import duo_truth, truth_of

LEAST = 25  # frames each has the turn at least


@dataclass(frozen=True)
class Shown:
    """pixels: [3, T, H, W] in [-1, 1]; sound: [640 T]; scores: one flat dictionary; rows: the same by second."""

    pixels: Tensor
    sound: Tensor
    scores: dict[str, float]
    rows: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Talking:
    """A model that talks. begins, level: see `Speaker`; frames: of the clips it was made for; causal: of a student with
    memory, how it makes block after block."""

    family: StockFamily
    scales: Mapping[str, float]
    frames: int
    size: int
    begins: int = 0
    level: float = 0.0
    steps: int = 25
    causal: Saved | None = None

    def speaker(self, picture: Tensor, text: str, seed: int) -> Speaker:
        """It as the speaker of a picture."""
        speaker = speaker_of(
            self.family, picture, self.frames, text,
            scales=self.scales, begins=self.begins, level=self.level, steps=self.steps, seed=seed,
        )  # fmt: skip
        return speaker if self.causal is None else causal(speaker, self.causal)


def long(model: Talking, length: float, seed: int = 0, windows: bool = False, index: int = 0) -> Shown:
    """Clip `index`, `length` seconds long, out of a session, or at once in windows. scores: what the meter says,
    measures of the first and the last five seconds (`ends`), and drift: the larger of what sync lost and identity error
    gained from the one to the other, over the first, so that 0.05 is 5 % worse."""
    split = "long" if length * FPS == SPLITS["long"].frames else "open"
    world = Talker(split, model.size, round(length * FPS))
    clip, text = world.clip(index), caption(world.who(index)[1].liveliness)
    speaker, meter = model.speaker(clip.reference, text, seed), Meter(0.0)
    if windows:
        made = list(in_windows(speaker, *heard_whole(speaker, clip.sound), meter))
    else:
        session = session_of(speaker)
        made, meter = [chunk.frames for chunk in (*session.push(clip.sound), *session.finish())], session.meter
    pixels = torch.cat(made, 1)
    rows = seconds(pixels[None], truth_of([clip]))
    found = ends(rows)
    return Shown(pixels, clip.sound, {**meter.said(), **found, "drift": drift(found)}, rows)


def drift(found: Mapping[str, float]) -> float:
    """The larger relative loss between both ends of a clip, of sync and of identity."""
    return max(losses(found).values())


def losses(found: Mapping[str, float]) -> dict[str, float]:
    """sync: what sync lost, identity: what identity error gained from the first to the last seconds, over the first."""
    sync, person = ("sync_pcc", "identity_error")
    lost = (found[f"{sync}_first"] - found[f"{sync}_last"]) / max(abs(found[f"{sync}_first"]), 1e-6)
    gained = (found[f"{person}_last"] - found[f"{person}_first"]) / max(found[f"{person}_first"], 1e-6)
    return {"sync": lost, "identity": gained}


def on_average(shown: Sequence[Shown]) -> dict[str, float]:
    """Scores of several clips of `long`: means, the largest of what is a largest, and drift as `drift` of the means."""
    rows = [each.scores for each in shown]
    found = {k: sum(row[k] for row in rows) / len(rows) for k in rows[0]}
    found |= {k: max(row[k] for row in rows) for k in found if k.endswith("_largest")}
    return found | {"drift": drift(found)}


def realtime(model: Talking, length: float = 4.0) -> dict[str, float]:
    """What a session of `length` seconds says of itself (`Meter.said`)."""
    clip = Talker("open", model.size, round(length * FPS)).clip(0)
    session = session_of(model.speaker(clip.reference, "a person speaks", 0))
    session.push(clip.sound)
    session.finish()
    return session.meter.said()


def scenes(size: int, length: float = 6.0) -> Iterator[DuoClip]:
    """Without end: clips of two people of the world in one picture, in which both have a turn."""
    world, index = Duo(size, round(length * FPS)), 0
    while True:
        if (clip := world.clip(index)).active.sum(1).min() >= LEAST:
            yield clip
        index += 1


def duo(model: Talking, length: float = 6.0, seed: int = 0, masked: bool = True) -> Shown:
    """The first of `scenes` as `both` makes it."""
    return both(model, next(scenes(model.size, length)), seed, masked)


def both(model: Talking, clip: DuoClip, seed: int = 0, masked: bool = True) -> Shown:
    """Two people in one picture, each with a track and a mask.

    scores: crosstalk, aperture energy of who is silent over that of who speaks. masked: otherwise one sound for all."""
    masks = clip.masks["person"].amax(1)
    tracks = clip.tracks
    if not masked:
        masks, tracks = masks.amax(0, keepdim=True), clip.sound[None]
    speaker = model.speaker(clip.reference, "a person speaks", seed)
    pixels = torch.cat(list(spoken(speaker, Scene(clip.reference, masks, tracks))), 1)
    return Shown(pixels, clip.sound, talking_scores(pixels[None], duo_truth([clip])))
