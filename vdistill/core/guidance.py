"""Guidance as data: a table of (dropped conditions, weight) whose weights sum to 1.

A scale of 1 means none, everywhere. Weights that sum to 1 commute with every x0 / eps / v / flow conversion, so all of
it happens on x0. Scales are s in x_u + s (x_c - x_u); papers that write w mean s = 1 + w (LCM, PCM, CausVid).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from .attention import Attend, full
from .cond import Cond
from .denoiser import Denoiser
from .errors import UserError
from .schedule import spread

Scale = float | tuple[float, float]
"""One scale, or (scale at t = 1, scale at t = 0) with `Guidance.shape` between them."""
Shape = Literal["linear", "cosine"]
WHERE = "guidance"


@dataclass(frozen=True)
class Branch:
    """One network pass: the conditions it does without, and its weight at t = 1 and at t = 0."""

    dropped: frozenset[str]
    weight: tuple[float, float]


@dataclass(frozen=True)
class Projection:
    """Adaptive projected guidance (Sadat et al. 2024, without momentum), applied to every difference p_c - p_dropped.

    eta: how much of the part parallel to p_c stays (1 all, 0 none); threshold: largest norm of a difference (inf: any).
    """

    eta: float = 0.0
    threshold: float = math.inf

    def __call__(self, difference: Tensor, onto: Tensor) -> Tensor:
        axes = list(range(1, onto.ndim))
        norm = difference.square().sum(axes, keepdim=True).sqrt()
        difference = difference * (self.threshold / norm.clamp_min(1e-12)).clamp_max(1.0)
        along = (difference * onto).sum(axes, keepdim=True) / onto.square().sum(axes, keepdim=True).clamp_min(1e-12)
        return difference - (1 - self.eta) * along * onto


@dataclass(frozen=True)
class Guidance:
    """sum_k w_k(t) x0_k over the branches. The default is the plain conditional pass, which is always row 0.

    interval: the t in which it acts, ends included; outside only the conditional pass (Kynkaanniemi et al. 2024).
    shape: how weights go from their value at t = 1 to that at t = 0. rescale: phi, how far the standard deviation of
    the result is brought back to that of the conditional pass (Lin et al. 2023, equations 14-16, here on x0).
    project: APG. Raises UserError for weights that do not sum to 1 and for values out of range.
    """

    branches: tuple[Branch, ...] = ()
    interval: tuple[float, float] = (0.0, 1.0)
    shape: Shape = "linear"
    rescale: float = 0.0
    project: Projection | None = None

    def __post_init__(self) -> None:
        rows = self.branches or (Branch(frozenset(), (1.0, 1.0)),)
        if all(row.dropped for row in rows):
            rows = (Branch(frozenset(), (0.0, 0.0)), *rows)
        object.__setattr__(self, "branches", tuple(sorted(rows, key=lambda row: bool(row.dropped))))
        for end, place in ((0, "t = 1"), (1, "t = 0")):
            total = math.fsum(row.weight[end] for row in rows)
            if not abs(total - 1) < 1e-6:
                raise UserError(f"weights must sum to 1, found {total:g} at {place}", WHERE)
        if len({row.dropped for row in rows}) != len(rows):
            raise UserError("two branches drop the same conditions", WHERE, "add their weights")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise UserError(f"interval must be 0 <= low <= high <= 1, found {self.interval}", WHERE)
        if not 0 <= self.rescale <= 1:
            raise UserError(f"rescale must be in [0, 1], found {self.rescale}", WHERE)

    def within(self, low: float, high: float) -> Guidance:
        """The same, acting for t in [low, high] only."""
        return replace(self, interval=(low, high))

    def shaped(self, shape: Shape) -> Guidance:
        """The same with another curve between the scales at t = 1 and t = 0."""
        return replace(self, shape=shape)

    def rescaled(self, phi: float) -> Guidance:
        """The same with the standard deviation brought back by phi."""
        return replace(self, rescale=phi)

    def projected(self, eta: float = 0.0, threshold: float = math.inf) -> Guidance:
        """The same with adaptive projected guidance."""
        return replace(self, project=Projection(eta, threshold))

    def weights(self, t: Tensor) -> Tensor:
        """w_k(t), float64 [K, *t.shape], one row a branch."""
        t = t.to(torch.float64)
        rows = (-1, *[1] * t.ndim)
        table = torch.tensor([row.weight for row in self.branches], dtype=torch.float64, device=t.device)
        plain = torch.tensor([float(not row.dropped) for row in self.branches], dtype=torch.float64, device=t.device)
        place = t if self.shape == "linear" else (1 - torch.cos(math.pi * t)) / 2
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        return torch.where(inside, torch.lerp(table[:, 1].view(rows), table[:, 0].view(rows), place), plain.view(rows))

    def needed(self, weights: Tensor) -> list[int]:
        """Which branches have to be run for these weights [K, ...]: those of zero weight everywhere are not."""
        if self.interval == (0.0, 1.0) and all(row.weight[0] == row.weight[1] for row in self.branches):
            used = [row.weight[0] != 0 for row in self.branches]  # known without asking the device
        else:
            used = weights.reshape(len(weights), -1).ne(0).any(1).tolist()
        others = any(used[1:])
        used[0] = used[0] or (others and (self.project is not None or self.rescale > 0))
        return [k for k, is_used in enumerate(used) if is_used]

    def passes(self, t: Tensor | float = 0.5) -> int:
        """Network passes a call at t costs."""
        return len(self.needed(self.weights(torch.as_tensor(t, dtype=torch.float64))))

    def x0(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        cond: Cond,
        *,
        attend: Attend = full,
        max_batch: int | None = None,
    ) -> Tensor:
        """The guided clean estimate. x: [B, C, T, ...]; t: [B] or [B, T].

        All branches go through in one forward of K * B samples (branch-major), or in as few forwards of at most
        `max_batch` samples as there can be. An `attend` that remembers must reckon with that order.
        """
        weights = self.weights(t)
        used = self.needed(weights)
        conds = [cond.drop(self.branches[k].dropped) for k in used]
        parts = dict(zip(used, forwards(denoiser, x, t, conds, attend, max_batch), strict=True))
        return self.mix(parts, weights, x).to(x.dtype) if used != [0] else parts[0]

    def mix(self, parts: dict[int, Tensor], weights: Tensor, x: Tensor) -> Tensor:
        """sum_k w_k p_k [B, ...] in float64, projected and rescaled; weights: [K, B] or [K, B, T], parts: k -> p_k."""
        w = {k: spread(weights[k], x) for k in parts}
        if self.project is None:
            mixed = reduce(torch.add, (w[k] * p for k, p in parts.items()))
        else:
            plain = parts[0].to(torch.float64)
            moves = [w[k] * self.project(plain - p, plain) for k, p in parts.items() if k]
            mixed = plain - torch.stack(moves).sum(0)
        if self.rescale == 0:
            return mixed
        axes = list(range(1, x.ndim))
        ratio = parts[0].to(torch.float64).std(axes, correction=0, keepdim=True)
        ratio = ratio / mixed.std(axes, correction=0, keepdim=True).clamp_min(1e-12)
        return mixed * (self.rescale * ratio + 1 - self.rescale)


def forwards(
    denoiser: Denoiser, x: Tensor, t: Tensor, conds: Sequence[Cond], attend: Attend = full, max_batch: int | None = None
) -> list[Tensor]:
    """x0 of the same x, t under several conditions, in as few forwards of `max_batch` samples as there can be."""
    if max_batch is not None and max_batch < 1:
        raise UserError(f"max_batch must be at least 1, found {max_batch}", WHERE)
    count, total = len(conds), len(conds) * len(x)
    calls = 1 if max_batch is None else math.ceil(total / max_batch)
    if count == calls == 1:
        return [denoiser.x0(x, t, conds[0], attend=attend)]
    t = t.expand(len(x)) if t.ndim == 0 or t.shape == (1,) else t
    xs, ts, cond = torch.cat([x] * count), torch.cat([t] * count), Cond.cat(conds)
    size = math.ceil(total / calls)
    pieces = [slice(i, i + size) for i in range(0, total, size)]
    out = [denoiser.x0(xs[piece], ts[piece], cond.select(piece), attend=attend) for piece in pieces]
    return list(torch.cat(out).chunk(count))


def _table(terms: Iterable[tuple[Collection[str], float, Scale]]) -> Guidance:
    """Guidance out of terms (dropped, factor, scale): the weight of a branch is the sum of its factor * scale."""
    rows: dict[frozenset[str], tuple[float, float]] = {}
    for dropped, factor, scale in terms:
        at_noise, at_clean = scale if isinstance(scale, tuple) else (scale, scale)
        old = rows.get(frozenset(dropped), (0.0, 0.0))
        rows[frozenset(dropped)] = (old[0] + factor * at_noise, old[1] + factor * at_clean)
    return Guidance(tuple(Branch(dropped, weight) for dropped, weight in rows.items()))


def joint(scale: Scale, names: Collection[str]) -> Guidance:
    """x_u + s (x_c - x_u), where x_u goes without all of `names` at once."""
    return _table([((), 1, scale), (names, 1, 1.0), (names, -1, scale)])


def cfg(scale: Scale, name: str = "text") -> Guidance:
    """Classifier-free guidance (Ho & Salimans 2022) on one condition: x_u + s (x_c - x_u)."""
    return joint(scale, [name])


def chain(*steps: tuple[str, Scale]) -> Guidance:
    """Nested: p() + s_1 [p(1) - p()] + s_2 [p(1, 2) - p(1)] + ..., conditions added in the order given.

    chain(("audio", 4), ("text", 5)) is InfiniteTalk's p(n, -) + 4 [p(n, a) - p(n, -)] + 5 [p(t, a) - p(n, a)].
    """
    names = [name for name, _ in steps]
    if not steps or len(set(names)) != len(names):
        raise UserError(f"a chain needs one or more different conditions, found {names}", WHERE)
    terms: list[tuple[Collection[str], float, Scale]] = [(names, 1, 1.0)]
    for k, (_, scale) in enumerate(steps):
        terms += [(names[k + 1 :], 1, scale), (names[k:], -1, scale)]
    return _table(terms)


def star(**scales: Scale) -> Guidance:
    """Each condition against going without it alone: p_c + sum_k (s_k - 1) (p_c - p_without_k)."""
    terms: list[tuple[Collection[str], float, Scale]] = [((), 1, 1.0)]
    for name, scale in scales.items():
        terms += [((), 1, scale), ((), -1, 1.0), ([name], -1, scale), ([name], 1, 1.0)]
    return _table(terms)


def compose(**scales: Scale) -> Guidance:
    """Each condition alone against none: p() + sum_k s_k [p(k) - p()] (Liu et al. 2022).

    The one form in which scales of 1 do not mean none; use `star` where that matters.
    """
    terms: list[tuple[Collection[str], float, Scale]] = [(list(scales), 1, 1.0)]
    for name, scale in scales.items():
        terms += [([other for other in scales if other != name], 1, scale), (list(scales), -1, scale)]
    return _table(terms)
