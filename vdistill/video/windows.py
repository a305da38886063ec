"""Sliding-window denoising: every step predicts x0 in overlapping windows, fuses them, and moves the whole sequence.

The windows are elsewhere at every step, so that no place is a seam twice (MagicInfinite, Yi et al. 2025). Since x0 is
what is fused, all of it is a Denoiser: any solver, sampler and guidance takes it, and makes one move for all windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.schedule import Schedule

Head = Callable[[Tensor, int], Tensor]
"""(x_t of the whole sequence [B, C, T, ...], start > 0) -> [B, C, lead, ...], what the window there begins with."""


@dataclass(frozen=True)
class Windowed:
    """A Denoiser of any length out of one of `window` positions. Up to that length it is the inner one, bit for bit.

    overlap: positions that neighbours share at least. shift: how far windows move from a step to the next; times: of
    the run, descending, from which the step is known (none: they stay). A step is known by its time alone, so the
    passes of guidance see the same windows, and a run that is repeated does too. A grid may be given with its final 0.
    lead: first positions of a window that are read but not used, but in the window at 0. Latents of causal video VAEs
    need 1: the first of a clip is one frame, all others are several, so what a network says of its first position is
    true at the beginning of the clip only. head: what stands there instead, as whoever knows the codec can make it;
    the positions themselves when None. max_batch: samples in one forward; all windows at once when None.
    whole: at times above it the inner one sees the whole sequence at once, whatever its length. What a clip shows is
    decided there, and windows decide it each for itself; a network with rotary places can be asked beyond what it was
    trained for, and is right about that much.

    Conditions in `Cond.along` are narrowed to each window. `attend` is handed to all, so it must not remember.
    """

    inner: Denoiser
    window: int
    overlap: int
    shift: int = 0
    times: tuple[float, ...] = ()
    lead: int = 0
    head: Head | None = None
    max_batch: int | None = None
    whole: float = 1.0

    def __post_init__(self) -> None:
        if self.window < 1 or not 0 <= self.overlap < self.window:
            raise UserError(f"{self.overlap} positions of {self.window} cannot be shared", "windows.overlap")
        if not 0 <= self.lead <= self.overlap:
            raise UserError(f"{self.lead} unused positions need an overlap of as many or more", "windows.lead")
        if self.shift < 0:
            raise UserError(f"must be 0 or more, found {self.shift}", "windows.shift")
        if self.max_batch is not None and self.max_batch < 1:
            raise UserError(f"must be 1 or more, found {self.max_batch}", "windows.max_batch")

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        length = x.shape[2]
        if length <= self.window or (self.whole < 1 and float(t.max()) > self.whole):
            return self.inner.x0(x, t, cond, attend=attend)
        begins = starts(length, self.window, self.overlap, self.offset(t))
        parts = self._predicted(x, t, cond, begins, attend)
        return fused(parts, begins, shares(length, begins, self.window, self.overlap, self.lead))

    def offset(self, t: Tensor) -> int:
        """How far the windows have moved at time t, in positions."""
        if not self.shift or not self.times:
            return 0
        now = float(t.max())
        step = sum(time > now + 1e-9 for time in self.times)
        return self.shift * step % (self.window - self.overlap)

    def _predicted(self, x: Tensor, t: Tensor, cond: Cond, begins: Sequence[int], attend: Attend) -> list[Tensor]:
        """x0 of each window [B, C, window, ...]."""
        most = len(begins) if self.max_batch is None else max(self.max_batch // len(x), 1)
        t = t.expand(len(x)) if t.ndim == 0 or t.shape == (1,) else t
        found: list[Tensor] = []
        for i in range(0, len(begins), most):
            some = begins[i : i + most]
            xs = torch.cat([self._seen(x, start) for start in some])
            ts = torch.cat([narrowed(t, start, self.window) for start in some])
            conds = Cond.cat([cond.narrow(start, self.window) for start in some])
            found += self.inner.x0(xs, ts, conds, attend=attend).chunk(len(some))
        return found

    def _seen(self, x: Tensor, start: int) -> Tensor:
        own = x.narrow(2, start, self.window)
        if self.head is None or not start or not self.lead:
            return own
        return torch.cat([self.head(x, start).to(x.dtype), own[:, :, self.lead :]], 2)


def narrowed(t: Tensor, start: int, length: int) -> Tensor:
    """Times of some positions: [B] and [B, 1] hold for all."""
    return t.narrow(1, start, length) if t.ndim == 2 and t.shape[1] > 1 else t


def starts(length: int, window: int, overlap: int, offset: int = 0) -> list[int]:
    """Where the windows of a sequence begin, rising from 0 to length - window, no two further apart than
    window - overlap: at offset + k (window - overlap), moved inside at both ends, where they share more."""
    stride = window - overlap
    inner = range(offset % stride, length - window, stride)
    return sorted({0, *inner, length - window})


def shares(length: int, begins: Sequence[int], window: int, overlap: int, lead: int = 0) -> Tensor:
    """[windows, length], float64: how much each counts at every position, in all 1.

    A window counts more from its edges inwards over the overlap, and not at all in its first `lead` positions, unless
    it begins at 0.
    """
    place = torch.arange(window, dtype=torch.float64)
    rows = torch.zeros(len(begins), length, dtype=torch.float64)
    for row, start in zip(rows, begins, strict=True):
        unused = lead if start else 0
        inwards = torch.minimum(place + 1 - unused, window - place)
        row[start : start + window] = inwards.clamp(0, overlap - lead + 1)
    return rows / rows.sum(0)


def fused(parts: Sequence[Tensor], begins: Sequence[int], weights: Tensor) -> Tensor:
    """The sequence [B, C, length, ...] of windows [B, C, window, ...], weighted by `weights` [windows, length].

    A running mean: where windows agree, it is what they say, bit for bit.
    """
    first, length = parts[0], weights.shape[1]
    whole = torch.zeros(*first.shape[:2], length, *first.shape[3:], dtype=first.dtype, device=first.device)
    share = (weights / weights.cumsum(0).clamp_min(1e-300)).to(first)
    sides = (-1, *[1] * (first.ndim - 3))
    for part, start, row in zip(parts, begins, share, strict=True):
        span = slice(start, start + part.shape[2])
        whole[:, :, span] = torch.lerp(whole[:, :, span], part, row[span].view(sides))
    return whole
