"""Steps along the diffusion ODE or SDE of any denoiser on any schedule: what a teacher does between two times.

In the coordinates z = x / (alpha + sigma), tau = sigma / (alpha + sigma) every schedule is the rectified-flow path with
dz/dtau = eps - x0. There Euler is DDIM, so one name is an alias of the other, and no step divides by alpha: zero
terminal SNR needs no special case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from .cond import Cond
from .denoiser import Denoiser
from .errors import UserError
from .rng import Rng
from .schedule import Schedule, spread

Solver = Literal["ddim", "euler", "heun", "dpmpp_2m", "ancestral"]


@dataclass(frozen=True)
class Step:
    """A time and the clean estimate made there: what a multistep solver remembers."""

    t: Tensor
    x0: Tensor


def advance(denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, cond: Cond, solver: Solver = "ddim") -> Tensor:
    """One deterministic step t -> u, both [B] or [B, T]; t > 0. A lone dpmpp_2m step is its first, a DDIM step."""
    _known(solver)
    if solver == "ancestral":
        raise UserError("ancestral steps need a named noise; use path() or ancestral()", "solver")
    return _step(denoiser, x, t, u, cond, solver, None)[0]


def path(
    denoiser: Denoiser,
    x: Tensor,
    times: Sequence[float] | Tensor,
    cond: Cond,
    solver: Solver = "ddim",
    *,
    rng: Rng | None = None,
    eta: float = 1.0,
) -> list[Tensor]:
    """States at every one of the descending `times`, the first being x itself, which is taken to sit at times[0].

    ancestral draws noise "z/i" from `rng` on its way to times[i], as much of it as `eta` in [0, 1] says.
    """
    grid = [float(value) for value in times]
    if len(grid) < 2 or any(a <= b for a, b in pairwise(grid)) or not 0 <= grid[-1] < grid[0] <= 1:
        raise UserError(f"times must be two or more descending numbers in [0, 1], found {grid}", "solver")
    _known(solver)
    if solver == "ancestral" and rng is None:
        raise UserError("ancestral steps draw noise and need an rng", "solver")
    states, last = [x], None
    for i, (now, then) in enumerate(pairwise(grid), 1):
        t, u = (torch.full((len(x),), value, dtype=torch.float64, device=x.device) for value in (now, then))
        if solver == "ancestral" and rng is not None:
            z = rng.normal(f"z/{i}", x.shape, like=x)
            x = ancestral(denoiser.schedule, denoiser.x0(x, t, cond), x, t, u, z, eta)
        else:
            x, last = _step(denoiser, x, t, u, cond, solver, last)
        states.append(x)
    return states


def solve(
    denoiser: Denoiser,
    x: Tensor,
    times: Sequence[float] | Tensor,
    cond: Cond,
    solver: Solver = "ddim",
    *,
    rng: Rng | None = None,
    eta: float = 1.0,
) -> Tensor:
    """The state at times[-1] of `path`."""
    return path(denoiser, x, times, cond, solver, rng=rng, eta=eta)[-1]


def ancestral(
    schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor, u: Tensor, z: Tensor, eta: float | Tensor = 1.0
) -> Tensor:
    """t -> u with fresh noise z (Song et al. 2021, equation 16, on any path): eta 0 is DDIM, 1 the full posterior."""
    a, s = (spread(value, x) for value in schedule.alpha_sigma(t))
    b, r = (spread(value, x) for value in schedule.alpha_sigma(u))
    fresh = eta * r / s * (s**2 - (a / b * r) ** 2).clamp_min(0).sqrt()
    eps = (x - a * x0) / s
    return (b * x0 + (r**2 - fresh**2).clamp_min(0).sqrt() * eps + fresh * z).to(x.dtype)


def _known(solver: str) -> None:
    if solver not in get_args(Solver):
        raise UserError(f"unknown solver {solver!r}", "solver", f"one of {', '.join(get_args(Solver))}")


def _step(
    denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, cond: Cond, solver: Solver, last: Step | None
) -> tuple[Tensor, Step]:
    schedule, here = denoiser.schedule, Step(t, denoiser.x0(x, t, cond))
    if solver == "heun":
        return _heun(denoiser, x, here, u, cond), here
    if solver == "dpmpp_2m" and last is not None:
        return schedule.step(_extrapolated(schedule, here, last, u), x, t, u), here
    return schedule.step(here.x0, x, t, u), here


def _heun(denoiser: Denoiser, x: Tensor, here: Step, u: Tensor, cond: Cond) -> Tensor:
    """Trapezoid in (z, tau), second order; DDIM alone where the noise ends.

    On edm in (x, sigma), which is Karras et al. 2022, algorithm 1.
    """
    schedule, t = denoiser.schedule, here.t
    guess = schedule.step(here.x0, x, t, u)
    a, s = (spread(value, x) for value in schedule.alpha_sigma(t))
    b, r = (spread(value, x) for value in schedule.alpha_sigma(u))
    noisy = r > 0
    if not noisy.any():
        return guess
    pull = 0.0 if schedule.kind == "edm" else 1.0  # z = x / (alpha + pull sigma), dz/dtau = eps - pull x0
    slope = (x - a * here.x0) / s - pull * here.x0
    x0 = denoiser.x0(guess, u, cond)
    after = (guess - b * x0) / torch.where(noisy, r, 1.0) - pull * x0
    before, end = a + pull * s, b + pull * r
    z = x / before + (r / end - s / before) * (slope + after) / 2
    return torch.where(noisy, (end * z).to(x.dtype), guess)


def _extrapolated(schedule: Schedule, here: Step, last: Step, u: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): x0 extrapolated in log-SNR to the middle of the step.

    First order where the log-SNR is infinite, that is right after t with alpha = 0 and on the way to sigma = 0.
    """
    before, now, then = (schedule.alpha_sigma(value) for value in (last.t, here.t, u))
    h_last, h = ((a / s).log() - (b / r).log() for (b, r), (a, s) in ((before, now), (now, then)))
    share = torch.where(h.isfinite() & h_last.isfinite(), h / (2 * h_last), 0.0)
    share = spread(share, here.x0)
    return ((1 + share) * here.x0 - share * last.x0).to(here.x0.dtype)
