"""How a stream of the shapes world should go on from whatever it shows: the expert of DAgger (Ross et al. 2011).

A stream strays from every true clip, so no clip says what comes next. But where its thing is, where it goes and how it
has turned can be read from its pixels, and what the caption names be drawn there, a little later. So too where the
caption has changed: the thing becomes another one, in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from ..core.codec import Codec
from ..core.step import Batch
from .shapes import BACKGROUND, COLOURS, DIRECTIONS, SPAN, Shapes, Thing, coverage, held_out, parse
from .source import index_of
from .trace import figures, ramp

SPIN = (math.radians(7.0), math.radians(11.0))  # a frame, slowest and fastest of what rotates
PATHS = torch.linspace(0.7, 1.0, 13)  # shares of its free path that a mover takes SPAN frames for
PHASES = 320  # places on the way to and fro that are tried
TRIED = torch.arange(-18.0, 18.1, 3.0)  # degrees around the angle that is expected
MEMORY = 20  # frames that say how it goes on
SETTLED = 8  # frames before a thing's own spin is believed
ANYHOW = torch.arange(0.0, 361.0, 3.0)  # degrees, where no frame before says how it is turned
RADII = (5.5, 7.5)  # pixels at 32 px


@dataclass(frozen=True)
class Path:
    """Of B things over T frames: centre [B, T, 2] (x, y) and radius [B, T] in pixels, angle [B, T] in radians, which
    goes on past a full turn."""

    centre: Tensor
    radius: Tensor
    angle: Tensor


@dataclass(frozen=True)
class ShapesExpert:
    """The expert of streams made for batches of ShapesSource. starts: number of latents -> those where blocks begin."""

    world: Shapes
    codec: Codec
    starts: Callable[[int], Sequence[int]]

    def follows(self, batch: Batch) -> Tensor:
        """[B] bool: one thing, of which its world knows all."""
        return torch.tensor([len(self.world.things(index_of(key))) == 1 for key in batch.keys])

    def told(self, batch: Batch) -> Tensor:
        """[B] bool: one thing, all of which the caption says."""
        return torch.tensor([told(parse(self.world.caption(index_of(key)))) for key in batch.keys])

    def meet(self, batch: Batch, before: Batch) -> Tensor:
        """[B] bool: no mixture of a sample's thing and the one before it is held out.

        Else training would deny what it must not show: where green squares that rotate are held out, one that is told
        to rotate would never stay a square.
        """
        pairs = zip(self._things(batch), self._things(before), strict=True)
        return torch.tensor([not any(map(held_out, mixtures(*pair))) for pair in pairs])

    def __call__(self, streams: Tensor, batch: Batch, before: Batch, turn: int) -> Tensor:
        """What should have followed at each block of streams [B, C, T, H, W] of such samples, of their shape.

        The first `turn` latents were made for the samples of `before`.
        """
        pixels, length = self.codec.decode(streams).cpu(), streams.shape[2]
        last = pixels.shape[2]
        turn, *starts = (max(last - (length - n) * self.codec.temporal, 0) for n in (turn, *self.starts(length)))
        said = ahead(pixels, self._things(batch), starts, self._things(before), turn)
        return self.codec.encode(said).to(streams)

    def _things(self, batch: Batch) -> list[Thing]:
        return [self.world.things(index_of(key))[0] for key in batch.keys]


def mixtures(one: Thing, other: Thing) -> list[Thing]:
    """The things that have the colour, the shape and the motion of either."""
    said = ((t.colour, t.shape, t.motion) for t in (one, other))
    return [Thing(*each) for each in product(*zip(*said, strict=True))]


def told(things: Sequence[Thing]) -> bool:
    """Whether these are one thing, of which all is said."""
    return len(things) == 1 and None not in (things[0].colour, things[0].shape, things[0].motion)


def ahead(
    pixels: Tensor, things: Sequence[Thing], starts: Sequence[int], before: Sequence[Thing] = (), turn: int = 0
) -> Tensor:
    """What should have followed in clips [B, 3, T, H, W] at each of their blocks, given the frames before it.

    things: one a clip, nothing of it left open; starts: the frame that each block begins at, ascending, the first 0,
    whose block stays as it is; before: what the first `turn` frames show, where that is something else.
    """
    shown, made, size = path(pixels, things, before, turn), pixels.clone(), min(pixels.shape[-2:])
    colour = pixels.new_tensor([COLOURS[str(t.colour)] for t in things])[:, :, None, None, None]
    ground = pixels.new_tensor(BACKGROUND)[:, None, None, None]
    low, high = (size / 32 * r for r in RADII)
    for start, end in pairwise([*starts[1:], pixels.shape[2]]):
        first, count = (start - 1 if start <= turn else max(turn, start - MEMORY)), end - start
        seen = slice(first, start)
        last, rate = line(shown.angle[:, seen], things)
        angle = last[:, None] + rate[:, None] * torch.arange(1, count + 1)
        radius = shown.radius[:, seen].mean(1).clamp(low, high)
        centre = onward(shown.centre[:, seen], radius, things, count, size)
        drawing = drawn(things, centre, angle, radius[:, None].expand(-1, count), size)
        made[:, :, start:end] = ground + drawing[:, None] * (colour - ground)
    return made


def path(pixels: Tensor, things: Sequence[Thing], before: Sequence[Thing], turn: int) -> Path:
    """Where the thing of each clip [B, 3, T, H, W] is, which was one of `before` in the first `turn` frames."""
    if not turn:
        return read(covered(pixels, things), things)
    old = read(covered(pixels[:, :, :turn], before), before)
    if turn >= pixels.shape[2]:
        return old
    new = read(covered(pixels[:, :, turn:], things), things)
    parts = zip((old.centre, old.radius, old.angle), (new.centre, new.radius, new.angle), strict=True)
    return Path(*(torch.cat(part, 1) for part in parts))


def covered(pixels: Tensor, things: Sequence[Thing]) -> Tensor:
    """How much of each pixel of [B, 3, T, H, W] is of its thing's colour, [B, T, H, W] in [0, 1]."""
    ground = pixels.new_tensor(BACKGROUND)
    ray = pixels.new_tensor([COLOURS[str(t.colour)] for t in things]) - ground
    along = ray / ray.square().sum(1, keepdim=True)
    return ramp(torch.einsum("bcthw,bc->bthw", pixels - ground[:, None, None, None], along))


def read(cover: Tensor, things: Sequence[Thing]) -> Path:
    """Where each thing is, from its cover [B, T, H, W]: centre and radius by its mass, the angle from frame to frame by
    what its shape would cover. A turn that the picture leaves open, as of a square without its mark, is decided by the
    frames before. What does not rotate stands upright."""
    centre_of, area = mass(cover)
    figure = [figures()[str(t.shape)] for t in things]
    radius = (area / area.new_tensor([f.area for f in figure])[:, None]).sqrt()
    below = radius * radius.new_tensor([f.below for f in figure])[:, None]

    def nearest(frame: int, tried: Tensor) -> Tensor:
        centre = centre_of[:, frame, None] - down(tried) * below[:, frame, None, None]
        shown = drawn(things, centre, tried, radius[:, frame, None].expand_as(tried), cover.shape[-1])
        return least(tried, (shown - cover[:, frame, None]).square().sum((-1, -2))) * rotating(things)

    angles = [nearest(0, ANYHOW.deg2rad().expand(len(things), -1))]
    for frame in range(1, cover.shape[1]):
        rate = line(torch.stack(angles[-MEMORY:], 1), things)[1] if frame >= SETTLED else usual(things)
        angles.append(nearest(frame, (angles[-1] + rate)[:, None] + TRIED.deg2rad()))
    angle = torch.stack(angles, 1)
    return Path(centre_of - down(angle) * below[..., None], radius, angle)


def mass(cover: Tensor) -> tuple[Tensor, Tensor]:
    """(centre of mass [B, T, 2], area [B, T]), pixels."""
    area = cover.sum((-1, -2)).clamp(min=1.0)
    x, y = (torch.arange(n, dtype=cover.dtype) + 0.5 for n in (cover.shape[-1], cover.shape[-2]))
    return torch.stack([(cover.sum(-2) * x).sum(-1) / area, (cover.sum(-1) * y).sum(-1) / area], -1), area


def down(angle: Tensor) -> Tensor:
    """The direction, [..., 2], that is down in the frame of a thing turned by this."""
    return torch.stack([-angle.sin(), angle.cos()], -1)


def drawn(things: Sequence[Thing], centre: Tensor, angle: Tensor, radius: Tensor, size: int) -> Tensor:
    """Coverage [B, N, size, size] of each thing at N places."""
    each = zip(things, centre, angle, radius, strict=True)
    return torch.stack([coverage(str(thing.shape), c, a, r, size) for thing, c, a, r in each])


def least(tried: Tensor, gap: Tensor) -> Tensor:
    """Where the parabola through the smallest of gap [B, N] at even places `tried`, and its neighbours, is least."""
    best = gap.argmin(1, keepdim=True).clamp(1, gap.shape[1] - 2)
    before, here, after = (gap.gather(1, best + k)[:, 0] for k in (-1, 0, 1))
    move = 0.5 * (before - after) / (before - 2 * here + after).clamp(min=1e-4)
    return tried.gather(1, best)[:, 0] + move.clamp(-1, 1) * (tried[:, 1] - tried[:, 0])


def rotating(things: Sequence[Thing]) -> Tensor:
    """[B]: 1 for what rotates, 0 for the rest."""
    return torch.tensor([float(t.motion == "rotates") for t in things])


def usual(things: Sequence[Thing]) -> Tensor:
    """Radians a frame, [B]: the mean of what rotates."""
    return rotating(things) * sum(SPIN) / 2


def line(angle: Tensor, things: Sequence[Thing]) -> tuple[Tensor, Tensor]:
    """(value at the last frame, rise a frame) [B] of the line through angles [B, n] that turns as such things do."""
    turns = rotating(things)
    if angle.shape[1] == 1:
        return angle[:, 0] * turns, usual(things)
    frame = torch.arange(angle.shape[1]) - (angle.shape[1] - 1) / 2
    rate = ((angle * frame).sum(1) / frame.square().sum()).clamp(*SPIN) * turns
    return (angle.mean(1) + rate * frame[-1]) * turns, rate


def onward(centre: Tensor, radius: Tensor, things: Sequence[Thing], count: int, size: int) -> Tensor:
    """The next `count` centres [B, count, 2] of things of radius [B] after centres [B, n, 2]: what moves goes on to
    and fro between the edges, on the way that explains them best, and everything else stays where it was."""
    width = size - 2 * radius
    place = (centre - radius[:, None, None]).maximum(centre.new_zeros(())).minimum(width[:, None, None])
    rows = []
    for axis in range(2):
        ways = centre.new_tensor([DIRECTIONS.get(str(t.motion), (0.0, 0.0))[axis] for t in things])
        still = place[:, :, axis].mean(1, keepdim=True).expand(-1, count)
        moved = to_and_fro(place[:, :, axis], width, ways, count)
        rows.append(torch.where(ways[:, None] != 0, moved, still))
    return torch.stack(rows, -1) + radius[:, None, None]


def to_and_fro(place: Tensor, width: Tensor, ways: Tensor, count: int) -> Tensor:
    """The next places [B, count] of what bounces between 0 and width [B], as a mover of the world does, and was at
    place [B, n]. ways [B]: the sign of where it goes, which decides where a single place does not say it."""
    phase = width[:, None] * torch.arange(PHASES) * (2 / PHASES)  # at the last frame; beyond width: on its way back
    speed = width[:, None] * PATHS / SPAN
    frame = torch.arange(1 - place.shape[1], count + 1)
    tried = phase[:, :, None, None] + speed[:, None, :, None] * frame
    double = 2 * width[:, None, None, None]
    tried = double / 2 - (tried % double - double / 2).abs()
    gap = (tried[..., : place.shape[1]] - place[:, None, None]).square().sum(-1)
    against = (phase >= width[:, None]) == (ways[:, None] > 0)
    unusual = (PATHS - PATHS.mean()).abs()
    gap = gap + 1e-2 * against[:, :, None] + 1e-3 * unusual
    best = gap.flatten(1).argmin(1)
    return tried.flatten(1, 2)[torch.arange(len(place)), best, place.shape[1] :]
