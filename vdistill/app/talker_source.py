"""The talker world as training data: windows of takes, what they sound like, and where face and lips are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

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
        which = [rng.integer(f"take/{i}", self.takes) for i in range(self.batch)]
        takes = [self.take(i) for i in which]
        starts = [rng.integer(f"start/{i}", self.worlds[0].length - self.frames + 1) for i in range(self.batch)]
        alone = (rng.uniform("edge", (self.batch,)) < self.edge).tolist()
        pieces = [(take, slice(s, s + self.frames)) for take, s in zip(takes, starts, strict=True)]
        x = self.codec.encode(torch.stack([from_bytes(take.frames[:, cut]) for take, cut in pieces]))
        ref = self.codec.encode(torch.stack([from_bytes(take.reference) for take in takes])[:, :, None])[:, :, 0]
        cond = self.told(pieces, alone, ref)
        draw = rng.uniform("listen", cond.along["audio.on"].shape, like=ref)
        listening = silent(cond.along["audio"], self.conditions.windows) & (draw < self.listen)
        on = cond.along["audio.on"].masked_fill(listening, LISTENS)
        cond = replace(cond, along={**cond.along, "audio.on": on})
        regions = {
            name: along_time(torch.stack([take.regions[name][cut] for take, cut in pieces]).float() / 255, self.codec)
            for name in MASKS
        }
        keys = tuple(f"{take.key}@{cut.start}" for take, cut in pieces)
        return Batch(x, cond, keys=keys, regions={k: v.to(x.device) for k, v in regions.items()})

    def told(self, pieces: Sequence[tuple[Take, slice]], alone: Sequence[bool], ref: Tensor) -> Cond:
        """Conditions of a batch; those that are not `alone` hear what was before and after them."""
        windows = self.conditions.windows
        heard = [
            windows(take.features[None, cut])[0]
            if own
            else windows(take.features[None], windows.positions(self.frames), cut.start)[0]
            for (take, cut), own in zip(pieces, alone, strict=True)
        ]
        text = self.text([take.caption for take, _ in pieces])
        features = torch.stack([take.features[cut] for take, cut in pieces]).to(ref.device)
        cond = self.conditions.heard(features, ref, text)
        heard_so = replace(cond, along={**cond.along, "audio": torch.stack(heard).to(ref.device)})
        if not self.mq:
            return heard_so
        return heard_so.with_field(QUALITY, torch.tensor([take.quality for take, _ in pieces], device=ref.device))

    def take(self, index: int) -> Take:
        """Take `index`, made when it is first asked for."""
        if index not in self.kept:
            mq = int((index + 1) * self.mq) > int(index * self.mq)  # any run of takes has close to its share
            world = self.worlds[mq]
            clip = world.clip(index)
            side = clip.frames.shape[-1] // self.codec.spatial
            masks = {
                name: (adaptive_avg_pool3d(mask[None], (len(mask), side, side))[0] * 255).round().to(torch.uint8)
                for name, mask in clip.masks.items()
            }
            features = self.conditions.encoder.features(clip.sound[None])[0]
            self.kept[index] = Take(
                to_bytes(clip.frames), features, to_bytes(clip.reference), masks,
                caption(world.who(index)[1].liveliness), clip.key, float(not (mq and world.damage)),
            )  # fmt: skip
        return self.kept[index]


def silent(audio: Tensor, windows: Windows) -> Tensor:
    """[B, T', S, F] of log-mel features -> [B, T'], whether nothing is heard in a position's own frames."""
    end = windows.size - windows.ahead
    return audio[:, :, end - windows.stride : end].amax((2, 3)) < QUIET


def along_time(share: Tensor, codec: Codec) -> Tensor:
    """Shares of latent squares frame by frame [B, T, h, w] -> of latent positions [B, 1, T', h, w]."""
    stride = codec.temporal
    first = share[:, :1].expand(-1, stride - 1, -1, -1)  # frame 0 is a position of its own
    return torch.cat([first, share], 1).unflatten(1, (-1, stride)).mean(2)[:, None]
