"""Damaged clips, as data from anywhere is: every fault with its own probability, every fault recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from ...core.errors import UserError
from ...core.rng import Rng
from . import picture_faults as picture
from . import sound_faults as hearing
from .clips import Clip
from .sound_faults import Set

SYNC: dict[str, Callable[[Clip, Set, Rng], tuple[Clip, object]]] = {  # at most one of these
    "desync": hearing.desync,
    "wrong": hearing.wrong,
    "silent": hearing.silent,
}
SOUND = {"babble": hearing.babble, "hiss": hearing.hiss}
PICTURE = {  # in the order in which they happen to a clip
    "occluder": picture.occluder,
    "crop": picture.crop,
    "drops": picture.drops,
    "exposure": picture.exposure,
    "blur": picture.blur,
    "noise": picture.noise,
    "rescale": picture.rescale,
    "codec": picture.codec,
}
SHARED = ("blur", "noise", "rescale", "codec")  # of the whole recording, so that the reference has them too
USUAL: Mapping[str, float] = {  # probabilities in the `mq` split
    "desync": 0.3,
    "wrong": 0.06,
    "silent": 0.04,
    "babble": 0.25,
    "hiss": 0.15,
    "occluder": 0.1,
    "crop": 0.2,
    "drops": 0.2,
    "exposure": 0.2,
    "blur": 0.15,
    "noise": 0.2,
    "rescale": 0.35,
    "codec": 0.45,
}
BAD = ("desync", "wrong", "silent", "still", "blank", "hidden")  # what a filter has to find, one a clip


def check(chances: Mapping[str, float]) -> None:
    """Refuse unknown faults and what is no probability."""
    known = {*SYNC, *SOUND, *PICTURE}
    for name, value in chances.items():
        if name not in known:
            raise UserError(f"no fault {name!r}", "talker.damage", f"there are {', '.join(sorted(known))}")
        if not 0 <= value <= 1:
            raise UserError(f"{value} is no probability", f"talker.damage.{name}")
    if sum(chances.get(name, 0.0) for name in SYNC) > 1:
        raise UserError(f"{', '.join(SYNC)} exclude each other, so that their sum is at most 1", "talker.damage")


def damaged(clip: Clip, scene: Set, rng: Rng, chances: Mapping[str, float] = USUAL) -> Clip:
    """The clip after whatever befalls it; `damage` says what, {} when nothing did."""
    record: dict[str, object] = {}
    draw = float(rng.uniform("sync", ()))
    for name, sync in SYNC.items():
        chance = chances.get(name, 0.0)
        if 0 <= draw < chance:
            clip, record[name] = sync(clip, scene, rng)
        draw -= chance
    for name, fault in SOUND.items():
        if "silent" not in record and float(rng.uniform(f"if/{name}", ())) < chances.get(name, 0.0):
            clip, record[name] = fault(clip, scene, rng)
    for name, seen in PICTURE.items():
        if float(rng.uniform(f"if/{name}", ())) < chances.get(name, 0.0):
            clip, record[name] = _with_reference(clip, seen, rng) if name in SHARED else seen(clip, rng)
    return replace(clip, damage=record)


def _with_reference(clip: Clip, fault: Callable[[Clip, Rng], tuple[Clip, object]], rng: Rng) -> tuple[Clip, object]:
    """The fault on the frames and the reference, which comes from the same poor recording."""
    done, said = fault(replace(clip, frames=torch.cat([clip.frames, clip.reference[:, None]], 1)), rng)
    return replace(done, frames=done.frames[:, :-1], reference=done.frames[:, -1]), said


def spoilt(clip: Clip, scene: Set, rng: Rng, kind: str) -> Clip:
    """A clip that is useless in one way of BAD: sound 6 to 8 frames off, other sound or none, a still picture, no
    picture, a covered face."""
    record: object = True
    if kind == "desync":
        clip, record = hearing.desync(clip, scene, rng, least=6)
    elif kind in SYNC:
        clip, record = SYNC[kind](clip, scene, rng)
    elif kind == "still":
        clip = picture.at(clip, torch.zeros(clip.frames.shape[1], dtype=torch.long))
    else:
        empty = {name: torch.zeros_like(mask) for name, mask in clip.masks.items()}
        cover = torch.ones_like(clip.frames[:1]) if kind == "blank" else clip.masks["person"][None]
        clip = replace(clip, frames=clip.frames * (1 - cover) - cover, masks=empty)
    return replace(clip, damage={kind: record})
