"""What a teacher family is to the rest: networks in, one object out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .codec import Codec
from .cond import Cond
from .denoiser import Net


class Family(Protocol):
    """A published model taken apart: its network as a Denoiser, its codec, and its way from captions to Cond."""

    @property
    def name(self) -> str: ...

    @property
    def net(self) -> Net: ...

    @property
    def codec(self) -> Codec: ...

    @property
    def lora_targets(self) -> Sequence[str]: ...

    def text(self, captions: Sequence[str]) -> Cond:
        """Conditions of a batch of captions, with the null of each."""

    def save(self, net: Net, folder: Path, times: Sequence[float] | None = None) -> None:
        """Write a folder the stock library opens; times: the trained few-step schedule, None for a teacher's."""
