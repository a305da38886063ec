"""Where training times come from: named draws of t in [0, 1], 1 = noise, always float64 [n]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from .errors import UserError
from .rng import Rng
from .schedule import Schedule


class Times(Protocol):
    """A law of t. Two calls at the same place with the same `name` give the same times; `like` says the device."""

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        """float64 [n] in [0, 1]."""


def _within(low: float, high: float, where: str) -> None:
    if not 0 <= low <= high <= 1:
        raise UserError(f"times must satisfy 0 <= low <= high <= 1, found {low} and {high}", where)


@dataclass(frozen=True)
class Uniform:
    """Even in [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _within(self.low, self.high, "times.uniform")

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        return rng.uniform(name, (n,), self.low, self.high, like=like)


@dataclass(frozen=True)
class LogitNormal:
    """sigmoid(mean + std z), z standard normal (Esser et al. 2024, section 3.1): most weight in the middle."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        z = rng.normal(name, (n,)).to(torch.float64)
        return torch.sigmoid(self.mean + self.std * z).to(like.device)


@dataclass(frozen=True)
class Shifted:
    """Another law moved by the time shift of a schedule, t -> k t / (1 + (k - 1) t)."""

    inner: Times
    schedule: Schedule

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        return self.schedule.warp(self.inner(rng, n, like, name))


@dataclass(frozen=True)
class Grid:
    """One of a few times, each equally likely: the trained steps of a student."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.times:
            raise UserError("a grid of times needs at least one", "times.grid")
        _within(min(self.times), max(self.times), "times.grid")

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        table = torch.tensor(self.times, dtype=torch.float64)
        return table[rng.integers(name, (n,), len(self.times))].to(like.device)


@dataclass(frozen=True)
class Segments:
    """A segment between neighbouring edges, each equally likely, then even inside it (PCM, TSCD)."""

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or any(a >= b for a, b in pairwise(self.edges)):
            raise UserError(f"edges must be two or more rising times, found {list(self.edges)}", "times.segments")
        _within(self.edges[0], self.edges[-1], "times.segments")

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        edges = torch.tensor(self.edges, dtype=torch.float64)
        which = rng.integers(f"{name}/segment", (n,), len(edges) - 1)
        return torch.lerp(edges[which], edges[which + 1], rng.uniform(name, (n,))).to(like.device)


@dataclass(frozen=True)
class Mixture:
    """Each time from one of several laws, drawn with the given weights (even without them)."""

    parts: tuple[Times, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        weights: Sequence[float] = self.weights or (1.0,) * len(self.parts)
        if not weights or len(weights) != len(self.parts) or min(weights) < 0 or sum(weights) <= 0:
            raise UserError(
                f"{len(self.parts)} parts need as many weights >= 0, not all 0, found {list(self.weights)}",
                "times.mixture",
            )

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        weights = torch.tensor(self.weights or (1.0,) * len(self.parts), dtype=torch.float64)
        edges = (weights.cumsum(0) / weights.sum())[:-1].contiguous()
        which = torch.searchsorted(edges, rng.uniform(f"{name}/part", (n,)), right=True).to(like.device)
        draws = torch.stack([part(rng, n, like, f"{name}/{k}") for k, part in enumerate(self.parts)])
        return draws.gather(0, which[None])[0]


@dataclass(frozen=True)
class UShape:
    """Density proportional to cosh(sharpness (2 t - 1)): both ends often, the middle seldom (after Lee et al. 2024)."""

    sharpness: float = 4.0

    def __post_init__(self) -> None:
        if self.sharpness <= 0:
            raise UserError(f"sharpness must be > 0, found {self.sharpness}", "times.u_shape")

    def __call__(self, rng: Rng, n: int, like: Tensor, name: str = "t") -> Tensor:
        u = rng.uniform(name, (n,), like=like)
        inverse = torch.asinh((2 * u - 1) * math.sinh(self.sharpness)) / self.sharpness
        return ((1 + inverse) / 2).clamp(0, 1)
