"""Clips without end out of short ones: the last frames of a clip are what the next begins with (Magic 1-For-1, 2025).

A network that starts from an image is told them as its condition. One that knows text alone is made to go on from them:
at every step they stand in the sequence, noised as the rest of it, and are what it says of those places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.schedule import Schedule

KNOWN, NOISE = "known", "known.noise"
"""Fields of a Cond: latents [B, C, k, H, W] that a clip begins with, and the noise that is put on them."""

Make = Callable[[Tensor | None, int], Tensor]
"""(last frames of the clip before [B, 3, keep, H, W], None for the first; number of the clip) -> the clip
[B, 3, T, H, W], T > keep, that begins with them."""


def extended(make: Make, keep: int = 1) -> Iterator[Tensor]:
    """Chunks [B, 3, n, H, W] of one video without end: the first clip, then each later one without its first `keep`
    frames, which are the last of the one before. Nothing is made before it is asked for."""
    if keep < 1:
        raise UserError(f"a clip goes on from 1 frame or more, found {keep}", "extend.keep")
    clip, number = make(None, 0), 0
    while True:
        if clip.shape[2] <= keep:
            raise UserError(f"a clip of {clip.shape[2]} frames that keeps {keep} gets no longer", "extend.keep")
        yield clip[:, :, keep if number else 0 :]
        number += 1
        clip = make(clip[:, :, -keep:], number)


def taken(chunks: Iterator[Tensor], frames: int) -> Tensor:
    """The first `frames` frames [B, 3, frames, H, W]; asks for no more chunks than hold them."""
    found = [next(chunks)]
    while sum(chunk.shape[2] for chunk in found) < frames:
        found.append(next(chunks))
    return torch.cat(found, 2)[:, :, :frames]


def continue_from(cond: Cond, known: Tensor, noise: Tensor) -> Cond:
    """The condition of a clip whose first latents are `known` [B, C, k, H, W], for `Continued`.

    noise: first noise of the whole clip [B, C, T, H, W], k < T; its first part is what the known are noised with, so
    that a solver's own state at those places is the one that the network is shown.
    """
    count = known.shape[2]
    if not 0 < count < noise.shape[2]:
        raise UserError(f"{count} of {noise.shape[2]} latents are known, so nothing can follow", "extend.keep")
    return cond.with_field(KNOWN, known).with_field(NOISE, noise[:, :, :count])


@dataclass(frozen=True)
class Continued:
    """A Denoiser of clips whose beginning is known from their condition; without one, the inner Denoiser.

    clean: show the known as they are, at time 0, to networks trained with a time at each position (diffusion forcing).
    That is exact, the law of the rest given them. Noised as the rest is, as any network can be shown them, they pull
    on it less than they should.
    """

    inner: Denoiser
    clean: bool = False

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        if KNOWN not in cond.fields:
            return self.inner.x0(x, t, cond, attend=attend)
        known, noise = cond.fields[KNOWN].to(x.dtype), cond.fields[NOISE].to(x.dtype)
        count, length = known.shape[2], x.shape[2]
        rest = replace(cond, fields={k: v for k, v in cond.fields.items() if k not in (KNOWN, NOISE)})
        if self.clean:
            t = (t[:, None] if t.ndim == 1 else t).expand(len(x), length)
            t = torch.cat([torch.zeros_like(t[:, :count]), t[:, count:]], 1)
            seen = known
        else:
            seen = self.schedule.noise(known, noise, t[:, :count] if t.ndim == 2 else t)
        out = self.inner.x0(torch.cat([seen, x[:, :, count:]], 2), t, rest, attend=attend)
        return torch.cat([known, out[:, :, count:]], 2)
