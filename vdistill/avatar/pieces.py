"""Sound that comes as it comes, cut into overlapping pieces of one size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import UserError


class Pieces:
    """Sound that comes in any sizes -> pieces of `size` samples, one every `step`, with `before` zeros in front."""

    def __init__(self, size: int, step: int, before: int) -> None:
        self.size, self.step, self.samples, self.taken = size, step, 0, 0
        self._held = torch.zeros(before)

    def push(self, pcm: Tensor) -> list[Tensor]:
        """The pieces that are whole now. UserError for sound that is not a row of finite numbers."""
        if pcm.ndim != 1 or not torch.isfinite(pcm).all():
            raise UserError(f"sound of shape {[*pcm.shape]}, finite and [samples] is expected", "stream of sound")
        self.samples += len(pcm)
        self._held = torch.cat([self._held, pcm.float().cpu()])
        return self._take((len(self._held) - self.size) // self.step + 1)

    def flush(self, total: int) -> list[Tensor]:
        """The pieces that make `total` altogether, with zeros after the end."""
        self._held = torch.cat([self._held, torch.zeros(self.size + self.step)])
        return self._take(total - self.taken)

    def state(self) -> dict[str, Tensor]:
        """The samples held, and how many came and how many pieces were taken."""
        return {"held": self._held.clone(), "counts": torch.tensor([self.samples, self.taken])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken of."""
        self._held = state["held"].clone()
        self.samples, self.taken = (int(n) for n in state["counts"])

    def _take(self, count: int) -> list[Tensor]:
        count = max(0, count)
        made = [self._held[self.step * i : self.step * i + self.size] for i in range(count)]
        self._held = self._held[self.step * count :].clone()
        self.taken += count
        return made
