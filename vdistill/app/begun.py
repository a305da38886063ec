"""Distillation of students that go on from known positions, as their teacher does: some batches begin with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from ..core.begin import Begin
from ..core.inputs import shared
from ..core.rng import Rng
from ..core.schedule import Schedule
from ..core.step import Batch, Carried, Loss, Method
from ..video.extend import continue_from


@dataclass(frozen=True)
class Begun:
    """A method whose student and teacher are `Continued` ones that show the known as they are: in `begin.share` of the
    steps the whole batch begins with 1 to `begin.most` of its own positions, disturbed by noise of a level below
    `begin.level`. What is known is no error, so the loss is that of the rest. schedule: of that noise.
    """

    method: Method
    begin: Begin
    schedule: Schedule
    carried: Carried | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "carried", getattr(self.method, "carried", None))

    @property
    def learners(self) -> Mapping[str, nn.Module]:
        return self.method.learners

    def turn(self, step: int) -> Sequence[str]:
        return self.method.turn(step)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        return self.method.loss(learner, self.begun(batch, rng), rng)

    def begun(self, batch: Batch, rng: Rng) -> Batch:
        """The batch, or the same told how it begins (draws "begin", "begin/many", "begin/level", "begin/eps")."""
        all_of_it, x = shared(rng), batch.x
        if float(all_of_it.uniform("begin", ())) >= self.begin.share:
            return batch
        many = 1 + all_of_it.integer("begin/many", min(self.begin.most, x.shape[2] - 1))
        level = rng.uniform("begin/level", (len(x),), 0, self.begin.level, like=x) if self.begin.level else None
        eps = rng.normal("begin/eps", x.shape, like=x)
        near = x if level is None else self.schedule.noise(x, eps, level)
        return replace(batch, cond=continue_from(batch.cond, near[:, :, :many], eps))
