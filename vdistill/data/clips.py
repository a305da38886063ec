"""From a media file to latents: decode, fit, cut, encode. What `vdistill prepare` and encoding on the way share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..core.codec import Codec
from ..core.errors import BadMedia
from . import decord_media, media
from .buckets import Bucket, choose, fit
from .latents import fingerprint
from .manifest import Item
from .media import Limits, Picture, cut, to_float

ImageFields = Callable[[Tensor, Sequence[int]], Mapping[str, Tensor]]
"""First frame [B, 3, H, W] in [-1, 1], shape [C, T, H, W] of latents -> the conditions that start a clip from it."""


@dataclass(frozen=True)
class Plan:
    """What is made of every source. dtype: name of the latents' type on disk; device: of the codec; image_fields: of a
    teacher that starts from an image."""

    codec: Codec
    frames: int
    fps: Fraction
    stride: int
    buckets: tuple[Bucket, ...]
    limits: Limits = Limits()
    dtype: str = "float32"
    device: str = "cpu"
    decoder: str = "pyav"
    image_fields: ImageFields | None = None

    def settings(self) -> dict[str, Any]:
        """What has to be equal for two runs to add to one folder."""
        said = {
            "frames": self.frames,
            "fps": str(self.fps),
            "stride": self.stride,
            "buckets": [str(b) for b in self.buckets],
            "dtype": self.dtype,
            "probe": fingerprint(self.codec, self.frames, self.buckets[0], self.device),
        }
        if self.image_fields is None:
            return said
        size = self.buckets[0]
        grey = torch.zeros(1, 3, size.height, size.width, device=self.device)
        fields = self.image_fields(grey, self.codec.shape(self.frames, size.height, size.width))
        return {**said, "fields": sorted(fields)}

    def length(self, item: Item) -> int:
        """Frames of a clip of this source."""
        return 1 if item.still else self.frames


def encoded(item: Item, plan: Plan) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """(start in seconds, "x" [1, C, T, H, W] and the first frame's conditions) of every clip of a source.

    BadMedia, possibly at its end.
    """
    seen, made = 0, 0

    def counted() -> Iterator[Tensor]:
        nonlocal seen
        for frame in fitted(shots(item, plan), plan.buckets):
            seen += 1
            yield frame

    for first, frames in cut(counted(), plan.length(item), plan.stride):
        made += 1
        yield float(first / plan.fps), encode(frames, plan, f"{item.key}@{float(first / plan.fps):.2f}")
    if not made:
        raise too_short(item, seen, plan)


def clip(item: Item, number: int, bucket: Bucket, plan: Plan) -> dict[str, Tensor]:
    """Clip `number` alone of those `encoded` makes, in the bucket that its first picture chose. BadMedia."""
    length, begin = plan.length(item), number * plan.stride
    frames = [*islice(fitted(shots(item, plan, begin), (bucket,)), length)]
    if len(frames) < length:
        raise too_short(item, begin + len(frames), plan)
    return encode(frames, plan, f"{item.key}@{float(begin / plan.fps):.2f}")


def too_short(item: Item, seen: int, plan: Plan) -> BadMedia:
    """What to say of a source without a clip."""
    what = f"{seen} frames at {plan.fps} a second, need {plan.length(item)}"
    return BadMedia(what, item.key, "lower --frames, raise --fps or drop it")


def encode(frames: list[Tensor], plan: Plan, where: str) -> dict[str, Tensor]:
    """Pictures, uint8 [3, H, W] each, as latents "x" [1, C, T, H, W] with the conditions of the first. BadMedia."""
    pixels = to_float(frames)[None].to(plan.device)
    x = plan.codec.encode(pixels)
    found = {"x": x}
    if plan.image_fields is not None:
        found |= plan.image_fields(pixels[:, :, 0], tuple(x.shape[1:]))
    if not all(torch.isfinite(v).all() for v in found.values()):
        raise BadMedia("the codec gave values that are not finite", where)
    return found


def shots(item: Item, plan: Plan, skip: int = 0) -> Iterator[Picture]:
    """The pictures of a source at the plan's rate, all but the first `skip`."""
    if item.still:
        return iter([media.picture(item.path, plan.limits)])
    if plan.decoder == "decord":
        return islice(decord_media.pictures(item.path, plan.fps, plan.limits), skip, None)
    return media.pictures(item.path, plan.fps, plan.limits, skip)


def fitted(pictures: Iterator[Picture], buckets: Sequence[Bucket]) -> Iterator[Tensor]:
    """Pictures cropped and resized to the bucket the first one chooses."""
    bucket: Bucket | None = None
    for shot in pictures:
        bucket = bucket or choose(buckets, shot.shown)
        yield fit(shot.pixels, shot.aspect, bucket)
