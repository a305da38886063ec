"""What the measures of talking (`eval/`) ask of the `talker` world: its renderer as `Faces`, its clips as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..avatar.mel import STEPS, Mel
from ..core.rng import Rng
from ..eval.identity_error import Faces
from ..worlds.talker import identity
from ..worlds.talker.clips import Clip
from ..worlds.talker.face import render

POPULATION = 300  # drawn faces that say what is typical
MOMENT = {  # what is not the person: typical value and spread of mouth [6], blink and pose [4]
    "mouth": ((0.2, 0.5, 0.15, 0.3, 0.1, 0.1), (0.25, 0.2, 0.25, 0.3, 0.2, 0.25)),
    "blink": ((0.1,), (0.3,)),
    "pose": ((0.0, 0.0, 0.0, 1.0), (0.02, 0.015, 0.05, 0.03)),
}
SPOKEN = ("mouth_width", "lips")  # cannot be told apart from how a mouth is held, so they are not asked for


def faces() -> Faces:
    """Rows of 42: identity [31], mouth [6], blink, pose [4] (`worlds/talker`)."""
    drawn = torch.stack([identity.face(Rng(0, i, turn="talker/population")) for i in range(POPULATION)])
    typical, spread = ([v for pair in MOMENT.values() for v in pair[k]] for k in (0, 1))
    colours = torch.arange(3 * len(identity.COLOURS)).view(-1, 3)
    person = {name: places.tolist() for name, places in zip(identity.COLOURS, colours, strict=True)}
    first = colours.numel()
    person["shape"] = [first + i for i, name in enumerate(identity.GEOMETRY) if name not in SPOKEN]
    return Faces(
        draw,
        torch.cat([drawn.mean(0), torch.tensor(typical)]),
        torch.cat([drawn.std(0), torch.tensor(spread)]),
        person,
        colours,
    )


def draw(row: Tensor, size: int) -> Tensor:
    """Pictures [N, 3, S, S] of rows [N, 42]."""
    n = identity.SIZE
    numbers = row[:, : n + 7].clamp(0, 1)
    return render(numbers[:, :n], numbers[:, n : n + 6], numbers[:, n + 6], row[:, n + 7 :], size).frames


def rows(clips: Sequence[Clip]) -> Tensor:
    """The truth [B, 42] about clips, at their first frame; the person's part of it holds for all."""
    return torch.stack([torch.cat([c.identity, c.mouth[0], c.blink[:1], c.pose[0]]) for c in clips])


def openings(clips: Sequence[Clip]) -> Tensor:
    """[B, T]: how far mouths are truly open."""
    return torch.stack([c.mouth[:, 0] for c in clips])


def mels(clips: Sequence[Clip], encode: Mel) -> Tensor:
    """[B, 4 T, bands] of the clips' sound, as the sync network hears it."""
    sound = torch.stack([c.sound for c in clips])
    return torch.cat([encode.features(one[None]) for one in sound]).unflatten(2, (STEPS, -1)).flatten(1, 2)
