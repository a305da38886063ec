"""Sound as it comes from another program: raw samples in, frames out, and what that cost.

Nothing is dropped. While a block is made the sound that follows waits in the pipe (2 s on Linux), and when that is full
the program that sends it waits: a player or a file goes slower, a microphone's program loses what it cannot store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..avatar.rates import FPS, RATE, SAMPLES
from ..avatar.session import Meter, Session
from ..core.errors import UserError

READ = 1 << 14  # bytes asked for at once, half a second; what is there is taken
SIGNS = {
    (0, b"RIFF"): "WAV", (0, b"fLaC"): "FLAC", (0, b"OggS"): "Ogg", (0, b"ID3"): "MP3", (4, b"ftyp"): "MP4",
    (0, b"\x1aE\xdf\xa3"): "Matroska",
}  # fmt: skip
"""(place, bytes) -> the kind of file that has them there."""
HINT = "such as: ffmpeg -i FILE -f s16le -ar 16000 -ac 1 - | vdistill talk MODEL --audio - ..."


def piped(source: BinaryIO) -> BinaryIO:
    """The source. UserError for a terminal."""
    if source.isatty():
        raise UserError("nothing is piped in", "--audio -", HINT)
    return source


def pcm(source: BinaryIO) -> Iterator[Tensor]:
    """Signed 16-bit little-endian samples at 16 kHz, one channel -> [samples] in [-1, 1), as they come. UserError for
    what begins as a sound file does."""
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    left, begun = b"", False
    while more := read(READ):
        left += more
        if len(left) < (2 if begun else 8):
            continue
        if not begun and (kind := kind_of(left)):
            raise UserError(f"is a file of kind {kind}, raw samples are expected", "--audio -", HINT)
        begun, whole = True, len(left) // 2 * 2
        yield torch.frombuffer(bytearray(left[:whole]), dtype=torch.int16).float() / 32768
        left = left[whole:]


def kind_of(begin: bytes) -> str | None:
    """The kind of file that begins so, if it is one of those we know."""
    return next((name for (at, sign), name in SIGNS.items() if begin.startswith(sign, at)), None)


class Live:
    """Frames of a session that is fed by another program. fresh: sound that came since it was last asked."""

    def __init__(self, session: Session, source: BinaryIO) -> None:
        self.session, self.source = session, source
        self._came: list[Tensor] = []

    def fresh(self) -> Tensor:
        came, self._came = torch.cat([torch.zeros(0), *self._came]), []
        return came

    def __iter__(self) -> Iterator[Tensor]:
        """Frames [3, n, H, W], each block as soon as its sound is there. UserError for less sound than a frame."""
        heard = 0
        for piece in pcm(self.source):
            heard += len(piece)
            self._came.append(piece)
            for chunk in self.session.push(piece):
                yield chunk.frames
        if heard < SAMPLES:
            what = f"ended after {heard / RATE:.3f} s, less than one frame"
            raise UserError(what, "--audio -", "pipe in s16le at 16 kHz")
        for chunk in self.session.finish():
            yield chunk.frames


def latency(meter: Meter) -> str:
    """One line: what a viewer waits for, and whether it keeps up."""
    said: dict[str, Any] = meter.said()
    ahead = said["realtime_factor"]
    behind = "" if ahead >= 1 else f"; too slow for live sound, {1 / ahead - 1:.2f} s later with every second"
    return (
        f"{meter.frames / FPS:.1f} s: latency {said['latency_p95_ms']:.0f} ms ({said['wait_ms']:.0f} ms of sound and "
        f"{said['compute_p95_ms']:.0f} ms of computing, p95), {ahead:.2f} x real time{behind}"
    )
