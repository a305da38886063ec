"""CausVid's student input (Yin et al. 2025): data, each block noised to a step of its own, in one masked pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.rng import Rng
from ..core.step import Batch
from ..core.times import Grid
from .layout import Layout
from .student import BlockCausal, block_times


@dataclass(frozen=True)
class NoisedBlocks:
    """A `Generate`: clean estimates at x_t, t of each block one of `times` (draws "input/t" and "input/eps").

    times: the student's steps, and 0, at which it will be asked to remember; unit: latents to a position.
    """

    layout: Layout
    times: tuple[float, ...]
    unit: int = 1

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        x, n = batch.x, len(batch)
        blocks = self.layout.blocks(x.shape[2] // self.unit)
        drawn = Grid(self.times)(rng, n * (blocks[-1] + 1), x, "input/t").unflatten(0, (n, -1))  # [B, blocks]
        t = block_times(drawn, blocks, self.unit)
        xt = student.schedule.noise(x, rng.normal("input/eps", x.shape, like=x), t)
        return BlockCausal(student, self.layout, self.unit).x0(xt, t, batch.cond)
