"""How a stream of the shapes world should go on from whatever it shows: the expert of DAgger (Ross et al. 2011).

A stream strays from every true clip, so no clip says what comes next. But where its thing is, and how it has turned,
can be read from its pixels, and what the caption names be drawn there, a little later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..core.codec import Codec
from ..core.step import Batch
from .shapes import BACKGROUND, COLOURS, Shapes, Thing, coverage, parse
from .source import index_of
from .trace import figures, ramp

SPINS = {"rotates": (7.0, 11.0), "rests": (0.0, 0.0)}  # degrees a frame, of what the expert can follow
TRIED = torch.arange(-18.0, 18.1, 3.0)  # degrees around the angle that is expected
MEMORY = 20  # frames that say how it goes on
SETTLED = 8  # frames before a thing's own spin is believed
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
        """[B] bool: one thing, all of which the caption says, that turns or rests."""
        return torch.tensor([follows(parse(self.world.caption(index_of(key)))) for key in batch.keys])

    def __call__(self, streams: Tensor, batch: Batch) -> Tensor:
        """What should have followed at each block of streams [B, C, T, H, W] of such samples, of their shape."""
        pixels, length = self.codec.decode(streams).cpu(), streams.shape[2]
        last, things = pixels.shape[2], [self.world.things(index_of(key))[0] for key in batch.keys]
        starts = [max(last - (length - latent) * self.codec.temporal, 0) for latent in self.starts(length)]
        return self.codec.encode(ahead(pixels, things, starts)).to(streams)


def follows(things: Sequence[Thing]) -> bool:
    """Whether the expert can tell how a clip of these things goes on: one thing, all said, that turns or rests."""
    return len(things) == 1 and things[0].motion in SPINS and None not in (things[0].colour, things[0].shape)


def ahead(pixels: Tensor, things: Sequence[Thing], starts: Sequence[int]) -> Tensor:
    """What should have followed in clips [B, 3, T, H, W] at each of their blocks, given the frames before it.

    things: one a clip, that `follows`; starts: the frame that each block begins at, ascending, the first 0, whose block
    stays as it is.
    """
    path, made, size = read(covered(pixels, things), things), pixels.clone(), min(pixels.shape[-2:])
    colour = pixels.new_tensor([COLOURS[str(t.colour)] for t in things])[:, :, None, None, None]
    ground = pixels.new_tensor(BACKGROUND)[:, None, None, None]
    low, high = (size / 32 * r for r in RADII)
    for start, end in pairwise([*starts[1:], pixels.shape[2]]):
        seen, count = slice(max(0, start - MEMORY), start), end - start
        last, rate = line(path.angle[:, seen], things)
        angle = last[:, None] + rate[:, None] * torch.arange(1, count + 1)
        centre = path.centre[:, seen].mean(1, keepdim=True).expand(-1, count, -1)
        radius = path.radius[:, seen].mean(1, keepdim=True).clamp(low, high).expand(-1, count)
        made[:, :, start:end] = ground + drawn(things, centre, angle, radius, size)[:, None] * (colour - ground)
    return made


def covered(pixels: Tensor, things: Sequence[Thing]) -> Tensor:
    """How much of each pixel of [B, 3, T, H, W] is of its thing's colour, [B, T, H, W] in [0, 1]."""
    ground = pixels.new_tensor(BACKGROUND)
    ray = pixels.new_tensor([COLOURS[str(t.colour)] for t in things]) - ground
    along = ray / ray.square().sum(1, keepdim=True)
    return ramp(torch.einsum("bcthw,bc->bthw", pixels - ground[:, None, None, None], along))


def read(cover: Tensor, things: Sequence[Thing]) -> Path:
    """Where each thing is, from its cover [B, T, H, W]: centre and radius by its mass, the angle from frame to frame by
    what the caption's shape would cover. A turn that the picture leaves open, as of a square without its mark, is
    decided by the frames before; all things begin upright."""
    centre_of, area = mass(cover)
    figure = [figures()[str(t.shape)] for t in things]
    radius = (area / area.new_tensor([f.area for f in figure])[:, None]).sqrt()
    below = radius * radius.new_tensor([f.below for f in figure])[:, None]
    angles = [torch.zeros(len(things))]
    for frame in range(1, cover.shape[1]):
        known = torch.stack(angles[-MEMORY:], 1)
        rate = line(known, things)[1] if frame >= SETTLED else usual(things)
        tried = (angles[-1] + rate)[:, None] + TRIED.deg2rad()
        centre = centre_of[:, frame, None] - down(tried) * below[:, frame, None, None]
        shown = drawn(things, centre, tried, radius[:, frame, None].expand_as(tried), cover.shape[-1])
        angles.append(least(tried, (shown - cover[:, frame, None]).square().sum((-1, -2))))
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


def spins(things: Sequence[Thing]) -> tuple[Tensor, Tensor]:
    """(slowest, fastest) [B], radians a frame."""
    low, high = torch.tensor([[math.radians(rate) for rate in SPINS[str(t.motion)]] for t in things]).unbind(1)
    return low, high


def usual(things: Sequence[Thing]) -> Tensor:
    """The mean of both, [B]."""
    low, high = spins(things)
    return (low + high) / 2


def line(angle: Tensor, things: Sequence[Thing]) -> tuple[Tensor, Tensor]:
    """(value at the last frame, rise a frame) [B] of the line through angles [B, n] that turns as such things do."""
    if angle.shape[1] == 1:
        return angle[:, 0], usual(things)
    frame = torch.arange(angle.shape[1]) - (angle.shape[1] - 1) / 2
    rate = ((angle * frame).sum(1) / frame.square().sum()).clamp(*spins(things))
    return angle.mean(1) + rate * frame[-1], rate
