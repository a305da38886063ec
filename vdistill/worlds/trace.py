"""From pixels of the `shapes` world to geometry: which colours are there, and where, how big and how turned each is.

Analysis by synthesis: every candidate outline is drawn with the renderer of the world itself and laid over the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..core.errors import UserError
from .shapes import BACKGROUND, COLOURS, SHAPES, coverage

ANGLES = 24  # coarse search over the full turn; then refined to about 1.5 degrees
FINE = (-6.0, -3.0, 0.0, 3.0, 6.0)  # degrees around the best coarse angle
STRANGE = 0.55  # RGB distance from every background-to-colour segment beyond which a pixel belongs to nothing
SMALLEST = 6.0  # pixels (at 32 px): the smallest thing of the world covers 13
MINOR = 0.12  # share of the largest thing's area below which a colour is a stain, not a thing (true minimum 0.2)
STEADY = 0.9  # share of frames in which a thing must be present
COMPACT = 0.2  # mean IoU with the nearest shape below which a colour is scattered, not a thing (noise 0.05, halves 0.3)
SEARCH = 10.5  # half width of the window a thing must fit in, pixels at 32 px (true maximum 8.3)
CHUNK = 8  # clips measured at once; bounds memory


@dataclass(frozen=True)
class Fit:
    """What was measured of one thing over T frames; lengths in pixels, angles in radians clockwise, all float32.

    centre [T, 2] (x, y); angle [T] in [0, 2 pi); radius [T]; iou [T] of the best shape, soft, in [0, 1];
    present [T] bool; shapes [4]: mean IoU with each of SHAPES. Rows of absent frames repeat the nearest present one.
    """

    colour: str
    centre: Tensor
    angle: Tensor
    radius: Tensor
    iou: Tensor
    present: Tensor
    shapes: Tensor

    @property
    def shape(self) -> str:
        """The most similar shape, however poor the likeness."""
        return SHAPES[int(self.shapes.argmax())]

    @property
    def error(self) -> float:
        """Mean distance between the thing's outline and that of `shape`, in radii: area in dispute / (outline radius).

        The same damage costs a slender shape more IoU than a round one, but all of them the same error.
        """
        iou, figure = float(self.shapes.max()), figures()[self.shape]
        return 2 * figure.area * (1 - iou) / ((1 + iou) * figure.outline)


@dataclass(frozen=True)
class Trace:
    """The steady things of one clip, largest first; colours that come and go; and colours strewn about like noise."""

    fits: tuple[Fit, ...]
    flickering: tuple[str, ...]
    scattered: tuple[str, ...]


def ramp(alpha: Tensor) -> Tensor:
    """Forget faint tints and slight transparency, keep the half-covered edge where it is; [0, 1] -> [0, 1]."""
    return ((alpha - 0.15) / 0.7).clamp(0, 1)


@dataclass(frozen=True)
class Figure:
    """A shape of radius 1: area; length of its outline, the hole's included; how far below its centre its mass lies."""

    area: float
    outline: float
    below: float


@cache
def figures() -> dict[str, Figure]:
    """Every shape measured on the renderer, so that the two cannot disagree."""
    centre, radius, found = torch.tensor([100.0, 100.0]), torch.tensor(80.0), {}
    for shape in SHAPES:
        cover = coverage(shape, centre, torch.tensor(0.0), radius, 200)
        area, rows = float(cover.sum()), torch.arange(200) + 0.5 - 100
        below = float((cover.sum(1) * rows).sum()) / area
        # An edge is a ramp c one pixel wide, over which c (1 - c) sums to 1/6; askew, so that it meets the grid evenly.
        askew = coverage(shape, torch.tensor([100.3, 100.4]), torch.tensor(0.3), radius, 200)
        outline = 6 * float((askew * (1 - askew)).sum())
        found[shape] = Figure(area / 80.0**2, outline / 80.0, below / 80.0)
    return found


def unmix(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage by each colour and RGB distance from the background-to-colour segment, both [B, 6, T, H, W].

    Elementwise on purpose: a clip's numbers do not depend on the batch it came in.
    """
    ground = pixels.new_tensor(BACKGROUND)
    ray = pixels.new_tensor(list(COLOURS.values())) - ground  # [6, 3]
    offset = pixels - ground[:, None, None, None]
    square = (ray**2).sum(1)[:, None, None, None]
    dot = sum((offset[:, c, None] * ray[:, c, None, None, None] for c in range(3)), start=offset.new_zeros(()))
    alpha = (dot / square).clamp(0, 1)
    gap = (offset**2).sum(1, keepdim=True) - 2 * alpha * dot + alpha**2 * square
    return alpha, gap.clamp(min=0).sqrt()


def own(alpha: Tensor, gap: Tensor, among: Tensor) -> Tensor:
    """Coverage [B, 6, T, H, W] with every pixel given to the one colour of `among` [B, 6] it fits best, or to none."""
    gap = gap.masked_fill(~among[:, :, None, None, None], math.inf)
    least, best = gap.min(1, keepdim=True)
    index = torch.arange(gap.shape[1], device=gap.device)[:, None, None, None]
    return alpha * ((best == index) & (least < STRANGE))


def present(alpha: Tensor, gap: Tensor) -> Tensor:
    """In which frames each colour covers enough to be a thing, [B, 6, T] bool."""
    everything = torch.ones(alpha.shape[:2], dtype=torch.bool, device=alpha.device)
    area = (own(alpha, gap, everything) > 0.5).sum((-1, -2)).float()
    unit = min(alpha.shape[-2:]) / 32
    return (area >= SMALLEST * unit**2) & (area >= MINOR * area.amax(1, keepdim=True))


def hold(values: Tensor, there: Tensor) -> Tensor:
    """Rows [T, ...] with absent frames replaced by the nearest present frame."""
    frames = torch.arange(len(there), device=values.device)
    distance = (frames[:, None] - frames[None, :]).abs().float().masked_fill(~there[None, :], math.inf)
    return values[distance.argmin(1)]


@dataclass(frozen=True)
class Window:
    """One thing's coverage cut out around its centre of mass, one row per frame: mask [T, W, W]; centre [T, 2] of mass
    within the window; corner [T, 2] of the window in the clip; area [T] of the whole mask, pixels."""

    mask: Tensor
    centre: Tensor
    corner: Tensor
    area: Tensor

    def at(self, frames: slice) -> Window:
        return Window(self.mask[frames], self.centre[frames], self.corner[frames], self.area[frames])


def cut(mask: Tensor) -> Window:
    """Cut the thing out of mask [T, H, W]."""
    height, width = mask.shape[-2:]
    half = math.ceil(SEARCH * min(height, width) / 32)
    area = mask.sum((-1, -2)).clamp(min=1e-6)
    x = (mask.sum(1) * (torch.arange(width, device=mask.device) + 0.5)).sum(-1) / area
    y = (mask.sum(2) * (torch.arange(height, device=mask.device) + 0.5)).sum(-1) / area
    mass = torch.stack([x, y], -1)
    corner = mass.round().long() - half
    padded = torch.nn.functional.pad(mask, (half, half, half, half))
    steps = torch.arange(2 * half, device=mask.device)
    rows, columns = corner[:, 1, None] + half + steps, corner[:, 0, None] + half + steps
    frames = torch.arange(len(mask), device=mask.device)[:, None, None]
    return Window(padded[frames, rows[:, :, None], columns[:, None, :]], mass - corner, corner.float(), area)


def place(window: Window, shape: str, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Centre [T, A, 2] in the window and radius [T, A] that give `shape` the measured mass at each angle [T, A]."""
    figure = figures()[shape]
    radius = (window.area / figure.area).sqrt()[:, None].expand_as(angle)
    shift = torch.stack([-torch.sin(angle), torch.cos(angle)], -1) * (figure.below * radius)[..., None]
    return window.centre[:, None] - shift, radius


def likeness(window: Window, shape: str, angle: Tensor) -> Tensor:
    """Soft IoU (sum of minima / sum of maxima) of the thing with `shape` at each angle [T, A], areas being equal."""
    centre, radius = place(window, shape, angle)
    drawn = ramp(coverage(shape, centre, angle, radius, window.mask.shape[-1]))
    common = torch.minimum(drawn, window.mask[:, None]).sum((-1, -2))
    return common / (2 * window.area[:, None] - common)


def turned(window: Window, shape: str) -> tuple[Tensor, Tensor]:
    """Best angle [T] and its IoU [T] for a given shape: coarse over the full turn, then fine."""
    count = len(window.area)
    coarse = torch.arange(ANGLES, device=window.area.device) * (2 * math.pi / ANGLES)
    best = coarse[likeness(window, shape, coarse.expand(count, -1)).argmax(1)]
    fine = best[:, None] + torch.tensor(FINE, device=best.device).deg2rad()
    iou, index = likeness(window, shape, fine).max(1)
    return fine.gather(1, index[:, None])[:, 0] % (2 * math.pi), iou


def fit(colour: str, mask: Tensor, there: Tensor) -> Fit:
    """Fit one thing's soft mask [T, H, W]; `there` [T] says in which frames it is present (at least one)."""
    seen = cut(mask[there])
    some = seen.at(slice(None, None, 2))
    shapes = torch.stack([turned(some, shape)[1].mean() for shape in SHAPES])
    shape = SHAPES[int(shapes.argmax())]
    angle, iou = turned(seen, shape)
    centre, radius = place(seen, shape, angle[:, None])
    index = there.nonzero()[:, 0]
    rows = torch.cat([centre[:, 0] + seen.corner, angle[:, None], radius, iou[:, None]], 1)  # [T', 5]
    table = hold(rows.new_zeros(len(there), 5).index_copy(0, index, rows), there)
    return Fit(colour, table[:, :2], table[:, 2], table[:, 3], table[:, 4] * there, there, shapes)


def trace(pixels: Tensor) -> list[Trace]:
    """Measure clips [B, 3, T, H, W] in [-1, 1]; B traces. Raises UserError for other shapes and non-finite pixels."""
    check(pixels)
    return [found for part in pixels.detach().float().clamp(-1, 1).split(CHUNK) for found in _trace(part)]


def _trace(pixels: Tensor) -> list[Trace]:
    alpha, gap = unmix(pixels)
    there = present(alpha, gap)  # [B, 6, T]
    share = there.float().mean(-1)
    steady = share >= STEADY
    mask = ramp(own(alpha, gap, steady))
    names, found = list(COLOURS), []
    for b in range(len(pixels)):
        fits = [fit(names[k], mask[b, k], there[b, k]) for k in steady[b].nonzero()[:, 0].tolist()]
        things = sorted((f for f in fits if float(f.shapes.max()) >= COMPACT), key=lambda f: -float(f.radius.mean()))
        loose = (~steady[b] & (share[b] > 1 - STEADY)).nonzero()[:, 0].tolist()
        strewn = tuple(f.colour for f in fits if float(f.shapes.max()) < COMPACT)
        found.append(Trace(tuple(things), tuple(names[k] for k in loose), strewn))
    return found


def check(pixels: Tensor) -> None:
    """Refuse what is no batch of RGB clips."""
    if pixels.ndim != 5 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
        raise UserError(f"expected pixels [B, 3, T, H, W], found {list(pixels.shape)}", "judge")
    if not torch.isfinite(pixels).all():
        bad = (~torch.isfinite(pixels)).flatten(1).any(1).nonzero()[:, 0].tolist()
        raise UserError(f"non-finite pixels in clips {bad[:8]}", "judge", "look at the sampler or the weights")
