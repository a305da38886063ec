"""A video file that grows chunk by chunk, for streams whose length nobody knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from torch import Tensor

from .media import ITU709, to_bytes


class VideoWriter:
    """Takes chunks [3, T, H, W] in [-1, 1] in order. Made by `video_writer`."""

    def __init__(self, container: Any, fps: Fraction, scale: int, crf: int) -> None:
        self.container, self.fps, self.scale, self.crf = container, fps, scale, crf
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

    def _opened(self, height: int, width: int) -> Any:
        options = {"crf": str(self.crf), "preset": "veryfast", "threads": "1"}
        stream = self.container.add_stream("libx264", rate=self.fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = ITU709, 1, 1, 1
        return stream

    def finish(self) -> None:
        """What the encoder still holds."""
        if self.stream is not None:
            self.container.mux(self.stream.encode())


@contextmanager
def video_writer(path: Path, fps: float, *, scale: int = 1, crf: int = 12) -> Iterator[VideoWriter]:
    """A file that is whole when the block ends, also by an error of the caller's: what was written can be watched.

    scale: each pixel becomes a block of scale x scale. OSError, and no file, where the disk refuses.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with av.open(str(aside), "w", format="mp4", options={"movflags": "faststart"}) as container:
            writer = VideoWriter(container, Fraction(fps).limit_denominator(100_000), scale, crf)
            try:
                yield writer
            finally:
                writer.finish()
                container.close()
                if writer.frames:
                    aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
