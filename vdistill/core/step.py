"""What a training step is made of: a batch, a loss, a method, a term, and how the student makes its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .cond import Cond
from .denoiser import Denoiser
from .rng import Rng


@dataclass(frozen=True)
class Batch:
    """x: clean samples [B, C, T, ...] (their shape is what a data-free method generates); weight: [B]; keys: whose;
    regions: name -> share of each position that is in it, [B, 1, T, ...], in [0, 1]; past: what a student that goes on
    from the samples is shown of them, of x's shape, where that is not x."""

    x: Tensor
    cond: Cond
    weight: Tensor | None = None
    keys: tuple[str, ...] = ()
    regions: Mapping[str, Tensor] = field(default_factory=dict)
    past: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Batch:
        weight = None if self.weight is None else self.weight.to(device)
        regions = {name: share.to(device) for name, share in self.regions.items()}
        past = None if self.past is None else self.past.to(device)
        return Batch(self.x.to(device), self.cond.to(device), weight, self.keys, regions, past)

    def select(self, index: Tensor) -> Batch:
        """Samples `index` of the batch, in that order."""
        weight = None if self.weight is None else self.weight[index]
        keys = tuple(self.keys[i] for i in index.tolist()) if self.keys else ()
        regions = {name: share[index] for name, share in self.regions.items()}
        past = None if self.past is None else self.past[index]
        return Batch(self.x[index], self.cond.select(index), weight, keys, regions, past)

    def mean(self, per_sample: Tensor) -> Tensor:
        """Mean of [B] values under the sample weights (plain mean without them)."""
        return per_sample.mean() if self.weight is None else (per_sample * self.weight).sum() / self.weight.sum()


@dataclass(frozen=True)
class Loss:
    """total: what is differentiated; parts: detached scalars for the log."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.total + other.total, {**self.parts, **other.parts})


See = Callable[[Denoiser, Tensor], Denoiser]
"""A network as it meets noised versions of clean samples x [B, C, T, ...]."""


def alone(net: Denoiser, x: Tensor) -> Denoiser:
    """The `See` of networks that are shown what is noised and nothing beside it."""
    return net


Shown = Callable[[Denoiser, Batch, Rng], Tensor]
"""What a network that goes on from the clean samples of a batch, [B, C, T, ...], is shown of them, of their shape."""


def given_past(net: Denoiser, batch: Batch, rng: Rng) -> Tensor:
    """What the data says; the samples themselves where it says nothing."""
    return batch.x if batch.past is None else batch.past


Met = Callable[[Denoiser, Batch, Rng], Batch]
"""What a student learns from in place of a batch: other samples, and other pasts, of the same conditions."""


def as_given(net: Denoiser, batch: Batch, rng: Rng) -> Batch:
    """The batch."""
    return batch


class Generate(Protocol):
    """How a student makes a sample for training: one pass, several, or a whole rollout."""

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor: ...


@runtime_checkable
class Switching(Protocol):
    """A `Generate` whose next sample may not belong to the batch as it is: losses are told what it will belong to."""

    def ahead(self, batch: Batch, rng: Rng) -> Batch: ...


class Method(Protocol):
    """A distillation (or training) method: who learns at step k, and the loss of each."""

    @property
    def learners(self) -> Mapping[str, nn.Module]: ...

    def turn(self, step: int) -> Sequence[str]:
        """Names of the learners updated at this step, in order."""

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss: ...


@runtime_checkable
class Carried(Protocol):
    """What goes on from step to step beside weights: a method's `carried`, where it has one, is saved with them.

    alike: the same in all processes; otherwise each has its own, under keys that no other has.
    """

    @property
    def alike(self) -> bool: ...

    def state(self) -> Mapping[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor], rank: int = 0, world: int = 1) -> None:
        """Become what `state` was taken of, of all processes; {} is the beginning. Tensors come in main memory.

        rank, world: this process, which has global micro-batches m with m % world == rank, of how many.
        """


class Term(Protocol):
    """An extra objective on the student's sample: a GAN, a reward, a sync score. `module` is what it trains itself."""

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> nn.Module | None: ...

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        """Added to the student's loss; x: its clean sample."""

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        """The loss of the term's own module; x is detached."""


Balance = Callable[[Tensor, Loss, Loss], Loss]
"""(x, the student's loss so far, what a term adds) -> both, weighed against each other at its sample x."""


def added(x: Tensor, main: Loss, own: Loss) -> Loss:
    """The `Balance` that leaves weights as they are."""
    return main + own


BatchSource = Callable[[Rng], Batch]
