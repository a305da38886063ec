"""The `shapes` world: captioned clips of coloured things that move, turn or rest for ever; deterministic by index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.rng import Rng

COLOURS: dict[str, tuple[float, float, float]] = {  # RGB in [-1, 1]
    "red": (0.9, -0.7, -0.7),
    "green": (-0.7, 0.7, -0.6),
    "blue": (-0.6, -0.3, 1.0),
    "yellow": (1.0, 0.8, -0.7),
    "magenta": (0.9, -0.6, 0.9),
    "cyan": (-0.6, 0.8, 0.9),
}
SHAPES = ("circle", "square", "triangle", "cross")
MOTIONS = ("moves left", "moves right", "moves up", "moves down", "rotates", "rests")
BACKGROUND = (-0.8, -0.8, -0.72)
DIRECTIONS = {"moves left": (-1.0, 0.0), "moves right": (1.0, 0.0), "moves up": (0.0, -1.0), "moves down": (0.0, 1.0)}
SPAN = 16  # frames in which a mover crosses its free path once without bouncing


@dataclass(frozen=True)
class Thing:
    """What a caption says of one object; None is left open."""

    colour: str | None
    shape: str | None
    motion: str | None

    def phrase(self) -> str:
        noun = " ".join(w for w in (self.colour, self.shape or "shape") if w)
        article = "an" if noun[0] in "aeiou" else "a"
        return f"{article} {noun}" + (f" {self.motion}" if self.motion else "")


@dataclass(frozen=True)
class Scene:
    """One object's geometry in pixels, frames and radians; x grows right, y grows down."""

    thing: Thing
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]  # pixels per frame
    low: tuple[float, float]  # the box its centre bounces in
    high: tuple[float, float]
    angle: float
    spin: float  # radians per frame, clockwise on screen


def caption(things: Sequence[Thing]) -> str:
    """ "a red square moves left while a blue circle rotates"."""
    return " while ".join(t.phrase() for t in things)


def parse(text: str) -> list[Thing]:
    """The things a caption names; words the world does not know stay open. Inverse of `caption`."""
    found = []
    for part in text.lower().split(" while "):
        words = part.split()
        motion = next((m for m in MOTIONS if m in part), None)
        found.append(
            Thing(next((c for c in COLOURS if c in words), None), next((s for s in SHAPES if s in words), None), motion)
        )
    return found


def held_out(thing: Thing) -> bool:
    """One colour-shape-motion triple in eight is never trained on."""
    if thing.colour is None or thing.shape is None or thing.motion is None:
        return False
    i, j, k = list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), MOTIONS.index(thing.motion)
    return (i + 3 * j + 5 * k) % 8 == 0


def signed_distance(shape: str, u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    """Distance to the outline in pixels (negative inside), in the object's own frame; u right, v down, same shape."""
    if shape == "circle":
        return torch.hypot(u, v) - 0.9 * radius
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.78 * radius
    if shape == "triangle":  # apex up, circumradius 1.1 r
        slanted = u.abs() * math.cos(math.pi / 6) - v * math.sin(math.pi / 6)
        return torch.maximum(slanted, v) - 0.55 * radius
    if shape == "cross":
        long, wide = 0.98 * radius, 0.36 * radius
        return torch.minimum(
            torch.maximum(u.abs() - long, v.abs() - wide), torch.maximum(u.abs() - wide, v.abs() - long)
        )
    raise ValueError(f"unknown shape {shape!r}; the world has {', '.join(SHAPES)}")


def own_frame(centre: Tensor, angle: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(u right, v down), [..., size, size] pixels, of every pixel in the frame of an object: see `coverage`."""
    grid = torch.arange(size, dtype=centre.dtype, device=centre.device) + 0.5
    dx = grid[None, :] - centre[..., 0, None, None]
    dy = grid[:, None] - centre[..., 1, None, None]
    cos, sin = torch.cos(angle)[..., None, None], torch.sin(angle)[..., None, None]
    return cos * dx + sin * dy, cos * dy - sin * dx


def body(shape: str, u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """How much of each pixel the object would cover without its mark, in [0, 1]; the arguments of `signed_distance`."""
    return (0.5 - signed_distance(shape, u, v, r)).clamp(0, 1)


def hole(u: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """How much of each pixel is in the mark that shows the orientation, in [0, 1]."""
    return (0.5 - (torch.hypot(u, v + 0.42 * r) - 0.24 * r)).clamp(0, 1)


def coverage(shape: str, centre: Tensor, angle: Tensor, radius: Tensor, size: int) -> Tensor:
    """How much of each pixel the object covers, [..., size, size] in [0, 1].

    centre: [..., 2] pixels; angle: [...] radians clockwise; radius: [...] pixels. The small hole shows the orientation.
    """
    (u, v), r = own_frame(centre, angle, size), radius[..., None, None]
    return body(shape, u, v, r) * (1 - hole(u, v, r))


def bounce(position: Tensor, low: float, high: float) -> Tensor:
    """Reflect an unbounded coordinate into [low, high]."""
    width = high - low
    if width <= 0:
        return torch.full_like(position, low)
    return low + width - ((position - low) % (2 * width) - width).abs()


def track(scene: Scene, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Centre [T, 2] in pixels and angle [T] in radians at the given frame numbers, any length."""
    axes = [bounce(scene.start[i] + scene.velocity[i] * frames, scene.low[i], scene.high[i]) for i in range(2)]
    return torch.stack(axes, -1), scene.angle + scene.spin * frames


def render(scenes: Sequence[Scene], frames: Tensor, size: int) -> Tensor:
    """Pixels [3, T, size, size] in [-1, 1] of the objects, later ones in front."""
    frames = frames.to(torch.float32)
    clip = torch.tensor(BACKGROUND)[:, None, None, None].expand(3, len(frames), size, size).clone()
    for scene in scenes:
        centre, angle = track(scene, frames)
        assert scene.thing.shape is not None and scene.thing.colour is not None
        alpha = coverage(scene.thing.shape, centre, angle, torch.full_like(angle, scene.radius), size)
        colour = torch.tensor(COLOURS[scene.thing.colour])[:, None, None, None]
        clip = clip + alpha * (colour - clip)
    return clip


@dataclass(frozen=True)
class Shapes:
    """Clips of one or two things. `clip(i)` and `things(i)` depend on (seed, i) alone.

    frames, size: of a clip, size in pixels; counts: how many things a clip may hold; open: probability that a caption
    leaves an attribute out; turning: extra share of clips whose first thing rotates, the hardest motion to learn;
    late: clips begin at a random frame up to this one of their endless scene, where movers may bounce; split:
    "train" never shows the held-out triples, "test" shows nothing else, "all" both.
    """

    frames: int = 17
    size: int = 32
    counts: tuple[int, ...] = (1,)
    open: float = 0.1
    split: str = "train"
    seed: int = 0
    turning: float = 0.0
    late: int = 0

    def things(self, index: int) -> list[Thing]:
        """Ground-truth attributes of clip `index`."""
        rng = Rng(self.seed, index)
        count = self.counts[rng.integer("count", len(self.counts))]
        for attempt in range(1000):
            i = rng.integers(f"colour/{attempt}", (count,), len(COLOURS)).tolist()
            j = rng.integers(f"shape/{attempt}", (count,), len(SHAPES)).tolist()
            k = rng.integers(f"motion/{attempt}", (count,), len(MOTIONS)).tolist()
            if self.turning and float(rng.uniform(f"turning/{attempt}", ())) < self.turning:
                k[0] = MOTIONS.index("rotates")
            found = [Thing(list(COLOURS)[a], SHAPES[b], MOTIONS[c]) for a, b, c in zip(i, j, k, strict=True)]
            wanted = {"train": (False,), "test": (True,), "all": (True, False)}[self.split]
            if len(set(i)) == count and all(held_out(t) in wanted for t in found):
                return found
        raise RuntimeError("no admissible scene in 1000 attempts")

    def scenes(self, index: int) -> list[Scene]:
        """Geometry of clip `index`."""
        rng, things = Rng(self.seed, index, turn="geometry"), self.things(index)
        cells = self._cells(len(things), rng.integer("layout", 2))
        return [
            self._scene(t, cell, rng.uniform(f"thing/{n}", (6,)).tolist(), len(things))
            for n, (t, cell) in enumerate(zip(things, cells, strict=True))
        ]

    def _cells(self, count: int, layout: int) -> list[tuple[float, float, float, float]]:
        s = float(self.size)
        if count == 1:
            return [(0.0, 0.0, s, s)]
        halves = [(0.0, 0.0, s, s / 2), (0.0, s / 2, s, s)] if layout else [(0.0, 0.0, s / 2, s), (s / 2, 0.0, s, s)]
        return halves

    def _scene(self, thing: Thing, cell: tuple[float, float, float, float], u: list[float], count: int) -> Scene:
        unit = self.size / 32
        radius = unit * (5.5 + 2.0 * u[0] if count == 1 else 4.4 + 0.8 * u[0])
        low, high = (cell[0] + radius, cell[1] + radius), (cell[2] - radius, cell[3] - radius)
        start = [low[i] + u[1 + i] * (high[i] - low[i]) for i in range(2)]
        velocity = [0.0, 0.0]
        for axis, sign in enumerate(DIRECTIONS.get(thing.motion or "", (0.0, 0.0))):
            if sign:
                free = high[axis] - low[axis]
                path = free * (0.7 + 0.3 * u[3])
                begin = (free - path) * u[1 + axis]
                start[axis] = low[axis] + begin if sign > 0 else high[axis] - begin
                velocity[axis] = sign * path / SPAN
        turning = thing.motion == "rotates"
        spin = math.radians(7 + 4 * u[5]) if turning else 0.0
        return Scene(thing, radius, (start[0], start[1]), (velocity[0], velocity[1]), low, high, 0.0, spin)

    def begins(self, index: int) -> int:
        """The frame of the endless scene at which clip `index` begins."""
        return Rng(self.seed, index, turn="begins").integer("frame", self.late + 1) if self.late else 0

    def clip(self, index: int, start: int = 0, frames: int | None = None) -> Tensor:
        """Pixels [3, T, size, size] in [-1, 1] of frames [start, start + T) from where the clip begins."""
        start += self.begins(index)
        return render(self.scenes(index), torch.arange(start, start + (frames or self.frames)), self.size)

    def caption(self, index: int) -> str:
        """The caption; attributes are left open with probability `open` each."""
        skip = Rng(self.seed, index, turn="open").uniform("skip", (2, 3)) < self.open
        return caption(
            [
                Thing(*(None if skip[n, a] else value for a, value in enumerate((t.colour, t.shape, t.motion))))
                for n, t in enumerate(self.things(index))
            ]
        )
