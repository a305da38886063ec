"""Distribution matching of single frames with a teacher of images (AVDM2, Zhu et al. 2024).

grad_y KL = E [ (x0_critic(y_t) - x0_teacher(y_t)) / n ] for y a frame of the student's clip, folded into the batch; the
critic denoises such frames. It sees no motion: a judge of whole clips belongs beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn, no_grad

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.losses.matching import matching
from ..core.losses.regression import weighted_x0
from ..core.rng import Rng
from ..core.step import Batch, Loss
from ..core.times import Times, Uniform

Pictures = Callable[[Tensor, Rng], Tensor]
"""Clips [B, C, T, ...] -> K images of each, as clips of one frame [B, K, C', 1, ...], with a graph."""


def drawn(frames: Tensor, count: int | None, rng: Rng) -> Tensor:
    """`count` frames of each clip [B, C, T, ...], drawn with replacement (draw "frame"), all in order without a count;
    [B, K, C, 1, ...]."""
    apart = frames.movedim(2, 1).unsqueeze(3)
    if count is None:
        return apart
    place = rng.integers("frame", (len(frames), count), frames.shape[2], like=frames)
    return apart[torch.arange(len(frames), device=frames.device)[:, None], place]


@dataclass(frozen=True)
class LatentFrames:
    """`Pictures` where a codec encodes every frame by itself, so that a latent frame is an image."""

    count: int | None = None

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        return drawn(x, self.count, rng)


@dataclass(frozen=True)
class DecodedFrames:
    """`Pictures` where latents span frames: the clip is decoded, and drawn frames are encoded as images."""

    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    count: int | None = None

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        found = drawn(self.decode(x), self.count, rng)
        latents = self.encode(found.flatten(0, 1))
        return latents.view(len(found), -1, *latents.shape[1:])


@dataclass(frozen=True)
class FrameMatching:
    """A `Term`. teacher: of images, guided; critic: a copy of it, whose weights are `module`; floor: smallest t in the
    critic's weight 1 / t^2. What runs along a clip in its condition is not shown to either."""

    teacher: Denoiser
    critic: Denoiser
    module: nn.Module
    pictures: Pictures
    times: Times = Uniform(0.02, 0.98)
    weight: float = 1.0
    floor: float = 0.05
    name: str = "frames"

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        y, count, cond = self._frames(x, batch, rng)
        with no_grad():
            t, yt = self._noised(y, rng)
            real, fake = self.teacher.x0(yt, t, cond), self.critic.x0(yt, t, cond)
        far = batch.mean(rearrange(matching(y, real, fake), "(b k) -> b k", k=count).mean(1))
        return Loss(self.weight * far, {"frame_gap": (fake - real).abs().mean()})

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        with no_grad():
            y, count, cond = self._frames(x, batch, rng)
            t, yt = self._noised(y, rng)
        far = weighted_x0(self.critic.x0(yt, t, cond), y, t, self.critic.schedule, "flow", self.floor)
        loss = batch.mean(rearrange(far, "(b k) -> b k", k=count).mean(1))
        return Loss(loss, {"frames": loss.detach()})

    def _frames(self, x: Tensor, batch: Batch, rng: Rng) -> tuple[Tensor, int, Cond]:
        """(images [B K, C, 1, ...], K, the condition of each)."""
        found = self.pictures(x, rng)
        count = found.shape[1]
        whose = torch.arange(len(x), device=x.device).repeat_interleave(count)
        return found.flatten(0, 1), count, replace(batch.cond, along={}).select(whose)

    def _noised(self, y: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        t = self.times(rng, len(y), y, f"{self.name}/t")
        return t, self.critic.schedule.noise(y, rng.normal(f"{self.name}/eps", y.shape, like=y), t)
