"""Aspect buckets: which size a clip gets, and how a frame is fitted to it without distortion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import interpolate

from ..core.errors import UserError


@dataclass(frozen=True)
class Bucket:
    """A size in pixels; written WIDTHxHEIGHT."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def parse(text: str) -> tuple[Bucket, ...]:
    """ "832x480,480x832" -> buckets, width first. UserError for anything else."""
    found = []
    for part in text.split(","):
        sides = part.strip().lower().split("x")
        if len(sides) != 2 or not all(s.isascii() and s.isdigit() and 0 < int(s) <= 16384 for s in sides):
            raise UserError(f"size {part.strip()!r}", "--size", "write WIDTHxHEIGHT in pixels, such as 832x480")
        found.append(Bucket(int(sides[0]), int(sides[1])))
    return tuple(dict.fromkeys(found))


def choose(buckets: Sequence[Bucket], aspect: float) -> Bucket:
    """The bucket nearest in log aspect (width over height as displayed); of equals the largest."""
    return min(buckets, key=lambda b: (round(abs(math.log(b.width / b.height / aspect)), 6), -b.width * b.height))


def fit(picture: Tensor, pixel_aspect: float, bucket: Bucket) -> Tensor:
    """Centre crop to the bucket's shape as displayed, then antialiased resize.

    picture: uint8 [3, H, W]; pixel_aspect: displayed width over height of one pixel; returns uint8 [3, height, width].
    """
    height, width = picture.shape[-2:]
    wanted = bucket.width / bucket.height / pixel_aspect  # the crop's width over height, counted in source pixels
    h, w = (height, height * wanted) if wanted <= width / height else (width / wanted, width)
    h, w = min(height, max(1, round(h))), min(width, max(1, round(w)))
    top, left = (height - h) // 2, (width - w) // 2
    crop = picture[:, top : top + h, left : left + w]
    if (h, w) == (bucket.height, bucket.width):
        return crop
    size = (bucket.height, bucket.width)
    return interpolate(crop[None], size, mode="bilinear", antialias=True, align_corners=False)[0].contiguous()
