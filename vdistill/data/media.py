"""Video and image files -> pictures at a stated rate, chosen by timestamps, upright, with bounded cost; and back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av
import av.sidedata.sidedata
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import BadMedia, UserError
from .paths import open_regular

T = TypeVar("T")
# Containers that hold their own media. Play lists (hls, concat, dash) name other files and are never opened.
DEMUXERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif"
FASTEST = 480  # frames a second; more is a trap, not a video
ITU709, UNSPECIFIED = 1, 2
DISPLAYMATRIX = av.sidedata.sidedata.Type.DISPLAYMATRIX
Matrix = tuple[int, int, int, int]
Shot = tuple[av.VideoFrame, float, Matrix]  # a frame as decoded, its pixel aspect and display matrix
av.logging.set_level(None)


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded. seconds: of a video; pixels: of one frame."""

    seconds: float = 600.0
    pixels: int = 4096 * 2304


@dataclass(frozen=True)
class Picture:
    """pixels: uint8 [3, H, W], upright; aspect: displayed width over height of one pixel."""

    pixels: Tensor
    aspect: float = 1.0

    @property
    def shown(self) -> float:
        """Width over height as displayed."""
        return self.pixels.shape[-1] / self.pixels.shape[-2] * self.aspect


def rate(text: str | float) -> Fraction:
    """Frames a second: "24", "23.976", "30000/1001". UserError unless it lies in (0, 480]."""
    try:
        fps = Fraction(str(text))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"frame rate {text!r} is not a number", "--fps", "write 24, 23.976 or 30000/1001") from error
    if not 0 < fps <= FASTEST:
        raise UserError(f"frame rate {text} is not between 0 and {FASTEST}", "--fps")
    return fps


def resample(timed: Iterable[tuple[Fraction, T]], fps: Fraction) -> Iterator[T]:
    """The frame nearest to each time first + k / fps, k = 0, 1, ... (of two equally near the earlier).

    timed: (seconds, frame) in rising order. The last frame counts for half the gap before it, so the error is never
    more than half a source frame.
    """
    source = iter(timed)
    first = next(source, None)
    if first is None:
        return
    (start, held), time, gap, k = first, first[0], Fraction(0), 0
    for later, frame in source:
        while 2 * (start + k / fps) <= time + later:
            yield held
            k += 1
        gap, time, held = later - time, later, frame
    while start + k / fps <= time + gap / 2:
        yield held
        k += 1


def cut(frames: Iterable[T], length: int, stride: int) -> Iterator[tuple[int, list[T]]]:
    """(first index, clip) for every whole clip of `length` frames, one every `stride`."""
    window: deque[T] = deque(maxlen=length)
    for i, frame in enumerate(frames):
        window.append(frame)
        first = i + 1 - length
        if first >= 0 and first % stride == 0:
            yield first, list(window)


def pictures(path: Path, fps: Fraction, limits: Limits = Limits(), skip: int = 0) -> Iterator[Picture]:
    """The video's pictures at `fps` but the first `skip`. BadMedia, saying why, for a bad one; possibly at its end."""
    try:
        yield from map(show, islice(resample(decode(path, limits), fps), skip, None))
    except BadMedia:
        raise
    except Exception as error:  # hostile files raise what they like (IndexError, MemoryError, ValueError, ...)
        raise BadMedia(f"cannot be decoded ({reason(error)})", path.name) from error


def picture(path: Path, limits: Limits = Limits()) -> Picture:
    """An image, turned upright by its EXIF. BadMedia when it cannot be used."""
    try:
        with open_regular(path) as handle, Image.open(handle) as image:
            bound(image.width, image.height, limits, path)
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return Picture(torch.from_numpy(np.array(upright)).permute(2, 0, 1))
    except BadMedia:
        raise
    except Exception as error:
        raise BadMedia(f"is not a readable image ({reason(error)})", path.name) from error


def read_video(path: Path, fps: str | float | Fraction, limits: Limits = Limits()) -> Tensor:
    """A whole video at `fps`: float32 [3, T, H, W] in [-1, 1], upright, pixels as stored (not squared)."""
    return to_float([p.pixels for p in pictures(Path(path), rate(str(fps)), limits)])


def to_float(frames: list[Tensor]) -> Tensor:
    """uint8 [3, H, W] each -> float32 [3, T, H, W] in [-1, 1]."""
    return torch.stack(frames, 1).float().div(127.5).sub(1)


def to_bytes(pixels: Tensor) -> Tensor:
    """[-1, 1] -> uint8; inverse of `to_float` on its values."""
    return pixels.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).cpu()


def reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).split("\n")[0]
    return f"{type(error).__name__}: {text}"[:160] if text else type(error).__name__


def bound(width: int, height: int, limits: Limits, path: Path) -> None:
    if width < 1 or height < 1:
        raise BadMedia("has no size", path.name)
    if width * height > limits.pixels:
        raise BadMedia(f"{width}x{height} is more than {limits.pixels} pixels", path.name, "raise --max-pixels")


def _too_long(seconds: float, limits: Limits, path: Path) -> BadMedia:
    return BadMedia(f"{seconds:.0f} s is longer than {limits.seconds:g} s", path.name, "raise --max-seconds")


def decode(path: Path, limits: Limits) -> Iterator[tuple[Fraction, Shot]]:
    """(seconds since the first frame, frame as decoded), by the frames' own timestamps."""
    if path.stat().st_size == 0:
        raise BadMedia("is empty", path.name)
    with (
        open_regular(path) as handle,
        av.open(handle, "r", container_options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as container,
    ):
        stream = pictures_of(container, path)
        _check(container, stream, limits, path)
        aspect = _pixel_aspect(stream, path)
        start: Fraction | None = None
        last, count, matrix = Fraction(-1), 0, (1, 0, 0, 1)
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                raise BadMedia("its frames carry no timestamps", path.name, "remux it into .mkv or .mp4")
            if frame.is_corrupt:
                raise BadMedia(f"frame {count} is damaged", path.name)
            bound(frame.width, frame.height, limits, path)
            moment = frame.pts * frame.time_base
            if start is None:
                start, matrix = moment, _matrix(frame)  # once: looking at side data keeps a frame alive
            moment, count = moment - start, count + 1
            if moment > limits.seconds or count > FASTEST * limits.seconds:
                raise _too_long(float(moment), limits, path)
            if moment < last:
                raise BadMedia(f"its timestamps run backwards at frame {count - 1}", path.name)
            if moment > last:
                yield moment, (frame, aspect, matrix)
            last = moment
        if not count:
            raise BadMedia("no frame could be decoded", path.name)
        check_end(container, stream, float(last), path)


def pictures_of(container: Any, path: Path) -> Any:
    """The first stream of pictures; the cover of an album is none."""
    covers = av.stream.Disposition.attached_pic
    found = [s for s in container.streams.video if not s.disposition & covers]
    if not found:
        raise BadMedia("has sound but no picture" if container.streams.audio else "has no video stream", path.name)
    return found[0]


def _pixel_aspect(stream: Any, path: Path) -> float:
    aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    if not 1 / 16 <= aspect <= 16:
        raise BadMedia(f"pixels {aspect:g} times as wide as high cannot be meant", path.name)
    return aspect


def _check(container: Any, stream: Any, limits: Limits, path: Path) -> None:
    """Refuse what its header already says is too large, too long, or not all there."""
    bound(stream.codec_context.width, stream.codec_context.height, limits, path)
    stream.codec_context.options = {"max_pixels": str(limits.pixels)}  # holds when the size changes on the way
    seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / av.time_base
    if seconds > limits.seconds:
        raise _too_long(seconds, limits, path)
    if "mp4" in container.format.name:
        size = path.stat().st_size
        needed = max((e.pos + e.size for e in stream.index_entries), default=0)
        if needed > size:
            raise BadMedia(f"is truncated: {size} bytes of at least {needed}", path.name, "copy it again")


def check_end(container: Any, stream: Any, last: float, path: Path) -> None:
    """A file cut short decodes without a word up to the cut; its header still says how long it was."""
    if not {"matroska", "avi", "flv", "asf"} & set(container.format.name.split(",")):
        return
    seconds = _clock(stream.metadata.get("DURATION", ""))
    if not seconds and stream.duration:
        seconds = float(stream.duration * stream.time_base)
    if not seconds and len(container.streams) == 1:
        seconds = (container.duration or 0) / av.time_base
    if last < seconds - max(1.0, 0.1 * seconds):
        raise BadMedia(f"is truncated: {last:.2f} s of {seconds:.2f} s", path.name, "copy it again")


def _clock(text: str) -> float:
    """Matroska's "00:00:05.000000000" in seconds; 0 for anything else."""
    parts = text.split(":")
    try:
        return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2]) if len(parts) == 3 else 0.0
    except ValueError:
        return 0.0


def show(shot: Shot) -> Picture:
    frame, aspect, matrix = shot
    guess = ITU709 if frame.colorspace == UNSPECIFIED and frame.height >= 720 else None  # what players assume
    rgb = frame.reformat(format="rgb24", src_colorspace=guess).to_ndarray()
    return upright(torch.from_numpy(rgb).permute(2, 0, 1), aspect, matrix)


def _matrix(frame: av.VideoFrame) -> Matrix:
    """(a, b, c, d) of the display matrix, x' = a x + c y and y' = b x + d y; the identity without one."""
    sides: Iterable[Any] = frame.side_data
    for side in sides:
        if side.type == DISPLAYMATRIX:
            m = np.frombuffer(bytes(side), np.int32)  # [a b u; c d v; x y w]
            return int(m[0]), int(m[1]), int(m[3]), int(m[4])
    return 1, 0, 0, 1


def upright(pixels: Tensor, aspect: float, matrix: Matrix) -> Picture:
    """Turned and mirrored as the display matrix says, to the nearest quarter turn; x grows right, y down."""
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        mirror_x, mirror_y = a < 0, d < 0
    else:
        pixels, aspect = pixels.transpose(1, 2), 1 / aspect
        mirror_x, mirror_y = c < 0, b < 0
    axes = [axis for axis, turned in ((2, mirror_x), (1, mirror_y)) if turned]
    return Picture(pixels.flip(axes) if axes else pixels, aspect)


def write_video(path: Path | str, pixels: Tensor, fps: float | Fraction, *, scale: int = 1, crf: int = 12) -> None:
    """Encode [3, T, H, W] in [-1, 1] as H.264 for any browser; whole or not at all, the same bytes each time.

    scale: each pixel becomes a block of scale x scale (crisp enlargement); odd sides are padded by their edge.
    """
    path = Path(path)
    frames = to_bytes(pixels).permute(1, 2, 3, 0).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    images = np.pad(frames.numpy(), ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    exact = Fraction(fps).limit_denominator(100_000)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container:
            options = {"crf": str(crf), "preset": "slow", "threads": "1"}
            stream = container.add_stream("libx264", rate=exact, options=options)
            stream.height, stream.width = images.shape[1:3]
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_primaries, context.color_trc, context.color_range = ITU709, 1, 1, 1
            for image in images:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace=ITU709, interpolation="AREA")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
