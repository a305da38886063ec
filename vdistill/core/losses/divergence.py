"""f-divergences as weights of distribution matching (f-distill, Xu et al. 2025): h(r) = r^2 f''(r), r = q / p at x_t.

p is the law of the noised student, q of the noised teacher. Reverse KL seeks modes (h = 1); the others ask less of
samples that the teacher hardly makes and more of those that it makes more often than the student, and so keep modes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, distributed, nn

from ..cond import Cond

Divergence = Callable[[Tensor], Tensor]
"""h as a function of log r [B] -> [B]. Of the logarithm, because that is what a discriminator's logit estimates."""
Name = Literal["reverse_kl", "softened_reverse_kl", "jensen_shannon", "hellinger", "forward_kl", "jeffreys"]
LogRatio = Callable[[Tensor, Tensor, Cond], Tensor]
"""(x_t [B, C, T, ...], t [B], cond) -> log q / p [B]."""

DIVERGENCES: Mapping[Name, Divergence] = {
    "reverse_kl": torch.ones_like,  # f = -log r
    "softened_reverse_kl": lambda log_r: torch.sigmoid(-log_r),  # f = (r + 1) log((r + 1) / (2 r)): 1 / (1 + r)
    "jensen_shannon": torch.sigmoid,  # f = r log r - (r + 1) log((r + 1) / 2): r / (1 + r)
    "hellinger": lambda log_r: 0.5 * (0.5 * log_r).exp(),  # f = (1 - sqrt r)^2: sqrt(r) / 2
    "forward_kl": torch.exp,  # f = r log r
    "jeffreys": lambda log_r: 1 + log_r.exp(),  # f = (r - 1) log r
}


class Weigh(nn.Module):
    """h(r) over what it usually is at such times, [B], r held in [low, high].

    log_ratio: what knows the ratio, the logit of a logistic discriminator at its best. The averages are kept for `bins`
    even parts of [0, 1], as buffers, so that they are saved and resumed; the same in all processes.
    """

    usual: Tensor
    seen: Tensor

    def __init__(
        self,
        h: Divergence,
        log_ratio: LogRatio,
        *,
        bins: int = 10,
        decay: float = 0.99,
        low: float = 0.1,
        high: float = 20.0,
    ) -> None:
        super().__init__()
        self.h, self.log_ratio, self.decay = h, log_ratio, decay
        self.limits = torch.tensor([low, high]).log().tolist()
        self.register_buffer("usual", torch.zeros(bins))
        self.register_buffer("seen", torch.zeros(bins))

    @torch.no_grad()
    def forward(self, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The weights [B] of a batch, which then becomes part of what is usual."""
        h = self.h(self.log_ratio(xt, t, cond).float().clamp(*self.limits))
        place = (t * len(self.usual)).long().clamp(0, len(self.usual) - 1).expand(len(h))
        self._learn(h, place)
        known = (1 - self.decay ** self.seen[place]).clamp_min(1e-8)  # a young average is made up for, as in Adam
        return h / (self.usual[place] / known)

    def _learn(self, h: Tensor, place: Tensor) -> None:
        sums = torch.zeros(2, len(self.usual), device=h.device)
        sums[0].index_add_(0, place, h)
        sums[1].index_add_(0, place, torch.ones_like(h))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        met = sums[1] > 0
        now = sums[0] / sums[1].clamp_min(1)
        self.usual.copy_(torch.where(met, self.decay * self.usual + (1 - self.decay) * now, self.usual))
        self.seen.add_(met)
