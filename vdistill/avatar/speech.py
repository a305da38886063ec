"""Features of speech networks (wav2vec 2.0, HuBERT, WavLM, Whisper) out of local folders, at 25 frames a second.

They speak 50 times a second; a frame takes what lies at its middle, between two of their features linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .encoders import Stream
from .rates import FPS, RATE, SAMPLES, whole_frames
from .ring import Ringed

STEP = 320  # samples from one of their features to the next
KINDS = {"wav2vec2": 200, "hubert": 200, "wavlm": 200, "whisper": 0}  # sample at the middle of their first feature
LONGEST, MARGIN = 28, 2  # seconds heard at once, and of them heard only for the sake of the rest


@dataclass(frozen=True)
class Speech:
    """A speech network as an encoder. Made by `open_speech`.

    layers: which hidden states are put side by side, 0 is before the first block; phase: where in a frame it reads, in
    its own features after the frame's first, None for the middle (0 is how published talking models read it).
    """

    model: Any
    prepare: Callable[[Tensor], Tensor]
    kind: str
    layers: tuple[int, ...]
    phase: float | None = None

    @property
    def width(self) -> int:
        return len(self.layers) * int(self.model.config.hidden_size)

    @property
    def ahead(self) -> int:
        """It hears whole sounds; see `Ringed` for live ones."""
        return SAMPLES * FPS * MARGIN

    @torch.no_grad()
    def features(self, sound: Tensor) -> Tensor:
        """sound [B, samples] -> [B, T, F]; longer than 28 s in parts with 2 s around each."""
        frames, inner = whole_frames(sound.shape[-1]), FPS * (LONGEST - 2 * MARGIN)
        if frames <= FPS * LONGEST:
            return self._whole(sound[:, : SAMPLES * frames])
        made = []
        for first in range(0, frames, inner):
            start, end = max(0, first - FPS * MARGIN), min(frames, first + inner + FPS * MARGIN)
            part = self._whole(sound[:, SAMPLES * start : SAMPLES * end])
            made.append(part[:, first - start : first - start + inner])
        return torch.cat(made, 1)

    def stream(self) -> Stream:
        return Ringed(self).stream()

    def _whole(self, sound: Tensor) -> Tensor:
        frames = sound.shape[-1] // SAMPLES
        said = self.model(self.prepare(sound.float().cpu()).to(self.model.device), output_hidden_states=True)
        found = torch.cat([said.hidden_states[i] for i in self.layers], -1).float()
        phase = (SAMPLES / 2 - KINDS[self.kind]) / STEP if self.phase is None else self.phase
        return between(found, torch.arange(frames) * (SAMPLES / STEP) + phase)


def between(values: Tensor, at: Tensor) -> Tensor:
    """values [B, N, F] at places `at` [T] counted in N, linearly; the ends go on."""
    at = at.to(values).clamp(0, values.shape[1] - 1)
    low = at.floor().long().clamp(max=max(0, values.shape[1] - 2))
    high = (low + 1).clamp(max=values.shape[1] - 1)
    share = (at - low)[:, None]
    return values[:, low] * (1 - share) + values[:, high] * share


def open_speech(
    folder: Path | str, layers: Sequence[int] = (), phase: float | None = None, device: str = "cpu"
) -> Speech:
    """A network saved by transformers. layers: see Speech, () for all after the first block.

    UserError for a folder that is not there, another kind of network, weights that are not safetensors, no such layer.
    """
    import transformers

    path = Path(folder)
    if not (path / "config.json").is_file():
        hint = "give a folder that transformers saved; nothing is downloaded"
        raise UserError("is not a folder with a config.json", str(path), hint)
    try:
        kind = str(transformers.AutoConfig.from_pretrained(path, local_files_only=True).model_type)
        if kind not in KINDS:
            raise UserError(f"holds a {kind} network", str(path), f"known: {', '.join(KINDS)}")
        model = transformers.AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        extractor = transformers.AutoFeatureExtractor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot be opened ({str(error).splitlines()[0]})", str(path), "save it as safetensors"
        ) from error
    model = (model.get_encoder() if kind == "whisper" else model).eval().requires_grad_(False).to(device)
    count = int(model.config.num_hidden_layers) + 1
    if bad := [i for i in layers if not -count <= i < count]:
        raise UserError(f"has no layer {bad[0]}", str(path), f"0 is before the first block, {count - 1} the last")
    if kind == "whisper":
        _check_whisper(model, path)
    return Speech(model, _prepare(extractor, kind), kind, tuple(layers) or tuple(range(1, count)), phase)


def _check_whisper(model: Any, path: Path) -> None:
    seconds = int(model.config.max_source_positions) * STEP / RATE
    if seconds < LONGEST:
        raise UserError(f"hears {seconds:g} s at once, {LONGEST} are needed", str(path), "whisper hears 30 s")


def _prepare(extractor: Any, kind: str) -> Callable[[Tensor], Tensor]:
    """Sound [B, samples] -> what the network takes, by its own extractor; Whisper's is filled up with silence."""

    def prepare(sound: Tensor) -> Tensor:
        said = extractor([one.numpy() for one in sound], sampling_rate=RATE, return_tensors="pt")
        return said["input_features" if kind == "whisper" else "input_values"]  # type: ignore[no-any-return]

    return prepare
