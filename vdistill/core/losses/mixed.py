"""Two teachers for one student: a guided network, and data of varying quality (mixed supervision).

L = mean w(t) [ (1 - r G) |u - û(s)|^2 + G |u - y_G|^2 ], with u the student's estimate, û(s) the guided teacher's, y_G
what the data says (`target`) and G >= 0 how far it is believed (a `Balance`, or several multiplied).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, distributed

from ..cond import Cond
from ..errors import UserError
from ..schedule import spread
from .regression import per_sample

Target = Literal["raw", "delta", "unit"]
QUALITY, SYNC = "quality", "sync"
"""Condition fields: quality [B] in [0, 1], 1 of clean data (and where it is missing); sync: a confidence [B]."""


@dataclass(frozen=True)
class Seen:
    """What a balance looks at: data y, the student's guess and the teacher's estimates, guided and plain, all [B, ...]
    at times t; cond, regions: of the batch, the condition with the fields above."""

    y: Tensor
    guess: Tensor
    guided: Tensor
    plain: Tensor
    t: Tensor
    cond: Cond
    regions: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def quality(self) -> Tensor:
        """[B], 1 where the batch says nothing."""
        return self.cond.fields.get(QUALITY, torch.ones(len(self.y), device=self.y.device)).to(self.y)

    def part(self, name: str) -> Tensor:
        """A region's share of each position, broadcasts to x. UserError for one that the data has not."""
        if name not in self.regions:
            known = ", ".join(sorted(self.regions)) or "none"
            raise UserError(f"the data has no region {name!r}; it has {known}", "supervision.balance")
        return self.regions[name].to(self.y)


Balance = Callable[[Seen], Tensor]
"""How far data is believed: weights >= 0 that broadcast to x."""


def target(kind: Target, seen: Seen) -> Tensor:
    """y_G. raw and unit: y itself; delta: y + û(s) - u_plain, the data as the conditional estimate and the guidance's
    push from the teacher, so that both agree at a scale of 1."""
    if kind not in get_args(Target):
        raise UserError(f"target {kind!r}; known: {', '.join(get_args(Target))}", "supervision.target")
    return seen.y + (seen.guided - seen.plain) if kind == "delta" else seen.y


def at_ones(scales: Mapping[str, Tensor]) -> Tensor:
    """1.0 for the samples whose every scale is 1 [B]: the only ones where target `unit` lets data speak."""
    return torch.stack([scale == 1 for scale in scales.values()]).all(0).to(torch.float32)


def low_pass(x: Tensor, width: float) -> Tensor:
    """x [B, C, T, ...] smoothed along T by a Gaussian of standard deviation `width` positions, renormalised at its
    ends; 0: x itself; inf: its mean."""
    if width == 0:
        return x
    at = torch.arange(x.shape[2], device=x.device, dtype=torch.float64)
    kernel = torch.softmax(-(((at[:, None] - at) / width) ** 2) / 2, 1).to(x.dtype)  # [T, T]
    return torch.einsum("st,bct...->bcs...", kernel, x)


def anchored(y: Tensor, guided: Tensor, width: float) -> Tensor:
    """û + low_pass(y - û): what changes fast comes from the teacher, what stays comes from the data."""
    return y if width == 0 else guided + low_pass(y - guided, width)


@dataclass(frozen=True)
class Const:
    """The same for all."""

    weight: float = 1.0

    def __call__(self, seen: Seen) -> Tensor:
        return seen.y.new_tensor(self.weight)


@dataclass(frozen=True)
class ByQuality:
    """From `low` at quality 0 to 1 at quality 1, linear."""

    low: float = 0.25

    def __call__(self, seen: Seen) -> Tensor:
        return spread(self.low + (1 - self.low) * seen.quality, seen.y)


@dataclass(frozen=True)
class Region:
    """R = 1 - (1 - q) M: clean data is believed everywhere, damaged data outside the region M only. part: its name."""

    part: str

    def __call__(self, seen: Seen) -> Tensor:
        return 1 - (1 - spread(seen.quality, seen.y)) * seen.part(self.part)


@dataclass(frozen=True)
class Sync:
    """In the region M the weight sigmoid((C - centre) / width) of a sync confidence C, 1 elsewhere. part: its name."""

    part: str
    centre: float = 3.0
    width: float = 1.0

    def __call__(self, seen: Seen) -> Tensor:
        if SYNC not in seen.cond.fields:
            raise UserError(f"the batch has no field {SYNC!r}", "supervision.balance")
        heard = torch.sigmoid((seen.cond.fields[SYNC].to(seen.y) - self.centre) / self.width)
        return 1 - (1 - spread(heard, seen.y)) * seen.part(self.part)


class Disagreement:
    """exp(-max(0, d - 1) / kappa), at least `low`, d = |R (u_plain - y)|^2 over what is usual at that time.

    What is usual is an average of past batches for each of `bins` stretches of t, carried from step to step: where data
    and teacher differ more than they do elsewhere, the data is bad. Micro-batches move it one after the other.
    """

    alike = True

    def __init__(
        self, kappa: float = 1.0, low: float = 0.05, bins: int = 8, decay: float = 0.98, region: Balance | None = None
    ) -> None:
        self.kappa, self.low, self.bins, self.decay, self.region = kappa, low, bins, decay, region
        self.usual, self.seen = torch.zeros(bins), torch.zeros(bins)

    def __call__(self, seen: Seen) -> Tensor:
        where = seen.y.new_ones(()) if self.region is None else self.region(seen)
        far = per_sample((where * (seen.plain - seen.y).square()).expand_as(seen.y)).detach().float()
        t = seen.t if seen.t.ndim == 1 else seen.t.mean(1)
        place = (t * self.bins).long().clamp(0, self.bins - 1)
        self.usual, self.seen = self.usual.to(far), self.seen.to(far)
        self._learn(far, place)
        beyond = (far / self.usual[place].clamp_min(1e-12) - 1).clamp_min(0)
        return spread(torch.exp(-beyond / self.kappa).clamp_min(self.low).to(seen.y), seen.y)

    def _learn(self, far: Tensor, place: Tensor) -> None:
        sums = torch.zeros(2, self.bins, device=far.device)
        sums[0].index_add_(0, place, far)
        sums[1].index_add_(0, place, torch.ones_like(far))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        met = sums[1] > 0
        rate = torch.maximum(1 / (self.seen + 1), torch.full_like(self.seen, 1 - self.decay))  # plain mean while young
        moved = self.usual + rate * (sums[0] / sums[1].clamp_min(1) - self.usual)
        self.usual, self.seen = torch.where(met, moved, self.usual), self.seen + met

    def state(self) -> Mapping[str, Tensor]:
        return {"usual": self.usual, "seen": self.seen}

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """What `state` was taken of; {} is the beginning."""
        empty = torch.zeros(self.bins)
        self.usual, self.seen = state.get("usual", empty).clone(), state.get("seen", empty).clone()


@dataclass(frozen=True)
class GradNorm:
    """The data's gradient at the student's estimate becomes `share` of the teacher's, over the batch (VQGAN's adaptive
    weight, Esser et al. 2021), at most `most` times. Other balances come first: see `believed`."""

    share: float = 1.0
    most: float = 1e4

    def __call__(self, teacher: Tensor, data: Tensor) -> Tensor:
        """The factor, from the gradients of both losses at the estimate."""
        return (self.share * teacher.norm() / data.norm().clamp_min(1e-20)).clamp_max(self.most)


def believed(seen: Seen, balances: Sequence[Balance]) -> Tensor:
    """The product of the balances."""
    weight = seen.y.new_ones(())
    for balance in balances:
        weight = weight * balance(seen)
    return weight


def mixed(
    seen: Seen,
    goal: Tensor,
    weight: Tensor,
    believe: Tensor,
    *,
    replaces: float = 0.0,
    ratio: GradNorm | None = None,
) -> tuple[Tensor, Tensor]:
    """(teacher's, data's) part of the loss, [B] each. goal: y_G; weight: w(t), broadcasts; believe: G.

    replaces: r, how far data stands in the teacher's place where it is believed (G up to 1) instead of beside it.
    """
    w = weight * (1 - replaces * believe.clamp(0, 1))
    to_teacher, to_data = seen.guess - seen.guided, seen.guess - goal
    data = weight * believe
    if ratio is not None:
        data = data * ratio((w * to_teacher).detach(), (data * to_data).detach())
    return per_sample((w * to_teacher.square()).expand_as(goal)), per_sample((data * to_data.square()).expand_as(goal))
