"""A live session: sound goes in, in pieces of any size, and frames come out, the same whatever the pieces.

Latent positions are made in blocks, each as soon as the sound it hears is there, after some positions of its past.
Latency of a frame = its block + the sound heard after it + computing; `Session.meter` measures the last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..core.errors import UserError
from .encoders import Encoder
from .mel import Mel
from .rates import FPS, RATE, SAMPLES
from .voiced import Voiced
from .windows import Windows

State = Literal["speaks", "listens", "idles"]


@dataclass(frozen=True)
class Heard:
    """What a block is made from. start: latent position it begins at; back: positions before it that are heard again;
    audio: [1, back + count, S, F]; state: what the one who speaks does in it."""

    start: int
    back: int
    audio: Tensor
    state: State

    @property
    def count(self) -> int:
        """Positions to be made."""
        return self.audio.shape[1] - self.back


class Make(Protocol):
    """Makes a block: frames [3, n, H, W], n = count * stride, at the beginning of a session stride - 1 fewer."""

    def __call__(self, heard: Heard) -> Tensor: ...

    def state(self) -> dict[str, Tensor]:
        """What is remembered from block to block."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken of."""

    def about(self) -> dict[str, str]:
        """What another must have in common to go on from a state: a word for it -> its value."""


@dataclass(frozen=True)
class Chunk:
    """frames: [3, n, H, W] in [-1, 1]; start: number of its first frame; state: see Heard; seconds: it took."""

    frames: Tensor
    start: int
    state: State
    seconds: float


@dataclass
class Meter:
    """What a session costs. spent: seconds of computing each block; frames: made so far; wait: seconds from the
    end of a frame of sound to when it is known, for the first frame of a block."""

    wait: float
    spent: list[float] = field(default_factory=list)
    frames: int = 0

    @property
    def realtime_factor(self) -> float:
        """Seconds of video for a second of computing; below 1 the session falls behind."""
        return self.frames / FPS / max(sum(self.spent), 1e-9)

    def said(self) -> dict[str, float]:
        """For a report: times in milliseconds."""
        times = torch.tensor(self.spent or [0.0], dtype=torch.float64) * 1000
        return {
            "wait_ms": 1000 * self.wait,
            "compute_p50_ms": float(times.quantile(0.5)),
            "compute_p95_ms": float(times.quantile(0.95)),
            "latency_p95_ms": 1000 * self.wait + float(times.quantile(0.95)),
            "realtime_factor": self.realtime_factor,
        }


class Session:
    """Sound at 16 kHz -> chunks of frames at 25 a second.

    first: latent positions of the first block; block: of each later one; back: of the past that each is shown;
    voiced: what counts as speech; patience: seconds after the last of it before it idles.
    """

    def __init__(
        self,
        make: Make,
        encoder: Encoder = Mel(),
        windows: Windows = Windows(),
        *,
        first: int = 1,
        block: int = 1,
        back: int = 1,
        voiced: Voiced = Voiced(hold=0),
        patience: float = 2.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if min(first, block) < 1 or not 0 <= back <= first:
            what = f"blocks of {first} and then {block} positions, {back} of the past"
            raise UserError(what, "session", "blocks of 1 or more, no more past than there is")
        self.make, self.windows, self.first, self.block, self.back = make, windows, first, block, back
        self.voiced, self.patience, self.clock = voiced, patience, clock
        wait = (windows.stride * block + windows.ahead) / FPS + encoder.ahead / RATE
        self.meter = Meter(wait)
        self._stream, self._done = encoder.stream(), 0
        self._features, self._begin = torch.zeros(0, encoder.width), 0  # features kept, and the first one's frame
        self._sound, self._quiet, self._ended = torch.zeros(0), patience, False

    @property
    def position(self) -> int:
        """Latent positions made."""
        return self._done

    def push(self, pcm: Tensor) -> list[Chunk]:
        """pcm [samples] in [-1, 1] -> the blocks that it completes, in order. UserError once finished."""
        if self._ended:
            raise UserError("this session is finished", "session", "begin another")
        if pcm.ndim != 1 or not pcm.isfinite().all():
            raise UserError(f"sound of shape {[*pcm.shape]}, or not finite", "session", "push [samples] in [-1, 1]")
        self._sound = torch.cat([self._sound, pcm.float()])
        self._features = torch.cat([self._features, self._stream.push(pcm)])
        return self._blocks()

    def finish(self) -> list[Chunk]:
        """What is left, to the last whole frame of sound, as if its last moment went on."""
        self._ended = True
        self._features = torch.cat([self._features, self._stream.flush()])
        made, total = self._blocks(), self._begin + len(self._features)
        while (left := total - self._frames(self._done)) > 0:
            chunk = self._block()
            made.append(Chunk(chunk.frames[:, :left], chunk.start, chunk.state, chunk.seconds))
            self.meter.frames += min(left, chunk.frames.shape[1]) - chunk.frames.shape[1]
        return made

    # -- what is kept of it ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything another session of the same model needs to go on to the bit, as tensors on the CPU (safetensors
        will keep them). What it cost so far, `meter`, is not in it."""
        found = {
            "numbers": torch.tensor([self._done, self._begin, int(self._ended)]),
            "quiet": torch.tensor([self._quiet], dtype=torch.float64),
            "features": self._features.clone(),
            "sound": self._sound.clone(),
            "about": torch.frombuffer(bytearray(json.dumps(self._about()).encode()), dtype=torch.uint8),
        }
        found |= {f"heard/{k}": v for k, v in self._stream.state().items()}
        return found | {f"make/{k}": v.detach().cpu().clone() for k, v in self.make.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken of. UserError, and nothing changes, where that is of another model or size."""
        known, own = about_of(state), self._about()
        for what, value in own.items():
            if known.get(what) != value:
                shown = "another model" if what == "weights" else f"{what} {known.get(what)}, this session has {value}"
                raise UserError(f"is of {shown}", "session state", "restore it in a session opened as it was")
        self._done, self._begin, ended = (int(n) for n in state["numbers"])
        self._quiet, self._ended = float(state["quiet"]), bool(ended)
        self._features, self._sound = state["features"].clone(), state["sound"].clone()
        self._stream.restore(entries("heard/", state))
        self.make.restore(entries("make/", state))

    def _about(self) -> dict[str, str]:
        blocks = f"{self.first}, {self.block} after {self.back}"
        return {**self.make.about(), "blocks": blocks, "features": str(self._features.shape[1])}

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _blocks(self) -> list[Chunk]:
        made = []
        while self.windows.frames(self._done + self._count - 1).stop <= self._begin + len(self._features):
            made.append(self._block())
        return made

    @property
    def _count(self) -> int:
        return self.block if self._done else self.first

    def _frames(self, positions: int) -> int:
        """Frames of so many positions from the beginning."""
        return self.windows.stride * (positions - 1) + 1 if positions else 0

    def _block(self) -> Chunk:
        start, count = self._done, self._count
        back = min(self.back, start)
        frames = slice(self._frames(start), self._frames(start + count))
        zero = self.windows.stride * (start - back)  # the frame that the block's own position 0 ends with
        audio = self.windows(self._features[None], back + count, zero - self._begin)
        heard = Heard(start, back, audio, self._state(frames))
        begun = self.clock()
        pixels = self.make(heard)
        spent = self.clock() - begun
        if pixels.ndim != 4 or pixels.shape[1] != frames.stop - frames.start:
            raise UserError(f"made {[*pixels.shape]} for {frames.stop - frames.start} frames", "session")
        self._done = start + count
        self.meter.spent.append(spent)
        self.meter.frames += pixels.shape[1]
        self._forget()
        return Chunk(pixels, frames.start, heard.state, spent)

    def _state(self, frames: slice) -> State:
        """By the sound of the block's own frames, which are taken from what is kept of it."""
        samples = (frames.stop - frames.start) * SAMPLES
        own, self._sound = self._sound[:samples], self._sound[samples:]
        loud = len(own) >= SAMPLES and bool(self.voiced(own).any())
        self._quiet = 0.0 if loud else self._quiet + samples / RATE
        return "speaks" if loud else "listens" if self._quiet < self.patience else "idles"

    def _forget(self) -> None:
        """Drop features that no later block hears."""
        oldest = self.windows.stride * max(self._done - self.back, 0) - self.windows.size
        if (gone := oldest - self._begin) > 0:
            self._features, self._begin = self._features[gone:], oldest


def about_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """What a session's state says of itself. UserError for something else."""
    try:
        found: dict[str, str] = json.loads(bytes(state["about"].tolist()))
        return found
    except (KeyError, ValueError, TypeError) as error:
        raise UserError("is not the state of a session", "session state", "give what Session.state made") from error


def entries(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries below a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
