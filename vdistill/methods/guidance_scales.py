"""Guidance scales as inputs, several at once: drawn for every sample, told to student and teacher alike.

FADA (arXiv 2412.16915) distils a chain of guided conditions into one pass that is told its scales; how scales are
drawn, and the share of samples told none, are our reconstruction. Any method trains under `ToldScales`: its teacher is
an `AsTold`, which guides itself by what the batch's condition says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.losses.mixed import QUALITY
from ..core.plan import Plan, tell
from ..core.rng import Rng
from ..core.step import Batch, Carried, Loss, Method

WHERE = "method.scales"


@dataclass(frozen=True)
class ScaleLaw:
    """name -> the scale it is used at (usual) and the largest learned (most). A sample gets, all names together, the
    usual scales with chance `at_usual`, ones with chance `at_ones`, and otherwise each U[low, most] by itself."""

    usual: Mapping[str, float]
    most: Mapping[str, float]
    at_usual: float = 0.25
    at_ones: float = 0.25
    low: float = 1.0

    def __post_init__(self) -> None:
        if self.usual.keys() != self.most.keys():
            raise UserError(f"usual for {sorted(self.usual)}, most for {sorted(self.most)}", WHERE)
        if not (0 <= self.at_usual and 0 <= self.at_ones and self.at_usual + self.at_ones <= 1):
            raise UserError(f"chances {self.at_usual} and {self.at_ones} are no shares of 1", WHERE)
        if bad := [name for name in self.usual if not self.low <= self.usual[name] <= self.most[name]]:
            raise UserError(f"{bad[0]}: {self.usual[bad[0]]:g} is not in [{self.low:g}, {self.most[bad[0]]:g}]", WHERE)

    def __call__(self, rng: Rng, n: int, like: Tensor) -> dict[str, Tensor]:
        """name -> scales [n] (draws "scales/kind" and "scales/<name>")."""
        kind = rng.uniform("scales/kind", (n,), like=like)
        found = {}
        for name, usual in self.usual.items():
            free = rng.uniform(f"scales/{name}", (n,), self.low, self.most[name], like=like)
            one = torch.where(kind < self.at_usual + self.at_ones, torch.ones_like(free), free)
            found[name] = torch.where(kind < self.at_usual, torch.full_like(free, usual), one)
        return found


@dataclass(frozen=True)
class ToldScales:
    """A method whose batches are told scales; otherwise the method itself.

    balanced: share of samples that are told none, with the conditions that a branch of the plan drops (one branch of
    them all, by equal chance) dropped in student and teacher: so the student keeps every pass the plan is made of.
    quality: tell the sample's quality too, as one more scale of that name, taken as it is from Cond field "quality".
    """

    method: Method
    plan: Plan
    law: ScaleLaw
    balanced: float = 0.0
    quality: bool = False
    carried: Carried | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "carried", getattr(self.method, "carried", None))
        if set(self.law.usual) != set(self.plan.names):
            raise UserError(f"scales of {sorted(self.law.usual)}, the plan guides by {[*self.plan.names]}", WHERE)

    @property
    def learners(self) -> Mapping[str, nn.Module]:
        return self.method.learners

    def turn(self, step: int) -> Sequence[str]:
        return self.method.turn(step)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        return self.method.loss(learner, self.told(batch, rng), rng)

    def told(self, batch: Batch, rng: Rng) -> Batch:
        """The batch with scales, some of its samples without conditions and told none."""
        n, cond = len(batch), batch.cond
        scales = self.law(rng, n, batch.x)
        if self.quality:
            scales[QUALITY] = cond.fields.get(QUALITY, torch.ones(n)).to(batch.x)
        if not self.balanced:
            return replace(batch, cond=tell(cond, scales))
        off = rng.uniform("balanced", (n,), like=batch.x) < self.balanced
        branch = rng.integers("balanced/branch", (n,), len(self.plan.dropped), like=batch.x)
        for k, gone in enumerate(self.plan.dropped):
            for name in sorted(gone):
                cond = cond.drop_where(name, off & (branch == k))
        return replace(batch, cond=tell(cond, scales, on=(~off).to(batch.x)))
