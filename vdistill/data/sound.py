"""The sound of an audio or video file as 16 kHz mono, with what is odd about it.

Channels are averaged. The rate is changed by libswresample (a windowed sinc of 32 taps a phase, cut off at 97 % of the
lower band), once over the whole sound, so that nothing depends on how the file is packed. Timestamps count: sound that
begins late begins with silence, and a gap is silence, as players have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadMedia
from .media import DEMUXERS, check_end, reason
from .paths import open_regular

RATE = 16_000
RATES = range(8_000, 96_001)  # Hz, of what is read
SOUNDS = "wav,w64,mp3,flac,aac,aiff,au,caf,amr,ac3,eac3"
STRICT = {"wav", "w64", "flac", "aiff", "caf", "au", "mov"}  # containers whose header says how long the sound is
SILENT = 1e-3  # peak below which there is no speech, -60 dB
FULL, CLIPPED = 0.999, 0.001  # of full scale; share of samples there
OFFSET = 0.02  # of the mean


@dataclass(frozen=True)
class Remark:
    """kind: silent, clipped or offset; text: what is odd, for people; share: of samples at full scale, or the mean."""

    kind: str
    text: str
    share: float = 0.0


@dataclass(frozen=True)
class Sound:
    """samples: float32 [N], 16 kHz mono, about in [-1, 1]; source: Hz and channels of the file."""

    samples: Tensor
    source: tuple[int, int] = (RATE, 1)
    remarks: tuple[Remark, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def read_sound(path: Path | str, seconds: float = 600.0, begin: Fraction | None = None) -> Sound:
    """Read a whole sound track. seconds: longest taken; begin: time on the file's clock of the first sample wanted
    (a video's first frame), None for the sound's own beginning.

    BadMedia, in one line: no file, empty, no sound track, truncated, longer than `seconds`, a rate outside
    8 to 96 kHz, samples that are not finite.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise BadMedia("no such file", str(path))
        if path.stat().st_size == 0:
            raise BadMedia("is empty", path.name)
        rate, channels, mono = _decode(path, seconds, begin)
        samples = torch.from_numpy(resample(mono, rate))
    except BadMedia:
        raise
    except Exception as error:  # hostile files raise what they like
        raise BadMedia(f"its sound cannot be decoded ({reason(error)})", path.name) from error
    return checked(samples, (rate, channels), path.name)


def checked(samples: Tensor, source: tuple[int, int] = (RATE, 1), where: str = "sound") -> Sound:
    """Samples [N] with the remarks they deserve; a constant is taken off. BadMedia for none, or not finite."""
    if not len(samples):
        raise BadMedia("holds no sound", where)
    if bad := int((~torch.isfinite(samples)).sum()):
        raise BadMedia(f"{bad} of {len(samples)} samples are not finite", where, "export it again")
    mean = float(samples.double().mean())
    loud = float((samples.abs() >= FULL).double().mean())
    found = []
    if loud > CLIPPED:
        found.append(Remark("clipped", f"{loud:.1%} of its samples are at full scale; record it lower", loud))
    if abs(mean) > OFFSET:
        found.append(Remark("offset", f"its mean is {mean:+.2f}, which is taken off", mean))
        samples = samples - mean
    if float(samples.abs().max()) < SILENT:
        found.append(Remark("silent", "nothing is to be heard in it, so the mouth will stay closed"))
    return Sound(samples, source, tuple(found))


def resample(mono: np.ndarray, rate: int) -> np.ndarray:
    """float32 [N] at `rate` Hz -> [round(N * 16000 / rate)], aligned at the beginning."""
    if rate == RATE:
        return mono
    count = round(len(mono) * RATE / rate)
    tail = np.zeros(rate // 10, np.float32)  # so that the filter's end is not the sound's
    frame = av.AudioFrame.from_ndarray(np.concatenate([mono, tail])[None], format="flt", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    parts = [f.to_ndarray()[0] for f in [*resampler.resample(frame), *resampler.resample(None)]]
    return np.concatenate(parts)[:count]


def _decode(path: Path, seconds: float, begin: Fraction | None) -> tuple[int, int, np.ndarray]:
    """(Hz, channels, mean over the channels float32 [N])."""
    options = {"format_whitelist": f"{DEMUXERS},{SOUNDS}"}
    with (
        open_regular(path) as handle,
        av.open(handle, "r", container_options=options, metadata_errors="ignore") as container,
    ):
        if not container.streams.audio:
            shown = "has a picture but no sound track" if container.streams.video else "has no sound track"
            raise BadMedia(shown, path.name, "name a file with speech, such as a .wav")
        stream = container.streams.audio[0]
        rate, channels = int(stream.rate or 0), int(stream.channels or 0)
        if rate not in RATES:
            raise BadMedia(f"{rate} Hz is not between 8 and 96 kHz", path.name, "convert it to 16 kHz")
        told = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        if told > seconds:
            raise _too_long(told, seconds, path)
        parts, heard = [], 0
        for part in _placed(container, stream, rate, begin, seconds, path):
            parts.append(part)
            heard += len(part)
            if heard > seconds * rate:
                raise _too_long(heard / rate, seconds, path)
        lost = told - heard / rate
        if begin is None and STRICT & set(container.format.name.split(",")) and lost > 0.1 + 0.01 * told:
            raise BadMedia(f"is truncated: {heard / rate:.2f} s of {told:.2f} s", path.name, "copy it again")
        late = begin if begin is not None else (stream.start_time or 0) * (stream.time_base or 0)
        check_end(container, stream, heard / rate + float(late), path)
        if not parts:
            raise BadMedia("holds no sound", path.name)
        return rate, channels, np.concatenate(parts)


def _placed(
    container: Any, stream: Any, rate: int, begin: Fraction | None, seconds: float, path: Path
) -> Iterator[np.ndarray]:
    """Mono parts in a row, with silence where the timestamps leave a gap of more than a hundredth of a second."""
    at: int | None = None  # samples since `begin` so far
    for frame in container.decode(stream):
        if frame.sample_rate != rate:
            raise BadMedia(f"its rate changes from {rate} to {frame.sample_rate} Hz", path.name, "convert it again")
        part = _mono(frame)
        moment = None if frame.pts is None or frame.time_base is None else Fraction(frame.pts * frame.time_base)
        if at is None:
            at = 0
            start = moment if begin is None else begin
        if moment is not None and start is not None:
            place = round((moment - start) * rate)
            if place > seconds * rate:
                raise _too_long(place / rate, seconds, path)
            if place > at + rate // 100:
                yield np.zeros(place - at, np.float32)
                at = place
            elif begin is not None and at == 0 and place < 0:
                part = part[-place:] if -place < len(part) else part[:0]
            elif place < at - rate // 10:
                raise BadMedia(f"its timestamps run backwards at {float(moment):.2f} s", path.name, "remux it")
        at += len(part)
        if len(part):
            yield part


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """float32 [N] in [-1, 1]: the mean over the channels."""
    values = frame.to_ndarray()
    channels = len(frame.layout.channels)
    if not frame.format.is_planar:
        values = values.reshape(-1, channels).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / float(2 ** (8 * values.dtype.itemsize - 1))
    return values.mean(0, dtype=np.float32)


def _too_long(found: float, seconds: float, path: Path) -> BadMedia:
    return BadMedia(f"{found:.0f} s of sound is longer than {seconds:g} s", path.name, "cut it, or raise the limit")
