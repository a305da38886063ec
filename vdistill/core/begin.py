"""Samples whose first positions are known: a network that learns to go on from them makes clips of any length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import UserError
from .rng import Rng
from .schedule import Schedule, spread


@dataclass(frozen=True)
class Begin:
    """share: of the samples that begin so; most: positions known, 1 to `most` by even chance; level: noise of a level
    drawn below it disturbs them, and the network is told that they are clean, so that it forgives its own errors."""

    share: float = 0.5
    most: int = 1
    level: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.most < 1 or not 0 <= self.level < 1:
            what = f"share {self.share}, most {self.most}, level {self.level}"
            raise UserError(what, "begin", "share from 0 to 1, most at least 1, level from 0 to below 1")

    def __call__(self, x: Tensor, xt: Tensor, t: Tensor, schedule: Schedule, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        """x, x_t [B, C, T, ...], t [B] -> x_t and t [B, T] with the known in them, and weights [B, 1, T, ...] of mean 1
        that leave them out. UserError for samples with no position after them."""
        count, length = len(x), x.shape[2]
        if length <= self.most:
            raise UserError(f"{self.most} of {length} positions known", "begin.most", "leave one to be made")
        begun = rng.uniform("begin", (count,), like=x) < self.share
        many = (1 + (rng.uniform("begin/many", (count,), like=x) * self.most).long()).clamp_max(self.most)
        place = torch.arange(length, device=x.device)
        known = place < (many * begun)[:, None]  # [B, T]
        near = x
        if self.level:
            level = rng.uniform("begin/level", (count,), 0, self.level, like=x)
            near = schedule.noise(x, rng.normal("begin/eps", x.shape, like=x), level)
        seen = torch.where(spread(known, x), near, xt)
        left = (~known).to(x.dtype)
        return seen, torch.where(known, 0.0, t[:, None].double()), spread(left / left.mean(1, keepdim=True), x)
