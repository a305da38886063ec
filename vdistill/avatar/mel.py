"""Log-mel features of sound, four steps a frame; a stream gives bit for bit what the whole sound gives.

The steps are those of `librosa.feature.melspectrogram` (Slaney's scale and norm, Hann window, power 2, zeros around).
Bit for bit needs work in blocks of one frame: FFTs and products of matrices of other sizes round in other ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..core.errors import UserError
from .pieces import Pieces
from .rates import RATE, SAMPLES, whole_frames

HOP = 160  # samples, 10 ms
STEPS = SAMPLES // HOP  # of a frame
WINDOW = 400  # samples, 25 ms
FLOOR = 1e-8  # power below which nothing is heard
PIECE = WINDOW + (STEPS - 1) * HOP  # samples that the steps of one frame see


@dataclass(frozen=True)
class Mel:
    """Log-mel encoder. bands: 20 to 128; causal: a frame's features see no sample after the frame.

    Not causal: step j is the window around sample 160 j, so that a frame sees 40 samples (2.5 ms) more than its end.
    Causal: step j is the window that ends before sample 160 (j + 1). Values are (log10 power + 4) / 4, silence is -1.
    """

    bands: int = 40
    causal: bool = False

    def __post_init__(self) -> None:
        if not 20 <= self.bands <= 128:
            raise UserError(f"{self.bands} mel bands", "audio", "20 to 128; speech needs 40 to 80")

    @property
    def width(self) -> int:
        """Features a frame."""
        return STEPS * self.bands

    @property
    def ahead(self) -> int:
        """Samples after a frame's end that its features see."""
        return PIECE - self.before - SAMPLES

    def features(self, sound: Tensor) -> Tensor:
        """sound [B, samples] in [-1, 1] at 16 kHz -> [B, T, 4 * bands] at 25 a second, T whole frames."""
        frames = whole_frames(sound.shape[-1])
        padded = torch.nn.functional.pad(sound.float(), (self.before, PIECE))
        each = [[self.frame(one[SAMPLES * f : SAMPLES * f + PIECE]) for f in range(frames)] for one in padded]
        return torch.stack([torch.stack(one) for one in each])

    def stream(self) -> MelStream:
        """The same, for sound that comes bit by bit."""
        return MelStream(self)

    @property
    def before(self) -> int:
        """Zeros before the first sample."""
        return WINDOW - HOP if self.causal else WINDOW // 2

    def frame(self, piece: Tensor) -> Tensor:
        """[PIECE] -> [4 * bands]."""
        shown = piece.unfold(0, WINDOW, HOP) * self._hann.to(piece.device)  # [4, WINDOW]
        spectrum = torch.fft.rfft(shown)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self._filters.to(piece.device)).clamp_min(FLOOR).log10().add(4).div(4).flatten()

    @cached_property
    def _hann(self) -> Tensor:
        return torch.hann_window(WINDOW)

    @cached_property
    def _filters(self) -> Tensor:
        return filters(self.bands).float()


class MelStream:
    """Sound in pieces of any size -> the features of the frames they complete."""

    def __init__(self, mel: Mel) -> None:
        self.mel = mel
        self._pieces = Pieces(PIECE, SAMPLES, mel.before)

    def push(self, pcm: Tensor) -> Tensor:
        """pcm [samples] in [-1, 1] -> [frames completed by it, 4 * bands]."""
        return self._said(self._pieces.push(pcm))

    def flush(self) -> Tensor:
        """The last whole frames, with silence after the end."""
        return self._said(self._pieces.flush(self._pieces.samples // SAMPLES))

    def state(self) -> dict[str, Tensor]:
        return self._pieces.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._pieces.restore(state)

    def _said(self, pieces: list[Tensor]) -> Tensor:
        made = [self.mel.frame(piece) for piece in pieces]
        return torch.stack(made) if made else torch.zeros(0, self.mel.width)


def filters(bands: int, low: float = 0.0, high: float = RATE / 2) -> Tensor:
    """Slaney's triangles, each of unit area per Hz: float64 [WINDOW // 2 + 1, bands]."""
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    ends = torch.linspace(_mel(low), _mel(high), bands + 2, dtype=torch.float64)
    corner = torch.tensor([_hertz(float(m)) for m in ends], dtype=torch.float64)
    rise = (bins[:, None] - corner[:-2]) / (corner[1:-1] - corner[:-2])
    fall = (corner[2:] - bins[:, None]) / (corner[2:] - corner[1:-1])
    return torch.minimum(rise, fall).clamp_min(0) * 2 / (corner[2:] - corner[:-2])


def _mel(hertz: float) -> float:
    """Slaney's scale: linear up to 1 kHz, which is 15 mel, then 27 mel for each factor of 6.4."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) / 27 * math.log(6.4))
