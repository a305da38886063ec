"""Is an item of a talking data set fit to train on? The policy, line by line: everything is decoded once and looked at.

A clip is of 25 frames a second, each with 640 samples of sound; timestamps decide which frame is shown when.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..core.errors import BadMedia, UserError
from .bad_items import DataError, about
from .buckets import Bucket
from .face_box import check_box, read_arrays, read_track
from .face_image import ASPECT, read_face
from .media import DEMUXERS, Limits, Shot, decode, picture, pictures_of, reason, resample, show
from .paths import open_regular
from .sound import RATE, Sound, read_sound
from .talking_manifest import TalkItem

FPS = 25
SAMPLES = RATE // FPS
MASKS = ("face", "lip", "person")


@dataclass(frozen=True)
class TalkRule:
    """What is made of items. frames, stride: of a clip, and from one to the next; shape: of its pictures; grow: crop
    over face box; masks: those needed; clipped: largest share of samples at full scale; tolerance: frames by which
    sound and picture may differ in length without a word; seconds: longest file."""

    frames: int = 65
    stride: int = 65
    shape: Bucket = Bucket(64, 64)
    grow: float = 1.4
    masks: tuple[str, ...] = ()
    clipped: float = 0.05
    tolerance: int = 2
    seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1 or not set(self.masks) <= set(MASKS):
            what = f"frames {self.frames}, stride {self.stride}, masks {[*self.masks]}"
            raise UserError(what, "data", f"at least 1 each, and masks out of {', '.join(MASKS)}")


@dataclass(frozen=True)
class Checked:
    """An item that is fit. count: frames of its file; frames: (first, end) at 25 a second that may be used; sound:
    frames, from the video's first, that have sound; starts: first frames of its clips; remarks: what is odd but was
    dealt with."""

    item: TalkItem
    count: int
    frames: tuple[int, int]
    sound: int
    starts: tuple[int, ...]
    remarks: tuple[str, ...] = ()


def check(item: TalkItem, rule: TalkRule) -> Checked:
    """DataError, saying which line of the policy and why, for an item that cannot be used."""
    remarks: list[str] = []
    with about("video", item.id, item.video.name):
        count, shown, size, begin, aspect = _look(item, rule, remarks)
    _check_faces(item)
    heard = [_check_sound(item, path, rule, shown, begin, remarks) for path in dict.fromkeys(tracks(item))]
    if all(silent for _, silent in heard):
        name = tracks(item)[0].name
        raise DataError("silent", "nothing is to be heard in its sound", item.id, name, "drop it")
    end_of_sound = min(count for count, _ in heard)
    first, end = math.ceil(item.start * FPS), min(shown, math.floor(min(item.end, 1e9) * FPS))
    if end - first < rule.frames:
        what = f"{max(0, end - first)} frames at {FPS} a second, need {rule.frames}"
        raise DataError("short", what, item.id, item.video.name, "lower data.frames or drop it")
    _check_box(item, rule, count, size, aspect)
    _check_masks(item, rule, count, size)
    if item.image is not None:
        with about("image", item.id, item.image.name):
            face = read_face(item.image, rule.shape, grow=rule.grow)
        if face.remarks:
            raise DataError("image", face.remarks[0], item.id, item.image.name, "mend it")
    starts = tuple(s for s in range(first, end - rule.frames + 1, rule.stride) if s < end_of_sound)
    if not starts:
        raise DataError("audio", f"its sound ends at {end_of_sound / FPS:.2f} s, before its first clip", item.id)
    return Checked(item, count, (first, end), end_of_sound, starts, tuple(remarks))


def tracks(item: TalkItem) -> list[Path]:
    """The files whose sound an item has: one, or one for each speaker."""
    own = item.audio or item.video
    return [each.audio or own for each in item.speakers] or [own]


def numbered(item: TalkItem, rule: TalkRule) -> Iterator[tuple[int, Shot]]:
    """(number in the file, frame as decoded) of each moment at 25 a second. BadMedia, possibly at its end."""
    try:
        frames = enumerate(decode(item.video, Limits(rule.seconds)))
        yield from resample(((moment, (i, shot)) for i, (moment, shot) in frames), Fraction(FPS))
    except BadMedia:
        raise
    except Exception as error:  # hostile files raise what they like
        raise BadMedia(f"cannot be decoded ({reason(error)})", item.video.name) from error


def sound_of(path: Path, item: TalkItem, rule: TalkRule, begin: Fraction) -> Sound:
    """A track from the video's first frame on. BadMedia."""
    return read_sound(path, rule.seconds, begin if path == item.video else None)


def begins(path: Path) -> Fraction:
    """Seconds on the file's clock of a video's first frame. BadMedia."""
    if path.stat().st_size == 0:
        raise BadMedia("is empty", path.name)
    try:
        with (
            open_regular(path) as handle,
            av.open(handle, "r", container_options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as found,
        ):
            stream: Any = pictures_of(found, path)
            return Fraction((stream.start_time or 0) * stream.time_base)
    except BadMedia:
        raise
    except Exception as error:  # hostile files raise what they like
        raise BadMedia(f"cannot be decoded ({reason(error)})", path.name) from error


def _look(item: TalkItem, rule: TalkRule, remarks: list[str]) -> tuple[int, int, tuple[int, int], Fraction, float]:
    """(frames of the file, frames at 25 a second, (width, height) upright, when it begins, its aspect as displayed)."""
    begin, count, shown, first = begins(item.video), 0, 0, None
    size = (0, 0)
    used: set[int] = set()
    for number, shot in numbered(item, rule):
        frame = shot[0]
        if first is None:
            first, size = show(shot), (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            what = f"its size changes from {size[0]}x{size[1]} to {frame.width}x{frame.height}"
            raise BadMedia(what, item.video.name, "encode it again")
        used.add(number)
        count, shown = number + 1, shown + 1
    if first is None:
        raise BadMedia("no frame could be decoded", item.video.name)
    if len(used) < shown or len(used) < count:
        remarks.append(f"{count} frames of the video became {shown} at {FPS} a second")
    height, width = first.pixels.shape[-2:]
    return count, shown, (width, height), begin, first.shown


def _check_sound(
    item: TalkItem, path: Path, rule: TalkRule, shown: int, begin: Fraction, remarks: list[str]
) -> tuple[int, bool]:
    """(how many of the video's frames have sound, whether it is silent)."""
    with about("audio", item.id, path.name):
        sound = sound_of(path, item, rule, begin)
    for remark in sound.remarks:
        if remark.kind == "clipped" and remark.share > rule.clipped:
            what = f"{remark.share:.1%} of its samples are at full scale, more than {rule.clipped:.0%}"
            raise DataError("clipped", what, item.id, path.name, "record it lower")
        remarks.append(f"sound: {remark.text}")
    if sound.source != (RATE, 1):
        remarks.append(f"sound of {sound.source[0]} Hz and {sound.source[1]} channels became {RATE} Hz and one")
    have, more = len(sound.samples) // SAMPLES, len(sound.samples) / SAMPLES - shown
    if more > rule.tolerance:
        remarks.append(f"its sound is {more / FPS:.2f} s longer than its picture; the rest is cut off")
    if -more > rule.tolerance:
        remarks.append(f"its sound is {-more / FPS:.2f} s shorter than its picture; silence follows, marked as none")
    return min(have, shown), any(remark.kind == "silent" for remark in sound.remarks)


def _check_faces(item: TalkItem) -> None:
    many = max(item.faces, len(item.speakers))
    if many > 1 and (len(item.speakers) < many or any(each.mask is None for each in item.speakers)):
        hint = "name each under speakers, with a mask"
        raise DataError("faces", f"{many} faces and no mask says who speaks", item.id, item.video.name, hint)


def _check_box(item: TalkItem, rule: TalkRule, count: int, size: tuple[int, int], aspect: float) -> None:
    if item.box is None:
        if not item.speakers and abs(aspect * rule.shape.height / rule.shape.width - 1) > ASPECT:
            what = f"no face box, and {size[0]}x{size[1]} has not the aspect of {rule.shape}"
            raise DataError("box", what, item.id, item.video.name, "add bbox")
        return
    with about("box", item.id, item.video.name):
        for box in read_track(item.box, count) if isinstance(item.box, Path) else [item.box]:
            check_box(box, *size)


def _check_masks(item: TalkItem, rule: TalkRule, count: int, size: tuple[int, int]) -> None:
    missing = set(rule.masks)
    if item.masks is not None:
        with about("mask", item.id, item.masks.name):
            missing -= set(read_masks(item.masks, count, size))
    if missing:
        raise DataError("mask", f"no mask of {', '.join(sorted(missing))}", item.id, item.video.name, "add masks")
    for each in item.speakers:
        if each.mask is not None:
            with about("mask", item.id, each.mask.name):
                read_mask(each.mask, count, size)


def read_masks(path: Path, count: int, size: tuple[int, int]) -> Mapping[str, np.ndarray]:
    """Those of face, lip and person that a .npz holds, uint8 [1 or count, H, W]. BadMedia for other sizes or values."""
    return {k: _mask(k, v, count, size, path) for k, v in read_arrays(path, MASKS).items()}


def read_mask(path: Path, count: int, size: tuple[int, int]) -> np.ndarray:
    """A mask out of .npy, the "mask" of .npz, or an image that is light where it holds: uint8 [1 or count, H, W]."""
    if path.suffix in (".npy", ".npz"):
        return _mask("mask", read_arrays(path, ("mask",))["mask"], count, size, path)
    return _mask("mask", picture(path).pixels[0].numpy(), count, size, path)


def _mask(name: str, values: np.ndarray, count: int, size: tuple[int, int], path: Path) -> np.ndarray:
    found = values[None] if values.ndim == 2 else values
    if found.ndim != 3 or found.shape[1:] != (size[1], size[0]) or found.shape[0] not in (1, count):
        what = f"mask {name} is {[*values.shape]}, the video {count} frames of {size[0]}x{size[1]}"
        raise BadMedia(what, path.name, "[H, W] for all frames, or [frames, H, W]")
    if found.dtype.kind == "b":
        return found.astype(np.uint8) * 255
    if found.dtype == np.uint8:
        return found * 255 if found.max() <= 1 else found
    if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        raise BadMedia(f"mask {name} has values outside 0 to 1", path.name)
    return (found * 255).round().astype(np.uint8)
