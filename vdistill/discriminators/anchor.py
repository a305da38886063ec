"""Averages of a judge's logits over past batches, and the LeCam penalty that ties it to them (Tseng et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from ..core.losses.gan import lecam


class Anchor(nn.Module):
    """Kept as buffers, so that they are saved and resumed with the judge; the same in all processes.

    Several micro-batches of one process move them one after the other, those of several processes at once.
    """

    real: Tensor
    fake: Tensor
    seen: Tensor

    def __init__(self, weight: float = 0.1, decay: float = 0.99) -> None:
        super().__init__()
        self.weight, self.decay = weight, decay
        for name in ("real", "fake", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty [B] against what was usual before this batch (0 at the first), which then becomes part of it."""
        known = 1 - self.decay**self.seen  # a young average is made up for, as in Adam
        usual = [torch.where(self.seen > 0, mean / known.clamp_min(1e-8), 0.0) for mean in (self.real, self.fake)]
        cost = self.weight * (self.seen > 0) * lecam(real.float(), fake.float(), *usual)
        self._learn(torch.stack([real.detach().float().mean(), fake.detach().float().mean()]))
        return cost

    @torch.no_grad()
    def _learn(self, now: Tensor) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(now)
            now = now / distributed.get_world_size()
        for kept, value in zip((self.real, self.fake), now, strict=True):
            kept.mul_(self.decay).add_(value, alpha=1 - self.decay)
        self.seen.add_(1)
