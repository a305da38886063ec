"""Media encoded while training: no latents on disk, one clip decoded at a time. `vdistill prepare` is the alternative.

Files are looked through once, at the start, for their size and their timestamps; pixels are decoded when a batch wants
them. A clip is exactly what `prepare` would have stored of it. A video is decoded from its beginning to the end of the
clip, so long ones are better cut, or prepared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import torch

from ..core.cond import Cond
from ..core.errors import BadMedia, UserError
from ..core.step import Batch
from . import clips
from .buckets import Bucket, choose
from .clips import Plan, too_short
from .manifest import Item, Listing
from .media import DEMUXERS, check_end, decode, picture, pictures_of, reason, resample, show
from .paths import open_regular


@dataclass(frozen=True)
class Place:
    """One clip: which file, its number in it, and the bucket of that file."""

    item: Item
    number: int
    bucket: Bucket


class MediaData:
    """Clips of a listing by number, for `data.loader.Feed`: sorted by shape, one batch of one shape.

    text: captions -> Cond; limit_bad: share of files that may be unusable; say: told of each such file. A clip that
    turns out damaged when it is decoded gives way to the next of its shape.
    """

    def __init__(
        self,
        listing: Listing,
        plan: Plan,
        text: Callable[[Sequence[str]], Cond],
        limit_bad: float = 0.05,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self.plan, self.text, self.say = plan, text, say
        self.bad = [f"{key}: {why}" for key, why in listing.refused]
        found: dict[tuple[int, ...], list[Place]] = {}
        for item in listing.items:
            try:
                bucket, count = survey(item, plan)
                shape = tuple(plan.codec.shape(plan.length(item), bucket.height, bucket.width))
                found.setdefault(shape, []).extend(Place(item, i, bucket) for i in range(count))
            except BadMedia as error:
                self.bad.append(f"{item.key}: {error.what}{f'; {error.hint}' if error.hint else ''}")
        for line in self.bad:
            say(f"skipped {line}")
        if len(self.bad) > limit_bad * len(listing):
            what = (
                f"{len(self.bad)} of {len(listing)} files are bad, more than {limit_bad:.0%}; the first: {self.bad[0]}"
            )
            raise UserError(what, str(listing.root), "mend or remove them, or raise data.limit_bad")
        if not found:
            raise UserError(f"none of {len(listing)} files could be used", str(listing.root))
        self.shapes = tuple(sorted(found))
        self.clips = [place for shape in self.shapes for place in found[shape]]
        self.groups = tuple(len(found[shape]) for shape in self.shapes)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, T, H, W] of the largest group."""
        return self.shapes[max(range(len(self.groups)), key=lambda g: self.groups[g])]

    def captions(self) -> tuple[str, ...]:
        return tuple(place.item.caption for place in self.clips)

    def batch(self, indices: Sequence[int]) -> Batch:
        made = [self._clip(i) for i in indices]
        parts = {name: torch.cat([each[name].cpu() for _, each in made]) for name in made[0][1]}
        cond = self.text([place.item.caption for place, _ in made])
        for name, value in parts.items():
            if name != "x":
                cond = cond.with_field(name, value.float() if value.is_floating_point() else value)
        keys = tuple(f"{place.item.key}@{float(self._start(place)):.3f}" for place, _ in made)
        return Batch(parts["x"].float(), cond, keys=keys)

    def _clip(self, index: int) -> tuple[Place, dict[str, torch.Tensor]]:
        """The clip, or the next one of its shape that can be decoded. UserError when none can."""
        for i in self._from(index):
            place = self.clips[i]
            try:
                return place, clips.clip(place.item, place.number, place.bucket, self.plan)
            except BadMedia as error:
                line = f"{place.item.key}@{float(self._start(place)):.3f}: {error.what}"
                if line not in self.bad:
                    self.bad.append(line)
                    self.say(f"skipped {line}")
        raise UserError(
            "no clip of this shape can be decoded", self.clips[index].item.key, "are the files still there?"
        )

    def _from(self, index: int) -> Iterator[int]:
        """The indices of a clip's group, beginning with it."""
        base = 0
        for size in self.groups:
            if index < base + size:
                yield from (base + (index - base + k) % size for k in range(size))
                return
            base += size

    def _start(self, place: Place) -> Fraction:
        """Seconds."""
        return place.number * self.plan.stride / self.plan.fps


def survey(item: Item, plan: Plan) -> tuple[Bucket, int]:
    """(bucket, how many clips) of a file, from its first picture and its timestamps. BadMedia, with the reason."""
    try:
        if item.still:
            return choose(plan.buckets, picture(item.path, plan.limits).shown), 1
        first = next(decode(item.path, plan.limits), None)
        if first is None:
            raise BadMedia("no frame could be decoded", item.key)
        timed = ((moment, None) for moment in moments(item, plan))
        frames = sum(1 for _ in resample(timed, plan.fps))
    except UserError:
        raise
    except Exception as error:  # hostile files raise what they like
        raise BadMedia(f"cannot be decoded ({reason(error)})", item.key) from error
    if frames < plan.frames:
        raise too_short(item, frames, plan)
    return choose(plan.buckets, show(first[1]).shown), 1 + (frames - plan.frames) // plan.stride


def moments(item: Item, plan: Plan) -> list[Fraction]:
    """Seconds of every frame since the first, without decoding where the file itself says them."""
    with (
        open_regular(item.path) as handle,
        av.open(handle, "r", container_options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as container,
    ):
        stream = pictures_of(container, item.path)
        told = [_moment(packet) for packet in container.demux(stream) if packet.size and not packet.is_discard]
        known = sorted({moment for moment in told if moment is not None})
        if None not in told and known:
            check_end(container, stream, float(known[-1] - known[0]), item.path)
            return [moment - known[0] for moment in known]
    return [moment for moment, _ in decode(item.path, plan.limits)]


def _moment(packet: Any) -> Fraction | None:
    """Seconds, where a packet says when it is shown."""
    if packet.pts is None or packet.time_base is None:
        return None
    return Fraction(packet.pts * packet.time_base)
