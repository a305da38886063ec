"""How a few-step student samples: clean estimate, move to the next time, again; the last estimate is the sample.

`times` are the trained steps, descending in (0, 1], and the final 0 is implied. Samplers differ in the move. The noise
of the move to times[i] is the draw "z/i", so whoever has the rng can repeat it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from .cond import Cond
from .denoiser import Denoiser
from .errors import UserError
from .rng import Rng
from .schedule import Schedule, spread
from .solvers import Solver, solve

Move = Callable[[Schedule, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(schedule, x0, x_t, t, u, z) -> x_u."""


class Sampler(Protocol):
    """Makes clean samples, shaped as `noise` [B, C, T, ...] (standard normal)."""

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor: ...


def checked(times: Sequence[float]) -> tuple[float, ...]:
    """The times as a tuple. UserError unless they descend within (0, 1]."""
    steps = tuple(float(t) for t in times)
    if not steps or any(a <= b for a, b in pairwise(steps)) or not 0 < steps[-1] <= steps[0] <= 1:
        raise UserError(f"student times must be descending numbers in (0, 1], found {list(steps)}", "times")
    return steps


def at(x: Tensor, t: float) -> Tensor:
    """t for every sample of x, float64 [B]."""
    return torch.full((len(x),), t, dtype=torch.float64, device=x.device)


def start(schedule: Schedule, noise: Tensor, t: float) -> Tensor:
    """Noise of the size x_t has for unit-variance data: the noise itself but for edm, where it is sigma times it."""
    return (spread(torch.hypot(*schedule.alpha_sigma(at(noise, t))), noise) * noise).to(noise.dtype)


def renoised(schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor, u: Tensor, z: Tensor) -> Tensor:
    """Forget x_t, noise the estimate anew."""
    return schedule.noise(x0, z, u)


def continued(schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor, u: Tensor, z: Tensor) -> Tensor:
    """A DDIM step along the estimate."""
    return schedule.step(x0, x, t, u)


def walk(
    student: Denoiser,
    x: Tensor,
    cond: Cond,
    times: Sequence[float],
    rng: Rng,
    move: Move,
    correct: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Estimate and move from x at times[0] through all times; returns the clean estimate at the last.

    correct: (step, x0) -> x0, applied to every estimate.
    """
    times = checked(times)
    for i, now in enumerate(times):
        t = at(x, now)
        x0 = student.x0(x, t, cond)
        x0 = x0 if correct is None else correct(i, x0)
        if i + 1 < len(times):
            z = rng.normal(f"z/{i + 1}", x.shape, like=x)
            x = move(student.schedule, x0, x, t, at(x, times[i + 1]), z)
    return x0


def rollout(
    student: Denoiser,
    noise: Tensor,
    cond: Cond,
    times: Sequence[float],
    rng: Rng,
    *,
    exit_step: int,
    stochastic: bool = True,
    grad_last: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The student's own sampling up to step `exit_step` (0 is the first): (x_t there, t [B], x0 there).

    The passes before it keep no graph, so x_t carries no gradient; the last one does where `grad_last`
    (backward simulation, Yin et al. 2024). stochastic: renoise between the steps; otherwise DDIM.
    """
    times = checked(times)
    if not 0 <= exit_step < len(times):
        raise UserError(f"exit_step must be in [0, {len(times)}), found {exit_step}", "rollout")
    x, move = start(student.schedule, noise, times[0]), renoised if stochastic else continued
    with torch.no_grad():
        for i in range(exit_step):
            t, u = at(x, times[i]), at(x, times[i + 1])
            z = rng.normal(f"z/{i + 1}", x.shape, like=x)
            x = move(student.schedule, student.x0(x, t, cond), x, t, u, z)
    t = at(x, times[exit_step])
    with torch.set_grad_enabled(grad_last and torch.is_grad_enabled()):
        return x, t, student.x0(x, t, cond)


@dataclass(frozen=True)
class OneStep:
    """The first estimate is the sample; the other times are not visited."""

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        first = checked(times)[0]
        return student.x0(start(student.schedule, noise, first), at(noise, first), cond)


@dataclass(frozen=True)
class Deterministic:
    """DDIM on the student's own estimates: the same noise, the same sample."""

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        x = start(student.schedule, noise, checked(times)[0])
        return walk(student, x, cond, times, rng, continued)


@dataclass(frozen=True)
class Renoise:
    """Estimate, then noise it anew (consistency models, LCM, DMD2)."""

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        x = start(student.schedule, noise, checked(times)[0])
        return walk(student, x, cond, times, rng, renoised)


@dataclass(frozen=True)
class Gamma:
    """Strategic stochastic sampling (TCD, Zheng et al. 2024): step down to (1 - gamma) u, then noise up to u.

    gamma 0 is deterministic, 1 renoises.
    """

    gamma: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise UserError(f"gamma must be in [0, 1], found {self.gamma}", "sampling.gamma")

    def move(self, schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor, u: Tensor, z: Tensor) -> Tensor:
        """x_t -> x_u by way of s = (1 - gamma) u."""
        s = (1 - self.gamma) * u
        (a, low), (b, high) = ([spread(value, x) for value in schedule.alpha_sigma(place)] for place in (s, u))
        below = schedule.step(x0, x, t, s)
        return (b / a * below + (high**2 - (b / a * low) ** 2).clamp_min(0).sqrt() * z).to(x.dtype)

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        x = start(student.schedule, noise, checked(times)[0])
        return walk(student, x, cond, times, rng, self.move)


@dataclass(frozen=True)
class Segments:
    """Deterministic, and no step crosses an edge (PCM, TSCD): edges below times[0] become times of their own."""

    edges: tuple[float, ...]

    def steps(self, times: Sequence[float]) -> tuple[float, ...]:
        """The times with the edges between them."""
        times = checked(times)
        return tuple(sorted({*times, *(edge for edge in self.edges if 0 < edge < times[0])}, reverse=True))

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        return Deterministic()(student, noise, cond, rng, self.steps(times))


@dataclass(frozen=True)
class Handover:
    """A teacher (guided, if it should be) takes the first steps, `substeps` to each, the student the rest.

    then: the move of the student (diversity distillation, Gandikota & Bau 2025).
    """

    teacher: Denoiser
    first: int = 1
    substeps: int = 1
    solver: Solver = "ddim"
    then: Move = field(default=renoised)

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        times = checked(times)
        if not 0 <= self.first < len(times) or self.substeps < 1:
            raise UserError(
                f"the teacher can take 0 to {len(times) - 1} of {len(times)} steps in one substep or more each, "
                f"found first={self.first}, substeps={self.substeps}",
                "sampling.handover",
            )
        if replace(self.teacher.schedule, shift=1.0) != replace(student.schedule, shift=1.0):
            raise UserError("teacher and student must be on one path to hand over", "sampling.handover")
        x = start(student.schedule, noise, times[0])
        if self.first:
            k = self.substeps
            grid = [a + (b - a) * i / k for a, b in pairwise(times[: self.first + 1]) for i in range(k)]
            own = rng.at(turn=f"{rng.turn}/teacher")
            x = solve(self.teacher, x, [*grid, times[self.first]], cond, self.solver, rng=own)
        return walk(student, x, cond, times[self.first :], rng, self.then)


@dataclass(frozen=True)
class Corrected:
    """The teacher's view of the student's estimate, mixed in during the first steps (Distillation++, Park et al. 2024).

    x0 <- (1 - weight) x0 + weight x0_teacher(alpha_s x0 + sigma_s eps, s), s = level; eps of step i is the draw "c/i".
    """

    teacher: Denoiser
    weight: float = 0.1
    level: float = 0.5
    first: int = 1
    then: Move = field(default=renoised)

    def __call__(self, student: Denoiser, noise: Tensor, cond: Cond, rng: Rng, times: Sequence[float]) -> Tensor:
        def correct(step: int, x0: Tensor) -> Tensor:
            if step >= self.first or self.weight == 0:
                return x0
            s = at(x0, self.level)
            again = self.teacher.schedule.noise(x0, rng.normal(f"c/{step}", x0.shape, like=x0), s)
            return torch.lerp(x0, self.teacher.x0(again, s, cond), self.weight)

        x = start(student.schedule, noise, checked(times)[0])
        return walk(student, x, cond, times, rng, self.then, correct)
