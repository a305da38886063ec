"""Rotary positions of stock networks at any place of the sequence axis, computed and not looked up."""

from __future__ import annotations

import torch
from torch import Tensor


def frequencies(width: int, theta: float) -> Tensor:
    """Radians a position of the `width` / 2 pairs of channels along one axis, float64 (Su et al. 2021, equation 15)."""
    return theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of neighbouring channels; cos, sin: [..., N, D], equal in the two of a pair."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 0::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


class AxialRope:
    """Rotates rows [skip:] of [B, heads, N, D] by cosines and sines [N - skip, D]; the rows before stay as they are.

    time: frequencies [m] of the first 2 m channels, which turn with the place along the sequence; the others turn with
    height and width, which stay where they are.
    """

    def __init__(self, freqs: tuple[Tensor, Tensor], time: Tensor, skip: int = 0) -> None:
        self.freqs, self.time, self.skip = freqs, time, skip

    def __call__(self, x: Tensor) -> Tensor:
        if not self.skip:
            return turned(x, *self.freqs)
        return torch.cat([x[:, :, : self.skip], turned(x[:, :, self.skip :], *self.freqs)], 2)

    def at(self, positions: Tensor, rows: int) -> AxialRope:
        """See `core.attention.Rope`."""
        angle = torch.outer(positions, self.time.to(positions.device))
        cos, sin = (self._rows(*pair, rows) for pair in zip(self.freqs, (angle.cos(), angle.sin()), strict=True))
        return AxialRope((cos, sin), self.time)

    def _rows(self, table: Tensor, turn: Tensor, rows: int) -> Tensor:
        """[T rows, D]: turns [T, m] along the sequence and, across it, the table's own."""
        along = turn.repeat_interleave(2, -1)[:, None].expand(-1, rows, -1).to(table.device, table.dtype)
        across = table[:rows, along.shape[-1] :].expand(len(turn), -1, -1)
        return torch.cat([along, across], -1).flatten(0, 1)
