"""Clips of the shapes world as a student may have got them wrong: where and how they move is right, the look is not.

Shown as the past of a true clip they teach a streaming student to draw what its caption says, whatever it has made
before: its place and angle from the past, colour, shape and mark from the words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.rng import Rng
from .shapes import BACKGROUND, COLOURS, SHAPES, Scene, Shapes, hole, own_frame, parse, signed_distance, track

BENDS = 3  # waves around an outline


@dataclass(frozen=True)
class Mistake:
    """shape, share: how far, of 1, the outline is that shape's and not its own; colour: RGB; mark: how much of the mark
    is left; bends: (arms, amplitude, phase, turn a frame) of waves by which the outline grows with the angle."""

    shape: str
    share: float
    colour: tuple[float, ...]
    mark: float
    bends: tuple[tuple[int, float, float, float], ...]


def mistake(scene: Scene, named: tuple[bool, bool], rng: Rng) -> Mistake:
    """A random one. named: whether the caption says colour and shape; what it leaves open only the past can tell."""
    thing, u = scene.thing, rng.uniform("mistake", (8,)).tolist()
    assert thing.shape is not None and thing.colour is not None
    share = 1.0 if u[0] < 0.3 else u[0]
    others = [shape for shape in SHAPES if shape != thing.shape]
    shape = others[int(u[1] * len(others))] if named[1] and u[2] < 0.7 else thing.shape
    own = COLOURS[thing.colour]
    towards = [*COLOURS.values()][int(u[3] * len(COLOURS))] if named[0] and u[4] < 0.3 else own
    colour = tuple(a + share * (b - a) for a, b in zip(own, towards, strict=True))
    bends: list[tuple[int, float, float, float]] = []
    if named[1] and u[5] < 0.6:
        for a, b, c, d in rng.uniform("bends", (BENDS, 4)).tolist():
            bends.append((3 + int(4 * a), 0.2 * b * b, 2 * math.pi * c, 0.3 * (d - 0.5)))
    return Mistake(shape, share, colour, 1.0 if u[6] < 0.5 else 0.2 + 0.8 * u[7], tuple(bends))


def drawn(scene: Scene, wrong: Mistake, frames: Tensor, size: int) -> Tensor:
    """Coverage [T, size, size] of the object at its true place and angle, with the mistake."""
    centre, angle = track(scene, frames)
    (u, v), r = own_frame(centre, angle, size), torch.full_like(angle, scene.radius)[:, None, None]
    around, since = torch.atan2(v, u), torch.arange(len(frames))[:, None, None]
    grown = torch.ones_like(u)
    for arms, size_of, phase, turn in wrong.bends:
        grown = grown + size_of * torch.cos(arms * around + phase + turn * since)
    assert scene.thing.shape is not None
    own, other = (signed_distance(shape, u / grown, v / grown, r) for shape in (scene.thing.shape, wrong.shape))
    body = (0.5 - torch.lerp(own, other, wrong.share)).clamp(0, 1)  # between a square and a circle lie round corners
    return body * (1 - wrong.mark * hole(u, v, r))


def mistaken(world: Shapes, index: int) -> Tensor:
    """Pixels [3, T, size, size] in [-1, 1] of clip `index`, of which a share of `world.mistaken` is wrong up to a
    random frame, or to its end; true from there on."""
    rng, clip = Rng(world.seed, index, turn="mistaken"), world.clip(index)
    if float(rng.uniform("whether", ())) >= world.mistaken:
        return clip
    start = world.begins(index)
    frames = torch.arange(start, start + world.frames).to(torch.float32)
    wrong = torch.tensor(BACKGROUND)[:, None, None, None].expand_as(clip).clone()
    for number, (scene, said) in enumerate(zip(world.scenes(index), parse(world.caption(index)), strict=True)):
        named = (said.colour is not None, said.shape is not None)
        made = mistake(scene, named, rng.at(turn=f"mistaken/{number}"))
        colour = torch.tensor(made.colour)[:, None, None, None]
        wrong = wrong + drawn(scene, made, frames, world.size) * (colour - wrong)
    until = rng.integer("until", world.frames + world.frames // 4)
    return torch.cat([wrong[:, :until], clip[:, until:]], 1)
