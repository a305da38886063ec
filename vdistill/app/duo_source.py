"""The talker world with two people in some batches: each with a sound and a mask, told as `vdistill talk` does."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..avatar.conditions import of_several, present
from ..avatar.voiced import Voiced
from ..core.cond import Cond
from ..core.rng import Rng
from ..core.step import Batch
from ..worlds.talker.duo import Duo
from .talker_source import Pieces, Take, TalkerSource, caption, hears, keys, latents, regions, squares, to_bytes

SPARE = 100  # frames of a conversation before a take at most; people speak for about three seconds at once


@dataclass(frozen=True)
class DuoTake(Take):
    """A take of two people, twice as wide as high. features [2, T, F] of each one's sound; speaks: bool [2, T], who is
    heard; people [2, h, w], share of each latent square that somebody is in at any time of it."""

    speaks: Tensor
    people: Tensor


@dataclass(frozen=True)
class DuoSource:
    """(step, global micro-batch) -> Batch of `one`, but a `share` of them (draw "duo") is wholly of takes of `world`:
    latents [B, C, T', h, 2 h], along "audio" [B, T', 2, S, F], "audio.on" [B, T', 2] with LISTENS for all who are
    silent, and "speakers" [B, T', 2, h, 2 h]. There are as many takes as of one; they are clean, and kept.
    """

    one: TalkerSource
    world: Duo
    share: float
    kept: dict[int, DuoTake] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, step: int, micro: int) -> Batch:
        one, rng = self.one, Rng(self.one.seed, step, micro, turn="data")
        if float(rng.uniform("duo", ())) >= self.share:
            return one(step, micro)
        pieces = one.cut(rng, self.take)
        x, ref = latents(pieces, one.codec)
        cond = one.judged(pieces, self.told(pieces, one.alone(rng), ref))
        return Batch(x, cond, keys=keys(pieces), regions=regions(pieces, one.codec, x.device))

    def told(self, pieces: Pieces[DuoTake], alone: list[bool], ref: Tensor) -> Cond:
        """Conditions of a batch, as those of a scene: who is where is known for the whole take at once."""
        heard_by = self.one.conditions
        windows = heard_by.windows
        heard = [hears(take.features, cut, own, windows) for (take, cut), own in zip(pieces, alone, strict=True)]
        audio = torch.stack(heard).transpose(1, 2)  # [B, T', 2, S, F]
        speaks = torch.stack([present(take.speaks[:, cut], windows).T for take, cut in pieces])
        people = torch.stack([take.people for take, _ in pieces])[:, None].expand(-1, audio.shape[1], -1, -1, -1)
        left = torch.stack([take.features[0, cut] for take, cut in pieces])
        cond = heard_by.heard(left.to(ref.device), ref, self.one.text([take.caption for take, _ in pieces]))
        return of_several(cond, audio.to(ref.device), speaks.to(ref.device), people.to(ref.device))

    def take(self, index: int) -> DuoTake:
        """Take `index`, made when it is first asked for."""
        if index not in self.kept:
            clip, codec = self.world.clip(index), self.one.codec
            high, wide = (side // codec.spatial for side in clip.frames.shape[-2:])
            self.kept[index] = DuoTake(
                frames=to_bytes(clip.frames),
                features=self.one.conditions.encoder.features(clip.tracks),
                reference=to_bytes(clip.reference),
                regions={name: squares(masks.amax(0), codec) for name, masks in clip.masks.items()},
                caption=caption(sum(who.liveliness for who in self.world.who(index)) / 2),
                key=clip.key,
                quality=1.0,
                speaks=Voiced()(clip.tracks),
                people=adaptive_avg_pool2d(clip.masks["person"].amax(1), (high, wide)),
            )
        return self.kept[index]
