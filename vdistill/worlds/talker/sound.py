"""Sound in files and at other rates, through PyAV. Times stay true: what a codec puts in front is cut off again."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from torch import Tensor

RATE = 16_000  # Hz, mono


def resample(sound: Tensor, rate: int, to: int = RATE) -> Tensor:
    """Mono float32 [N] at `rate` Hz -> [round(N to / rate)] at `to` Hz, without delay."""
    if rate == to:
        return sound
    resampler = av.AudioResampler(format="flt", layout="mono", rate=to)
    parts = [each.to_ndarray()[0] for each in [*resampler.resample(to_frame(sound, rate)), *resampler.resample(None)]]
    return fit(torch.from_numpy(np.concatenate(parts)), round(len(sound) * to / rate))


def to_frame(sound: Tensor, rate: int) -> av.AudioFrame:
    """Mono float32 [N] as PyAV takes it, at time 0: without a time, AAC in mp4 comes 1024 samples late."""
    frame = av.AudioFrame.from_ndarray(sound.float().numpy()[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    return frame


def fit(sound: Tensor, count: int) -> Tensor:
    """The first `count` samples, silence after the end."""
    return torch.nn.functional.pad(sound[:count], (0, max(count - len(sound), 0)))


def decode(source: Path | bytes) -> Tensor:
    """The first audio stream of a file, float32 [N] at 16 kHz, mono."""
    handle = str(source) if isinstance(source, Path) else io.BytesIO(source)
    with av.open(handle, mode="r") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        decoded = list(container.decode(audio=0))
        early = round(-min(decoded[0].time or 0.0, 0.0) * RATE)  # samples before time 0: an encoder's, to be dropped
        frames = [each for frame in decoded for each in resampler.resample(frame)]
        parts = [each.to_ndarray()[0] for each in [*frames, *resampler.resample(None)]]
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))[early:]


def encode(sound: Tensor, path: Path, codec: str = "libopus", bits: int = 32_000) -> None:
    """Write float32 [N] at 16 kHz, mono; `bits` per second. The container follows from the file's name."""
    with av.open(str(path), mode="w") as container:
        stream = cast(av.AudioStream, container.add_stream(codec, rate=RATE, layout="mono"))
        stream.bit_rate = bits
        for each in [to_frame(sound, RATE), None]:
            container.mux(stream.encode(each))
