"""The talker world as training data: windows of takes, what they sound like, and where face and lips are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from ..avatar.adapter_tokens import LISTENS
from ..avatar.conditions import Conditions
from ..avatar.windows import Windows
from ..core.codec import Codec
from ..core.cond import Cond
from ..core.losses.mixed import QUALITY
from ..core.rng import Rng
from ..core.step import Batch
from ..worlds.talker.clips import MASKS
from ..worlds.talker.talker import Talker

QUIET = 0.0  # of log-mel features, about 60 dB below the loudest; in the world's speech mouths are shut below it
MOODS = ("a calm person speaks", "a person speaks", "a lively person speaks")


def caption(liveliness: float) -> str:
    """What is said of a person whose head moves so much, about 1."""
    return MOODS[0 if liveliness < 0.85 else 1 if liveliness < 1.15 else 2]


@dataclass(frozen=True)
class Take:
    """frames [3, T, H, W] of bytes; features [T, F] of its sound; reference [3, H, W] of bytes; regions: name -> [T, h,
    w], share of each latent position's square, in bytes; quality: 1 of clean takes, 0 of damaged ones."""

    frames: Tensor
    features: Tensor
    reference: Tensor
    regions: dict[str, Tensor]
    caption: str
    key: str
    quality: float


AnyTake = TypeVar("AnyTake", bound=Take)
Pieces = Sequence[tuple[AnyTake, slice]]
"""Takes with the frames that a batch has of each."""


def to_bytes(x: Tensor) -> Tensor:
    """[-1, 1] -> bytes."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_bytes(x: Tensor) -> Tensor:
    """Bytes -> [-1, 1]."""
    return x.float() / 127.5 - 1


@dataclass(frozen=True)
class TalkerSource:
    """(step, global micro-batch) -> Batch of `batch` windows of `frames` frames out of `takes` takes of the world.

    worlds: clean and damaged, whose clips are the takes; mq: share of the damaged; edge: share of clips that hear only
    their own frames; listen: share of silent positions whose "audio.on" is LISTENS. Takes are kept once made. The field
    "quality" [B] is there where some are damaged.
    """

    worlds: tuple[Talker, Talker]
    conditions: Conditions
    codec: Codec
    text: Callable[[Sequence[str]], Cond]
    frames: int
    batch: int
    takes: int
    mq: float = 0.0
    edge: float = 0.25
    listen: float = 0.5
    seed: int = 0
    kept: dict[int, Take] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, step: int, micro: int) -> Batch:
        rng = Rng(self.seed, step, micro, turn="data")
        pieces = self.cut(rng, self.take)
        x, ref = latents(pieces, self.codec)
        cond = self.told(pieces, self.alone(rng), ref)
        draw = rng.uniform("listen", cond.along["audio.on"].shape, like=ref)
        listening = silent(cond.along["audio"], self.conditions.windows) & (draw < self.listen)
        on = cond.along["audio.on"].masked_fill(listening, LISTENS)
        cond = replace(cond, along={**cond.along, "audio.on": on})
        return Batch(x, cond, keys=keys(pieces), regions=regions(pieces, self.codec, x.device))

    def cut(self, rng: Rng, take: Callable[[int], AnyTake]) -> list[tuple[AnyTake, slice]]:
        """Which frames of which takes a batch is of (draws "take/i", "start/i")."""
        which = [rng.integer(f"take/{i}", self.takes) for i in range(self.batch)]
        length = self.worlds[0].length - self.frames + 1
        starts = [rng.integer(f"start/{i}", length) for i in range(self.batch)]
        return [(take(i), slice(s, s + self.frames)) for i, s in zip(which, starts, strict=True)]

    def alone(self, rng: Rng) -> list[bool]:
        """Which clips of a batch hear only their own frames (draw "edge")."""
        return (rng.uniform("edge", (self.batch,)) < self.edge).tolist()

    def told(self, pieces: Pieces[Take], alone: Sequence[bool], ref: Tensor) -> Cond:
        """Conditions of a batch; those that are not `alone` hear what was before and after them."""
        windows = self.conditions.windows
        heard = [
            hears(take.features[None], cut, own, windows)[0] for (take, cut), own in zip(pieces, alone, strict=True)
        ]
        text = self.text([take.caption for take, _ in pieces])
        features = torch.stack([take.features[cut] for take, cut in pieces]).to(ref.device)
        cond = self.conditions.heard(features, ref, text)
        return self.judged(pieces, replace(cond, along={**cond.along, "audio": torch.stack(heard).to(ref.device)}))

    def judged(self, pieces: Pieces[Take], cond: Cond) -> Cond:
        """The same, told the quality of its takes where some are damaged."""
        if not self.mq:
            return cond
        quality = torch.tensor([take.quality for take, _ in pieces], device=cond.along["audio"].device)
        return cond.with_field(QUALITY, quality)

    def take(self, index: int) -> Take:
        """Take `index`, made when it is first asked for."""
        if index not in self.kept:
            mq = int((index + 1) * self.mq) > int(index * self.mq)  # any run of takes has close to its share
            world = self.worlds[mq]
            clip = world.clip(index)
            masks = {name: squares(mask, self.codec) for name, mask in clip.masks.items()}
            features = self.conditions.encoder.features(clip.sound[None])[0]
            self.kept[index] = Take(
                to_bytes(clip.frames), features, to_bytes(clip.reference), masks,
                caption(world.who(index)[1].liveliness), clip.key, float(not (mq and world.damage)),
            )  # fmt: skip
        return self.kept[index]


def latents(pieces: Pieces[Take], codec: Codec) -> tuple[Tensor, Tensor]:
    """(frames [B, C, T', h, w], references [B, C, h, w]) of a batch."""
    x = codec.encode(torch.stack([from_bytes(take.frames[:, cut]) for take, cut in pieces]))
    return x, codec.encode(torch.stack([from_bytes(take.reference) for take, _ in pieces])[:, :, None])[:, :, 0]


def keys(pieces: Pieces[Take]) -> tuple[str, ...]:
    """Whose clips they are, and from which frame on."""
    return tuple(f"{take.key}@{cut.start}" for take, cut in pieces)


def regions(pieces: Pieces[Take], codec: Codec, device: torch.device) -> dict[str, Tensor]:
    """Name -> [B, 1, T', h, w]."""
    found = {name: torch.stack([take.regions[name][cut] for take, cut in pieces]) for name in MASKS}
    return {name: along_time(share.float() / 255, codec).to(device) for name, share in found.items()}


def hears(features: Tensor, cut: slice, alone: bool, windows: Windows) -> Tensor:
    """Features of N takes [N, T, F] -> what frames `cut` of each hear, [N, T', S, F]; alone: of themselves only."""
    if alone:
        return windows(features[:, cut])
    return windows(features, windows.positions(cut.stop - cut.start), cut.start)


def squares(mask: Tensor, codec: Codec) -> Tensor:
    """[T, H, W] in [0, 1] -> share of each latent square, in bytes, [T, h, w]."""
    high, wide = (side // codec.spatial for side in mask.shape[-2:])
    return (adaptive_avg_pool3d(mask[None], (len(mask), high, wide))[0] * 255).round().to(torch.uint8)


def silent(audio: Tensor, windows: Windows) -> Tensor:
    """[B, T', S, F] of log-mel features -> [B, T'], whether nothing is heard in a position's own frames."""
    end = windows.size - windows.ahead
    return audio[:, :, end - windows.stride : end].amax((2, 3)) < QUIET


def along_time(share: Tensor, codec: Codec) -> Tensor:
    """Shares of latent squares frame by frame [B, T, h, w] -> of latent positions [B, 1, T', h, w]."""
    stride = codec.temporal
    first = share[:, :1].expand(-1, stride - 1, -1, -1)  # frame 0 is a position of its own
    return torch.cat([first, share], 1).unflatten(1, (-1, stride)).mean(2)[:, None]
