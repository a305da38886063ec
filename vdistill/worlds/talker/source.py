"""Talkers as training data: windows of a pool of clips, a pure function of (step, micro)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...core.errors import UserError
from ...core.rng import Rng
from .clips import Clip
from .pool import Pool
from .speech import FPS

AWAY = FPS // 2  # frames a reference keeps from the window it is for


@dataclass(frozen=True)
class Windows:
    """(step, global micro-batch) -> `batch` windows of `frames` frames (4 k + 1), each clip once before any is twice.

    The reference of a window is the clip's own picture of the person or, as often, a frame of the clip from at least
    half a second away. Clips are drawn when they are first needed, or all at once by `pool.fill()`.
    """

    pool: Pool
    frames: int
    batch: int
    micro: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames > self.pool.frames:
            said = f"windows of {self.frames} frames do not fit into clips of {self.pool.frames}"
            raise UserError(said, "talker.frames", f"seconds of at least {self.frames / FPS:.2f}")

    def __call__(self, step: int, micro: int) -> list[Clip]:
        first = (step * self.micro + micro) * self.batch
        return [self.window(n) for n in range(first, first + self.batch)]

    def window(self, number: int) -> Clip:
        """The window with this number in the run."""
        turn, place = divmod(number, self.pool.clips)
        order = torch.randperm(self.pool.clips, generator=Rng(self.seed, turn, turn="talker").generator("order"))
        rng = Rng(self.seed, number, turn="talker/window")
        start = rng.integer("start", self.pool.frames - self.frames + 1)
        far = [t for t in range(self.pool.frames) if t < start - AWAY or t >= start + self.frames + AWAY]
        other = far[rng.integer("reference", len(far))] if far and rng.integer("reference/kind", 2) else None
        return self.pool.window(int(order[place]), start, self.frames, other)
