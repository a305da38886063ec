"""A video file that grows chunk by chunk, for streams whose length nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from .media import ITU709, to_bytes


class VideoWriter:
    """Takes chunks [3, T, H, W] in [-1, 1] in order. Made by `video_writer`."""

    def __init__(self, container: Any, fps: Fraction, scale: int, crf: int, track: Track | None = None) -> None:
        self.container, self.fps, self.scale, self.crf, self.track = container, fps, scale, crf, track
        self.stream: Any = None
        self.frames = 0

    def write(self, pixels: Tensor) -> None:
        """Encode some frames more."""
        frames = to_bytes(pixels).permute(1, 2, 3, 0).repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2)
        sides = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
        for image in np.pad(frames.numpy(), sides, mode="edge"):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            self.stream = self.stream or self._opened(frame.height, frame.width)
            frame = frame.reformat(format="yuv420p", dst_colorspace=ITU709, interpolation="AREA")
            self.container.mux(self.stream.encode(frame))
            self.frames += 1
        if self.track is not None:
            self.track.write(self.container, self.frames / self.fps)

    def _opened(self, height: int, width: int) -> Any:
        options = {"crf": str(self.crf), "preset": "veryfast", "threads": "1"}
        stream = self.container.add_stream("libx264", rate=self.fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = ITU709, 1, 1, 1
        if self.track is not None:
            self.track.open(self.container)
        return stream

    def hear(self, sound: Tensor) -> None:
        """More of the sound [samples], for a film that began with some, if only with none."""
        assert self.track is not None
        self.track.add(sound)

    def finish(self) -> None:
        """What the encoder still holds."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())
            if self.track is not None:
                self.track.finish(self.container)


class Track:
    """The sound of a film: float [N] in [-1, 1] at `rate` Hz, one channel, written as far as there are pictures."""

    def __init__(self, sound: Tensor, rate: int) -> None:
        self.sound, self.rate, self.done, self.gone = sound, rate, 0, 0
        self.stream: Any = None

    def open(self, container: Any) -> None:
        """Announce it; before the first picture is written."""
        self.stream = container.add_stream("aac", rate=self.rate, layout="mono", options={"b": "96k"})

    def add(self, more: Tensor) -> None:
        """Sound that comes later, in place of what is written already."""
        self.sound, self.gone = torch.cat([self.sound[self.done - self.gone :], more]), self.done

    def write(self, container: Any, seconds: Fraction) -> None:
        """All sound up to this moment."""
        end = min(round(seconds * self.rate), self.gone + len(self.sound))
        samples = self.sound[self.done - self.gone : end - self.gone].float().clamp(-1, 1).cpu().numpy()[None]
        if samples.size:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.rate, self.done, Fraction(1, self.rate)
            container.mux(self.stream.encode(frame))
            self.done = end

    def finish(self, container: Any) -> None:
        """What the encoder still holds."""
        container.mux(self.stream.encode())


@contextmanager
def video_writer(
    path: Path, fps: float, *, scale: int = 1, crf: int = 12, sound: tuple[Tensor, int] | None = None
) -> Iterator[VideoWriter]:
    """A file that is whole when the block ends, also by an error of the caller's: what was written can be watched.

    scale: each pixel becomes a block of scale x scale; sound: (samples [N] in [-1, 1], Hz), heard from the first frame
    on and as long as the pictures last. OSError, and no file, where the disk refuses.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container:
            track = None if sound is None else Track(*sound)
            writer = VideoWriter(container, Fraction(fps).limit_denominator(100_000), scale, crf, track)
            try:
                yield writer
            finally:
                writer.finish()
                container.close()
                if writer.frames:
                    aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
