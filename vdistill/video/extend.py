"""Clips without end out of short ones: the last frames of a clip are what the next begins with (Magic 1-For-1, 2025).

A network that starts from an image is told them as its condition. One that knows text alone is made to go on from them:
at every step they stand in the sequence, noised as the rest of it, and what it says of the rest is moved accordingly.
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
from ..core.schedule import Schedule, spread

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

    The known stand in x_t, noised as the rest is. That alone pulls too little on the rest: the network's estimate of
    their places is not the known. pull: steps of conjugate gradients by which the rest is moved with it, x0 + J^T y
    with J_kk y = known - x0_k, J = dx0/dx_t, k the known places. For Gaussian laws that is E[x0 | x_t, known] once
    there are as many steps as numbers known, and one step has the best length along the gap (reconstruction guidance,
    Ho et al. 2022, whose weight it finds by itself). A step costs a pass backwards through the network.
    No latent is moved further, on average, than the known differ: networks decide sharply, and a step along a bend
    would leave what they know (in stationary laws the bound is never met).
    clean: show the known as they are, at time 0, instead: exact for networks trained with a time at each position
    (diffusion forcing), and out of place for all others.
    """

    inner: Denoiser
    pull: int = 1
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
        seen = torch.cat([seen, x[:, :, count:]], 2)
        if self.clean or not self.pull:
            out = self.inner.x0(seen, t, rest, attend=attend)
        else:
            out = self._pulled(seen, t, rest, attend, known)
        return torch.cat([known, out[:, :, count:]], 2)

    def _pulled(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend, known: Tensor) -> Tensor:
        count = known.shape[2]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out = self.inner.x0(x, t, cond, attend=attend)
            ours = out[:, :, :count]

        def back(direction: Tensor, more: bool) -> Tensor:
            return torch.autograd.grad(ours, x, direction, retain_graph=more)[0]

        gap = (known - ours).detach()
        moved = conjugate(back, gap, self.pull)[:, :, count:]
        most = dot(gap, gap) * moved.shape[2] / count
        share = (most / dot(moved, moved).clamp_min(1e-30)).sqrt().clamp_max(1.0)
        out = out.detach()
        return torch.cat([out[:, :, :count], out[:, :, count:] + spread(share, moved).to(moved) * moved], 2)


def conjugate(back: Callable[[Tensor, bool], Tensor], gap: Tensor, steps: int) -> Tensor:
    """J^T y after `steps` steps of conjugate gradients at J_kk y = gap (Hestenes & Stiefel 1952), each sample alone.

    back: (direction [B, C, k, ...], whether another call follows) -> J^T direction [B, C, T, ...].
    """
    count, left, way, total = gap.shape[2], gap, gap, torch.zeros(())
    size = dot(left, left)
    for step in range(steps):
        moved = back(way, step + 1 < steps)
        bent = dot(way, moved[:, :, :count])
        length = torch.where(bent > 1e-6 * dot(way, way), size / bent, 0.0)
        total = total + spread(length, gap) * moved
        left = left - spread(length, gap) * moved[:, :, :count]
        before, size = size, dot(left, left)
        way = left + spread(size / before.clamp_min(1e-30), gap) * way
    return total.to(gap.dtype)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample [B], at least float32."""
    return (a.float() * b.float() if a.dtype != torch.float64 else a * b).flatten(1).sum(1)
