"""A talking head of twelve numbers a frame, with exact truth: four of a mouth that sound drives, eight of a look that a
reference tells. Small enough to try a way of supervision in a minute, and made to show what poor data does.

Clean clips show few people (`people`), damaged ones anybody: half of them 2 to 5 frames out of sync, all flickering.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv1d, normalize, pad

from ..core.cond import Cond
from ..core.losses.mixed import QUALITY, SYNC
from ..core.rng import Rng
from ..core.step import Batch

FRAMES, MOUTH, LOOK, REF, SOUND = 16, 4, 8, 16, 12
SIZE = MOUTH + LOOK
Split = Literal["clean", "damaged", "open"]
"""clean: the few people; damaged: anybody, damaged; open: anybody, clean, for measuring."""


@dataclass(frozen=True)
class Truth:
    """What is exactly so of clips: mouth [B, 4, T] as the sound alone would have it, look [B, 8], motion [B, T] along
    the direction `ToyTalker.way`."""

    mouth: Tensor
    look: Tensor
    motion: Tensor


@dataclass(frozen=True)
class ToyTalker:
    """people: in clean clips; free: share of the mouth's variance that sound does not tell; moving: standard deviation
    of the true, slow motion of the look along one direction; flicker, drift: of damaged frames, each frame by itself
    and over about five frames; late: share of damaged clips out of sync. seed: of the world itself."""

    people: int = 24
    free: float = 0.3
    moving: float = 0.0
    flicker: float = 0.2
    drift: float = 0.1
    late: float = 0.5
    seed: int = 0

    @property
    def way(self) -> Tensor:
        """The direction [8] in which a look moves, of length 1."""
        return normalize(Rng(self.seed, turn="toy").normal("way", (LOOK,)), dim=0)

    def clips(self, rng: Rng, n: int, split: Split) -> tuple[Batch, Truth]:
        """n clips [n, 12, 16] with conditions "ref" [n, 16] and along "audio" [n, 16, 12], and what is true of them.

        Fields "quality" [n] and "sync" [n], 6 in time and 1 not; region "mouth" [n, 12, 1].
        """
        person = self._people(rng, n, split)
        said = smooth(rng.normal("said", (n, FRAMES + 12, MOUTH)), 1.5)  # six frames more at either end
        look = torch.tanh(torch.tanh(person @ self._fixed("look", 6, 24) * 1.5) @ self._fixed("look/2", 24, LOOK) * 1.2)
        ref = torch.tanh(person @ self._fixed("ref", 6, REF)) + 0.05 * rng.normal("ref/noise", (n, REF))
        noise = 0.1 * rng.normal("sound/noise", (n, FRAMES + 12, SOUND))
        sound = torch.tanh(said @ self._fixed("sound", MOUTH, SOUND)) + noise
        heard = torch.tanh(1.2 * said @ self._fixed("mouth", MOUTH, MOUTH))
        own = smooth(rng.normal("own", (n, FRAMES, MOUTH)), 1.5)
        late = torch.zeros(n, dtype=torch.int64)
        if split == "damaged":
            size, sign = rng.integers("late/by", (n,), 4) + 2, 2 * rng.integers("late/sign", (n,), 2) - 1
            late = torch.where(rng.uniform("late", (n,)) < self.late, size * sign, late)
        at = torch.arange(FRAMES) + 6
        rows = torch.arange(n)[:, None]
        mouth = math.sqrt(1 - self.free) * heard[rows, at - late[:, None]] + math.sqrt(self.free) * 0.6 * own
        motion = self.moving * smooth(rng.normal("motion", (n, FRAMES, 1)), 3.0)[..., 0]
        x = torch.cat([mouth, look[:, None] + motion[..., None] * self.way], 2)
        if split == "damaged":
            slow = smooth(rng.normal("drift", x.shape), 2.5)
            x = x + self.flicker * rng.normal("flicker", x.shape) + self.drift * slow
        good = torch.full((n,), float(split != "damaged"))
        part = torch.zeros(n, SIZE, 1)
        part[:, :MOUTH] = 1
        fields = {"ref": ref, QUALITY: good, SYNC: torch.where(late == 0, 6.0, 1.0)}
        null = {"ref": torch.zeros(1, REF), "audio": torch.zeros(1, 1, SOUND)}
        cond = Cond(fields, {"audio": sound[rows, at]}, null)
        return Batch(x.transpose(1, 2).contiguous(), cond, regions={"mouth": part}), Truth(
            heard[:, 6:-6].transpose(1, 2), look, motion
        )

    def mixed(self, rng: Rng, n: int, damaged: float = 0.5) -> Batch:
        """A training batch, the given share of it damaged."""
        bad = round(n * damaged)
        parts: list[tuple[int, Split]] = [(n - bad, "clean"), (bad, "damaged")]
        made = [self.clips(rng.at(turn=split), count, split)[0] for count, split in parts if count]
        mouth = torch.cat([b.regions["mouth"] for b in made])
        return Batch(torch.cat([b.x for b in made]), Cond.cat([b.cond for b in made]), regions={"mouth": mouth})

    def _people(self, rng: Rng, n: int, split: Split) -> Tensor:
        if split != "clean":
            return rng.normal("person", (n, 6))
        known = Rng(self.seed, turn="toy").normal("people", (self.people, 6))
        return known[rng.integers("person", (n,), self.people)]

    def _fixed(self, name: str, rows: int, columns: int) -> Tensor:
        return Rng(self.seed, turn="toy").normal(name, (rows, columns)) / math.sqrt(rows)


def smooth(noise: Tensor, width: float) -> Tensor:
    """White noise [B, T, C] as a process of unit variance that changes over about `width` frames."""
    reach = math.ceil(3 * width)
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / width) ** 2) / 2)
    kernel = kernel / kernel.square().sum().sqrt()
    rows = pad(noise.transpose(1, 2).flatten(0, 1)[:, None], (reach, reach), mode="reflect")  # [B C, 1, T]
    return conv1d(rows, kernel[None, None]).view(len(noise), noise.shape[2], -1).transpose(1, 2)


@dataclass(frozen=True)
class Scores:
    """pcc: correlation of the mouths with what the sound alone would have, mean over clips and the four; identity:
    squared error of the look's mean over time, over the variance of looks; jitter: its standard deviation over time,
    off the direction of true motion; motion: that along it, over the truth's (1 where nothing truly moves)."""

    pcc: float
    identity: float
    jitter: float
    motion: float


def scores(x: Tensor, truth: Truth, way: Tensor) -> Scores:
    """Of clips [B, 12, T]."""
    mouth, look = x[:, :MOUTH], x[:, MOUTH:]
    a, b = mouth - mouth.mean(2, keepdim=True), truth.mouth - truth.mouth.mean(2, keepdim=True)
    pcc = ((a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2)).clamp_min(1e-9)).mean()
    along = torch.einsum("bct,c->bt", look, way)
    off = look - along[:, None] * way[None, :, None]
    still = truth.look - (truth.look @ way)[:, None] * way
    identity = (off.mean(2) - still).square().mean() / (still - still.mean(0)).square().mean()
    jitter = off.std(2, correction=0).mean()
    moved = truth.motion.std(1, correction=0).mean()
    motion = along.std(1, correction=0).mean() / moved if moved > 0 else torch.ones(())
    return Scores(*(float(v) for v in (pcc, identity, jitter, motion)))
