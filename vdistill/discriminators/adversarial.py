"""The GAN term on diffused samples (DMD2, LADD): heads on the features of a denoiser, real against generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.denoiser import Tapped
from ..core.losses.gan import Kind, game, student_loss, watch_loss
from ..core.rng import Rng
from ..core.schedule import Schedule
from ..core.step import Batch, Loss
from ..core.times import Times, Uniform
from .heads import TokenHeads


@dataclass(frozen=True)
class Adversarial:
    """A Term. taps: whose features; module: the heads; layers: which blocks; weight, watch_weight: in the student's
    and the heads' loss. Where the tapped network is itself trained (DMD2's critic), it learns to tell apart too."""

    taps: Tapped
    schedule: Schedule
    module: TokenHeads
    layers: Sequence[int]
    weight: float = 3e-3
    watch_weight: float = 1e-2
    kind: Kind = "ns"
    times: Times = Uniform(0.02, 0.98)
    name: str = "gan"

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        fake = self._logits(x, batch, rng)
        real = self._logits(batch.x, batch, rng) if game(self.kind).paired else None
        loss = self.weight * batch.mean(student_loss(fake, real, self.kind))
        return Loss(loss, {"gan": loss.detach()})

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        fake, real = self._logits(x.detach(), batch, rng), self._logits(batch.x, batch, rng)
        loss = self.watch_weight * batch.mean(watch_loss(real, fake, self.kind))
        told = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        return Loss(loss, {"gan": loss.detach(), "told_apart": told.detach()})

    def _logits(self, x: Tensor, batch: Batch, rng: Rng) -> Tensor:
        t = self.times(rng, len(x), x, "gan/t")
        noise = rng.normal("gan/eps", x.shape, like=x)
        features = self.taps.taps(self.schedule.noise(x, noise, t), t, batch.cond, self.layers)
        return torch.as_tensor(self.module(features))
