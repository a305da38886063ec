"""What the measures of talking (`eval/`) ask of the `talker` world: its renderer as `Faces`, its clips as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..avatar.mel import STEPS, Mel
from ..avatar.sync_net import MiniSyncNet, load_sync_net, mouth_crops
from ..core.rng import Rng
from ..eval.aperture import side_by_side
from ..eval.expression import moments
from ..eval.identity_error import CHEAP, PRECISE, Faces, of_clips
from ..eval.talking import Truth
from ..worlds.talker import identity
from ..worlds.talker.clips import Clip
from ..worlds.talker.duo import DuoClip
from ..worlds.talker.face import render

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "minisync" / "model.safetensors"
POPULATION = 300  # drawn faces that say what is typical
MOMENT = {  # what is not the person: typical value and spread of mouth [6], blink and pose [4]
    "mouth": ((0.2, 0.5, 0.15, 0.3, 0.1, 0.1), (0.25, 0.2, 0.25, 0.3, 0.2, 0.25)),
    "blink": ((0.1,), (0.3,)),
    "pose": ((0.0, 0.0, 0.0, 1.0), (0.02, 0.015, 0.05, 0.03)),
}
MOMENTS = ("open", "width", "round", "teeth", "tongue", "press", "blink", "x", "y", "roll", "scale")
EXPRESSION = ("open", "width", "round", "blink")  # what shows in every frame
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
        {name: identity.SIZE + i for i, name in enumerate(MOMENTS)},
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


def sync_net() -> MiniSyncNet:
    """The shipped sync network, frozen; it hears 40 mel bands."""
    return load_sync_net(SHIPPED)


def truth_of(clips: Sequence[Clip], precise: bool = False, expression: bool = False) -> Truth:
    """What `talking_scores` and `seconds` need to measure clips made for the sound and the person of these.

    precise: identity from 5 frames fitted to the end (0.9 s of one core a clip), not from 3 at a glance (0.3 s).
    expression: blinks and E-FD* too, for which every frame is fitted, those of the true clips now.
    """
    world, people = faces(), rows(clips)
    how = (5, PRECISE) if precise else (3, CHEAP)
    net, bands = sync_net(), mels(clips, Mel())

    @torch.no_grad()
    def vectors(x: Tensor) -> tuple[Tensor, Tensor]:
        return net(mouth_crops(x), bands)  # type: ignore[no-any-return]

    def shown(x: Tensor) -> Tensor:
        return moments(world, x, EXPRESSION)

    found = Truth(openings(clips), identity=lambda x: of_clips(world, x, people, *how).total, vectors=vectors)
    if not expression:
        return found
    return replace(found, expression=shown, expressions=shown(torch.stack([clip.frames for clip in clips])))


def duo_truth(clips: Sequence[DuoClip]) -> Truth:
    """Of pictures of two: whose turn it is. Sync, motion and the rest are of the left speaker."""
    height, width = clips[0].frames.shape[-2:]
    regions, turns = side_by_side(height, width), torch.stack([clip.active.float() for clip in clips])
    return Truth(openings([clip.people[0] for clip in clips]), regions[:, 0], (regions, turns))
