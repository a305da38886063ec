"""Where a student's inputs come from: noised data, noise, its own sampling, a teacher's trajectories, or a mixture.

An `Inputs` answers (student, batch, rng) with x_t, t and the condition they belong to. `Generated` turns any of them
into a `Generate` of the training step: one pass of the student there, with a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .bank import Bank
from .cond import Cond
from .denoiser import Denoiser
from .errors import UserError
from .rng import Rng
from .sampling import at, checked, rollout, start
from .step import Batch
from .times import Times


@dataclass(frozen=True)
class StudentInput:
    """x: [B, C, T, ...] at times t ([B] or [B, T]); cond: that x belongs to, which is the batch's but for a bank.

    target: the clean end of the trajectory x lies on, where there is one; answer: the student's clean estimate at
    (x, t), where making the input meant computing it already, with its graph.
    """

    x: Tensor
    t: Tensor
    cond: Cond
    target: Tensor | None = None
    answer: Tensor | None = None


class Inputs(Protocol):
    """A law of student inputs."""

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput: ...


def shared(rng: Rng) -> Rng:
    """The same place for every process and micro-batch of a step: for choices that decide which work is done.

    Processes that took different numbers of steps would wait for each other.
    """
    return rng.at(micro=0, rank=0)


@dataclass(frozen=True)
class Noised:
    """The batch's own samples, noised to a drawn time (draws "input/t" and "input/eps")."""

    times: Times

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        t = self.times(rng, len(batch), batch.x, "input/t")
        eps = rng.normal("input/eps", batch.x.shape, like=batch.x)
        return StudentInput(student.schedule.noise(batch.x, eps, t), t, batch.cond, target=batch.x)


@dataclass(frozen=True)
class NoiseOnly:
    """Pure noise at the student's first time; the batch gives its shape and condition only (draw "input/eps")."""

    time: float = 1.0

    def __post_init__(self) -> None:
        checked([self.time])

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        noise = rng.normal("input/eps", batch.x.shape, like=batch.x)
        return StudentInput(start(student.schedule, noise, self.time), at(noise, self.time), batch.cond)


@dataclass(frozen=True)
class Simulated:
    """The student's own sampling up to a random step, each equally likely and the same on all processes.

    stochastic: renoise between steps, which is backward simulation (DMD2, Yin et al. 2024, section 4.4); otherwise its
    own ODE (TDM, SFD). times: the trained steps. Draws "input/eps", "exit", and those of the rollout.
    """

    times: tuple[float, ...]
    stochastic: bool = True

    def __post_init__(self) -> None:
        checked(self.times)

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        noise = rng.normal("input/eps", batch.x.shape, like=batch.x)
        step = shared(rng).integer("exit", len(self.times))
        x, t, x0 = rollout(
            student, noise, batch.cond, self.times, rng, exit_step=step, stochastic=self.stochastic, grad_last=True
        )
        return StudentInput(x, t, batch.cond, answer=x0)


@dataclass(frozen=True)
class Banked:
    """States of a teacher's trajectories from disk, at a time of the bank drawn for each sample; the batch's own
    samples are not looked at, and the condition is the trajectory's. The target is its last state, and never an input.

    UserError when the bank's samples are not of the shape of the batch's.
    """

    bank: Bank

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        states, cond = self.bank.draw(rng, len(batch), "input/bank")
        if states.shape[2:] != batch.x.shape[1:]:
            found, needed = list(states.shape[2:]), list(batch.x.shape[1:])
            raise UserError(f"the bank holds samples of shape {found}, the run needs {needed}", str(self.bank.folder))
        level = rng.integers("input/level", (len(batch),), len(self.bank.times) - 1)
        x = states[torch.arange(len(batch)), level].to(batch.x)
        t = torch.tensor(self.bank.times, dtype=torch.float64)[level].to(batch.x.device)
        return StudentInput(x, t, _moved(cond, batch), target=states[:, -1].to(batch.x))


def _moved(cond: Cond, batch: Batch) -> Cond:
    """A condition from disk, in the device and the dtypes of the batch's where it has the same names."""

    def like(found: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.to(batch.x.device, own[k].dtype if k in own else None) for k, v in found.items()}

    return replace(
        cond,
        fields=like(dict(cond.fields), dict(batch.cond.fields)),
        along=like(dict(cond.along), dict(batch.cond.along)),
        null=like(dict(cond.null), dict(batch.cond.null)),
    )


@dataclass(frozen=True)
class Mixed:
    """One of several laws for the whole batch, by probability, the same on all processes (draw "mix")."""

    parts: Sequence[Inputs]
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        weights = self.weights or [1.0] * len(self.parts)
        if not self.parts or len(weights) != len(self.parts) or min(weights) < 0 or not 0 < sum(weights):
            raise UserError(
                f"{len(self.parts)} inputs need as many weights >= 0, not all 0, found {list(self.weights)}",
                "inputs.mix",
            )

    def chosen(self, rng: Rng) -> int:
        """Which part serves this step."""
        weights = torch.tensor(self.weights or [1.0] * len(self.parts), dtype=torch.float64)
        inner_edges = (weights.cumsum(0) / weights.sum())[:-1].contiguous()
        return int(torch.searchsorted(inner_edges, shared(rng).uniform("mix", ()), right=True))

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        return self.parts[self.chosen(rng)](student, batch, rng)


@dataclass(frozen=True)
class Generated:
    """A `Generate`: the student's clean estimate at an input, with a graph where gradients are on. The input has none.

    UserError for a law whose condition is not the batch's: the loss would ask the teacher about another one.
    """

    inputs: Inputs

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> Tensor:
        found = self.inputs(student, batch, rng)
        if found.cond is not batch.cond:
            raise UserError("these inputs bring their own conditions; use them where inputs are asked for", "generate")
        return student.x0(found.x, found.t, found.cond) if found.answer is None else found.answer
