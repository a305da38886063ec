"""What a face does, from its pixels: the moment's parameters of a renderer, frame by frame; blinks; E-FD*.

E-FD* is our reconstruction of E-FID, which takes the Frechet distance of expression coefficients of a face model with
weights of its own; here they are the fitted parameters of a renderer. Compare it with nothing but itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import UserError
from .frechet import frechet
from .identity_error import CHEAP, TOGETHER, Faces, Plan, fit

FPS = 25.0
SHUT = 0.4  # how far lids are closed in a blink's frames


def moments(
    faces: Faces, x: Tensor, names: Sequence[str], frames: int = 3, who: Plan = CHEAP, what: Plan = CHEAP
) -> Tensor:
    """Parameters of the moment [B, T, len(names)] of clips [B, 3, T, S, S] in [-1, 1], by their names in `faces`.

    The person is fitted to so many frames of the clip, evenly spread, and their median is kept; then every frame is
    fitted in what changes alone. who, what: pictures and rounds of the two.
    """
    if missing := sorted({*names} - {*faces.moment}):
        raise UserError(f"the renderer has no parameter {missing[0]!r}", "expression", f"{', '.join(faces.moment)}")
    columns = [[*faces.moment].index(name) for name in names]
    return torch.stack([_of_clip(faces, clip, frames, who, what)[:, columns] for clip in x])


def _of_clip(faces: Faces, clip: Tensor, frames: int, who: Plan, what: Plan) -> Tensor:
    """[T, M] of a clip [3, T, S, S]."""
    places = torch.linspace(0, clip.shape[1] - 1, min(frames, clip.shape[1])).round().long()
    person = fit(faces, clip[:, places].transpose(0, 1), who).quantile(0.5, dim=0)
    free = torch.tensor([*faces.moment.values()])

    def draw(row: Tensor, size: int) -> Tensor:
        return faces.draw(person.expand(len(row), -1).index_copy(1, free, row), size)

    still = torch.zeros(0, 3, dtype=torch.long)
    inner = replace(faces, draw=draw, typical=faces.typical[free], spread=faces.spread[free], person={}, colours=still)
    return torch.cat([fit(inner, part, what) for part in clip.transpose(0, 1).split(TOGETHER)])


@dataclass(frozen=True)
class Blinks:
    """Each [B]. rate: blinks a minute; seconds: how long one lasts, of those that begin and end in the clip, 0 where
    there is none."""

    rate: Tensor
    seconds: Tensor


def blinks(closed: Tensor, fps: float = FPS, shut: float = SHUT) -> Blinks:
    """Of how far lids are closed, [B, T] in [0, 1]: a blink is a run of frames that are at least `shut`."""
    if closed.ndim != 2 or not closed.shape[1]:
        raise UserError(f"expected how far lids are closed, [B, T], found {[*closed.shape]}", "blinks")
    down = torch.nn.functional.pad((closed >= shut).int(), (1, 1)).diff(dim=1)  # 1 where one begins, -1 after its end
    begins, ends = down == 1, down == -1
    rate = begins.sum(1) * 60 * fps / closed.shape[1]
    seconds = []
    for first, last in zip(begins, ends, strict=True):
        runs = torch.stack([first.nonzero()[:, 0], last.nonzero()[:, 0]], 1)
        whole = runs[(runs[:, 0] > 0) & (runs[:, 1] < closed.shape[1])]
        lasted = (whole[:, 1] - whole[:, 0]).float() / fps
        seconds.append(lasted.mean() if len(lasted) else lasted.new_zeros(()))
    return Blinks(rate.float(), torch.stack(seconds))


def expressions(tracks: Tensor) -> Tensor:
    """Tracks [B, T, K] -> features [B (T - 1), 2 K]: each frame's values and how they changed since the one before."""
    if tracks.ndim != 3 or tracks.shape[1] < 2:
        raise UserError(f"expected tracks [B, T >= 2, K], found {[*tracks.shape]}", "E-FD*")
    return torch.cat([tracks[:, 1:], tracks.diff(dim=1)], -1).flatten(0, 1)


def expression_distance(made: Tensor, true: Tensor) -> float:
    """E-FD*: Frechet distance of `expressions` of tracks [B, T, K]."""
    return frechet(expressions(made), expressions(true))
