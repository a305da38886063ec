"""Sounds for tests, and files of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def tone(seconds: float, rate: int = 16_000, hertz: float = 440.0) -> np.ndarray:
    """A sine of half the full scale, float32 [N]."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_sound(path: Path, sound: np.ndarray, rate: int = 16_000, codec: str = "pcm_f32le", late: float = 0.0) -> Path:
    """sound [N] or [2, N]; late: seconds before it begins, on the file's clock."""
    planes = np.atleast_2d(sound)
    layout = "stereo" if len(planes) == 2 else "mono"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for first in range(0, planes.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes[:, first : first + 1024]), "fltp", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, first + round(late * rate), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_short(path: Path, share: float) -> Path:
    """The first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    return path
