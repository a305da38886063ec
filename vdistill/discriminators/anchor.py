"""Averages of a judge's logits over past steps, and the LeCam penalty that ties it to them (Tseng et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from ..core.losses.gan import lecam


class Anchor(nn.Module):
    """Kept as buffers, so that they are saved and resumed with the judge; the same in all processes.

    A step's micro-batches are tied to the averages before that step, and move them together: several of one process as
    those of several processes. usual: of real and generated logits; coming: sums of the step that runs, and how many.
    """

    usual: Tensor
    seen: Tensor
    coming: Tensor
    step: Tensor

    def __init__(self, weight: float = 0.1, decay: float = 0.99) -> None:
        super().__init__()
        self.weight, self.decay = weight, decay
        for name, size in (("usual", (2,)), ("seen", ()), ("coming", (3,)), ("step", ())):
            self.register_buffer(name, torch.zeros(size))

    def forward(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        """The penalty [B] against what was usual before this step (0 in the first), of which this batch is a part."""
        self._begin(step)
        known = 1 - self.decay**self.seen  # a young average is made up for, as in Adam
        usual = torch.where(self.seen > 0, self.usual / known.clamp_min(1e-8), 0.0)
        cost = self.weight * (self.seen > 0) * lecam(real.float(), fake.float(), *usual.unbind())
        self._learn(torch.stack([real.detach().float().mean(), fake.detach().float().mean()]))
        return cost

    @torch.no_grad()
    def _begin(self, step: int) -> None:
        """The averages take in the step before, once another begins."""
        over = (self.step != step) & (self.coming[2] > 0)
        mean = self.coming[:2] / self.coming[2].clamp_min(1)
        self.usual.copy_(torch.where(over, self.decay * self.usual + (1 - self.decay) * mean, self.usual))
        self.seen.add_(over)
        self.coming.mul_(~over)
        self.step.fill_(step)

    @torch.no_grad()
    def _learn(self, now: Tensor) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(now)
            now = now / distributed.get_world_size()
        self.coming.add_(torch.cat([now, now.new_ones(1)]))
