"""Clips drawn once and kept, as bytes, in memory or on disk; drawing is resumable and safe against a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...core.errors import UserError
from .clips import MASKS, Clip
from .damage import USUAL, check
from .speech import FPS, HOP
from .talker import Talker

WORLD = 3  # raised whenever the same index draws another clip
TRACKS = ("mouth", "blink", "pose", "box")  # stored as they are, one row a frame
FACTS = ("person", "voice", "phonemes", "text", "damage", "key")


@dataclass(frozen=True)
class Pool:
    """`clips` clips of `seconds` s at `size` pixels; a share `mq` of them is damaged, of people nobody else shares.

    folder: where to keep them, one file a clip (4 bytes a pixel); None for memory. damage: see `Talker`.
    """

    clips: int = 160
    seconds: float = 4.0
    size: int = 64
    mq: float = 0.0
    seed: int = 0
    speech: str = "shipped"
    damage: Mapping[str, float] = field(default_factory=lambda: USUAL)
    folder: Path | None = None
    _memory: dict[int, dict[str, Tensor | str]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.clips < 1 or self.frames < 1 or not 0 <= self.mq <= 1:
            said = f"{self.clips} clips of {self.seconds} s, a share {self.mq} of them damaged, are no pool"
            raise UserError(said, "talker.pool")
        check(self.damage)

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return round(self.seconds * FPS)

    def split(self, index: int) -> str:
        """ "hq" or "mq": a low-discrepancy choice, so that any run of clips has close to its share of each."""
        return "mq" if int((index + 1) * self.mq) > int(index * self.mq) else "hq"

    @property
    def home(self) -> Path | None:
        """The folder of this very pool: another size, seed or damage has another."""
        if self.folder is None:
            return None
        said = [WORLD, self.seconds, self.size, self.mq, self.seed, self.speech, sorted(self.damage.items())]
        return Path(self.folder) / hashlib.blake2b(json.dumps(said).encode(), digest_size=6).hexdigest()

    def fill(self, report: Callable[[int], None] = lambda count: None) -> None:
        """Draw every clip that is not there yet; report: called with the number of clips that are."""
        for index in range(self.clips):
            self._stored(index)
            report(index + 1)

    def window(self, index: int, start: int, frames: int, reference: int | None = None) -> Clip:
        """Frames [start, start + frames) of clip `index`; reference: a frame to show instead of the clip's own."""
        stored, home = self._stored(index), self.home
        if home is None:
            return _unpack(stored, start, frames, reference)
        with safe_open(str(home / _name(index)), framework="pt") as file:
            facts = {"facts": (file.metadata() or {})["facts"]}
            return _unpack({name: file.get_slice(name) for name in file.keys()} | facts, start, frames, reference)

    def _stored(self, index: int) -> dict[str, Tensor | str]:
        home = self.home
        if home is None:
            if index not in self._memory:
                self._memory[index] = _pack(self._draw(index))
            return self._memory[index]
        path = home / _name(index)
        if not path.is_file():
            packed = _pack(self._draw(index))
            facts = str(packed.pop("facts"))
            home.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            save_file({k: v for k, v in packed.items() if isinstance(v, Tensor)}, aside, {"facts": facts})
            os.replace(aside, path)
        return {}

    def _draw(self, index: int) -> Clip:
        return Talker(self.split(index), self.size, self.frames, self.seed, self.speech, self.damage).clip(index)


def _name(index: int) -> str:
    return f"clip_{index:05d}.safetensors"


def _pack(clip: Clip) -> dict[str, Tensor | str]:
    """Pixels as bytes; masks in four levels, two bits each; sound in 16 bits; everything else as it is."""
    bits = sum((4**i * (3 * clip.masks[name]).round() for i, name in enumerate(MASKS)), start=torch.zeros(()))
    return {
        "frames": _bytes(clip.frames),
        "reference": _bytes(clip.reference),
        "masks": bits.byte().contiguous(),
        "sound": (clip.sound * 32767).round().clamp(-32768, 32767).short(),
        "identity": clip.identity.contiguous(),
        **{name: getattr(clip, name).contiguous() for name in TRACKS},
        "facts": json.dumps({name: getattr(clip, name) for name in FACTS}),
    }


def _bytes(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().contiguous()


def _unpack(stored: Mapping, start: int, frames: int, reference: int | None) -> Clip:
    """stored: tensors, or slices of a file, that give what is asked for and no more."""
    cut = slice(start, start + frames)
    bits = stored["masks"][cut].int()
    facts = json.loads(stored["facts"])
    shown = stored["reference"][:] if reference is None else stored["frames"][:, reference : reference + 1][:, 0]
    whole = Clip(
        frames=stored["frames"][:, cut].float() / 127.5 - 1,
        sound=stored["sound"][HOP * start : HOP * (start + frames)].float() / 32767,
        reference=shown.float() / 127.5 - 1,
        identity=stored["identity"][:],
        **{name: stored[name][cut] for name in TRACKS},
        masks={name: (bits // 4**i % 4).float() / 3 for i, name in enumerate(MASKS)},
        **facts | {"phonemes": tuple((a, b, p) for a, b, p in facts["phonemes"])},
    )
    return whole.timed(start, frames)
