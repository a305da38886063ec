"""Whose face is it, in numbers: fit the parameters of a renderer to frames and compare those that make the person.

Colours are probed first: the median over the pixels that show nothing else is blind to noise and to a mouth or a lid
in the way. Everything is then fitted by damped least squares (Levenberg-Marquardt) through the renderer, from small
pictures to large ones, with the population as a prior (so what cannot be seen stays average) and Cauchy weights (so a
stain bends nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..core.errors import UserError

STEP = 0.05  # of a parameter's spread, for differences
PURE = 0.7  # share of a pixel from which on it tells a colour
STAIN = 0.15  # residual in [-1, 1] units at which a pixel begins to count less
PRIOR = 0.005  # weight of one population spread against a root mean square residual of 1

TOGETHER = 24  # frames fitted at once, some 200 MB at 64 pixels

Plan = Sequence[tuple[int, int]]
"""(size of the pictures, rounds of least squares), one after the other."""
PRECISE: Plan = ((32, 8), (64, 4))
CHEAP: Plan = ((32, 5), (64, 2))


@dataclass(frozen=True)
class Faces:
    """What a renderer of faces says of itself; a frame is a row of P parameters, the person and the moment.

    draw: ([N, P], s) -> pictures [N, 3, s, s] in [-1, 1]; typical, spread: [P], mean and deviation in the population;
    person: names of the parameters that make the person -> their places in the row; colours: places of RGB [K, 3],
    values in [0, 1], each of which changes its own channel of the picture only; moment: names of the parameters of the
    moment -> their places.
    """

    draw: Callable[[Tensor, int], Tensor]
    typical: Tensor
    spread: Tensor
    person: Mapping[str, Sequence[int]]
    colours: Tensor
    moment: Mapping[str, int] = field(default_factory=dict)

    @property
    def places(self) -> Tensor:
        return torch.tensor([place for each in self.person.values() for place in each])


@dataclass(frozen=True)
class IdentityError:
    """Root mean square errors in population spreads, each [B]: of all parameters of the person, and by name."""

    total: Tensor
    parts: Mapping[str, Tensor]


def shares(faces: Faces, row: Tensor, shown: Tensor) -> Tensor:
    """How much of each pixel is colour k, [N, K, 3, h, w]: by what it changes. About 1 where it shows nothing else."""
    found = []
    for places in faces.colours:
        other = row.clone()
        other[:, places] += STEP
        found.append((faces.draw(other, shown.shape[-1]) - shown) / (2 * STEP))
    return torch.stack(found, 1) if found else shown.new_zeros(len(shown), 0, *shown.shape[1:])


def probed(frames: Tensor, share: Tensor, otherwise: Tensor) -> Tensor:
    """Median colours [N, K, 3] in [0, 1] of frames [N, 3, h, w] over the pixels whose `shares` exceed PURE.

    otherwise: [N, K, 3], kept where there are fewer than 3 such pixels.
    """
    colour = ((frames + 1) / 2)[:, None] / share.clamp(min=PURE)
    inside = (share > PURE).flatten(3)  # [N, K, 3, h w]
    values = torch.where(inside, colour.flatten(3), torch.full_like(colour.flatten(3), float("nan")))
    return torch.where(inside.sum(-1) >= 3, values.nanmedian(-1).values.clamp(0, 1), otherwise)


def fit(faces: Faces, frames: Tensor, plan: Plan = PRECISE) -> Tensor:
    """Parameters [N, P] of square frames [N, 3, S, S], each fitted alone. A round draws P + 2 pictures a frame."""
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] != frames.shape[3]:
        raise UserError(f"expected square frames [N, 3, S, S], found {list(frames.shape)}", "identity")
    row = faces.typical.expand(len(frames), -1).clone()
    for place, (size, rounds) in enumerate(plan):
        size = min(size, frames.shape[-1])
        target = adaptive_avg_pool2d(frames.float(), (size, size))
        if place == 0 and len(faces.colours):
            row = _coloured(faces, target, row)
        shown, damp = faces.draw(row, size), torch.full((len(frames), 1, 1), 0.01)
        for _ in range(rounds):
            row, shown, damp = _improved(faces, target, row, shown, damp)
    return row


def _coloured(faces: Faces, target: Tensor, row: Tensor) -> Tensor:
    """Rows with the colours that the target has where a typical face has them, and once more, now that they differ."""
    flat, row = faces.colours.flatten(), row.clone()
    for _ in range(2):
        share = shares(faces, row, faces.draw(row, target.shape[-1]))
        row[:, flat] = probed(target, share, row[:, flat].unflatten(1, (-1, 3))).flatten(1)
    return row


def _improved(faces: Faces, target: Tensor, row: Tensor, shown: Tensor, damp: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of least squares, kept in the frames where it helps."""
    away = (target - shown).flatten(1)
    weight = 1 / (1 + (away / STAIN).square())
    slopes = _slopes(faces, row, shown)  # [N, P, M]
    scale = 1 / away.shape[1]
    prior = PRIOR**2 / row.shape[1]
    curve = scale * (slopes * weight[:, None]) @ slopes.transpose(1, 2)
    pull = scale * (slopes * weight[:, None]) @ away[..., None]
    pull = pull - prior * ((row - faces.typical) / faces.spread)[..., None]
    eye = torch.eye(row.shape[1]).to(row)
    ridge = damp * curve.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + prior
    move = torch.linalg.solve(curve + ridge * eye, pull)[..., 0].clamp(-1, 1)
    new = row + move * faces.spread
    drawn = faces.draw(new, shown.shape[-1])
    better = _cost(faces, target, new, drawn) < _cost(faces, target, row, shown)
    row = torch.where(better[:, None], new, row)
    shown = torch.where(better[:, None, None, None], drawn, shown)
    return row, shown, torch.where(better[:, None, None], damp / 5, damp * 8)


def _slopes(faces: Faces, row: Tensor, shown: Tensor) -> Tensor:
    """Change of the picture with every parameter, in spreads; [N, P, M]. Differences see across hard edges."""
    found = torch.zeros(len(row), row.shape[1], *shown.shape[1:])
    share = shares(faces, row, shown)
    for k, places in enumerate(faces.colours):
        for channel, place in enumerate(places.tolist()):
            found[:, place, channel] = 2 * share[:, k, channel] * faces.spread[place]
    coloured = set(faces.colours.flatten().tolist())
    for place in (i for i in range(row.shape[1]) if i not in coloured):
        other = row.clone()
        other[:, place] += STEP * faces.spread[place]
        found[:, place] = (faces.draw(other, shown.shape[-1]) - shown) / STEP
    return found.flatten(2)


def _cost(faces: Faces, target: Tensor, row: Tensor, shown: Tensor) -> Tensor:
    """[N]: the robust residual and the prior."""
    stained = STAIN**2 * torch.log1p(((target - shown).flatten(1) / STAIN).square()).mean(1)
    return stained + PRIOR**2 * ((row - faces.typical) / faces.spread).square().mean(1)


def identity_error(faces: Faces, found: Tensor, truth: Tensor) -> IdentityError:
    """found: rows [B, N, P] of N frames of each clip, of which the median counts; truth: rows [B, P]."""
    if found.ndim != 3 or found.shape[0] != truth.shape[0] or found.shape[2] != truth.shape[1]:
        raise UserError(f"rows {list(found.shape)} and truth {list(truth.shape)}", "identity", "[B, N, P] and [B, P]")
    square = ((found.quantile(0.5, dim=1) - truth) / faces.spread).square()
    parts = {name: square[:, list(places)].mean(1).sqrt() for name, places in faces.person.items()}
    return IdentityError(square[:, faces.places].mean(1).sqrt(), parts)


def of_clips(faces: Faces, x: Tensor, truth: Tensor, frames: int = 5, plan: Plan = PRECISE) -> IdentityError:
    """Of clips [B, 3, T, S, S] at so many frames, evenly spread; truth [B, P]. For many clips: frames=3, plan=CHEAP."""
    places = torch.linspace(0, x.shape[2] - 1, min(frames, x.shape[2])).round().long()
    picked = x[:, :, places].transpose(1, 2)  # [B, N, 3, S, S]
    rows = torch.cat([fit(faces, each, plan) for each in picked.flatten(0, 1).split(TOGETHER)])
    return identity_error(faces, rows.unflatten(0, picked.shape[:2]), truth)
