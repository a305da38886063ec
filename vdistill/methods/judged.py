"""A loss on the student's clean estimate, and judges beside it: what ADD, OSV, MCM and Diffusion2GAN have in common.

student: min E[ aim(x) ] + sum_k w_k E[ g(D_k(x)) ],  x = x0_hat(x_t, t, c);  critic: the losses of the judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn, no_grad

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.inputs import Inputs, StudentInput
from ..core.rng import Rng
from ..core.step import Balance, Batch, Loss, Term, added

Aim = Callable[[Denoiser, StudentInput, Tensor, Batch, Rng], Loss]
"""(student, what it was shown, its clean estimate of that, batch, rng) -> what is asked of the estimate."""


class StepJudge(Protocol):
    """A judge of steps x_t -> x_s: is the end where the real one is, given the beginning?"""

    @property
    def name(self) -> str: ...

    @property
    def module(self) -> nn.Module | None: ...

    def student(
        self, xt: Tensor, fake: Tensor, real: Tensor, t: Tensor, s: Tensor, cond: Cond, rng: Rng,
        weight: Tensor | None = None,
    ) -> Loss: ...  # fmt: skip

    def watch(
        self, xt: Tensor, fake: Tensor, real: Tensor, t: Tensor, s: Tensor, cond: Cond, rng: Rng,
        weight: Tensor | None = None,
    ) -> Loss: ...  # fmt: skip


class Judged:
    """Learners: "student", and "critic" where somebody judges: the terms' modules, and the network they look through
    where that learns too.

    aim: None where the first term leads; modules: of the student, and of the "critic" where there is one; balance: how
    each term after that is weighed; each: updates of the critic for one of the student; pair: a judge of the whole way
    from what the student was shown to its estimate, against the inputs' own end (Diffusion2GAN's conditional one).
    """

    def __init__(
        self,
        student: Denoiser,
        modules: Mapping[str, nn.Module],
        inputs: Inputs,
        aim: Aim | None,
        terms: Sequence[Term] = (),
        balance: Balance = added,
        each: int = 1,
        pair: StepJudge | None = None,
    ) -> None:
        if aim is None and not terms:
            raise ValueError("a student needs an aim or a judge")
        self.student, self.inputs, self.aim, self.terms = student, inputs, aim, terms
        self.balance, self.each, self.pair = balance, each, pair
        self.learners: Mapping[str, nn.Module] = {"student": modules["student"]} | judging(
            modules, [*terms, *([] if pair is None else [pair])]
        )

    def turn(self, step: int) -> tuple[str, ...]:
        if "critic" not in self.learners:
            return ("student",)
        return ("student", "critic") if step % self.each == 0 else ("critic",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        if learner == "student":
            found, x = self._made(batch, rng)
            return self._asked(found, x, batch, rng)
        with no_grad():
            found, x = self._made(batch, rng)
        losses = [term.watch(x, batch, rng) for term in self.terms]
        if self.pair is not None:
            losses.append(self.pair.watch(*whole_way(found, x), rng, batch.weight))
        return losses[0] if len(losses) == 1 else sum(losses[1:], losses[0])

    def _asked(self, found: StudentInput, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        terms = [*self.terms]
        if self.aim is not None:
            loss = self.aim(self.student, found, x, batch, rng)
        else:
            loss = terms.pop(0).student(x, batch, rng)
        for term in terms:
            loss = self.balance(x, loss, term.student(x, batch, rng))
        if self.pair is not None:
            loss = self.balance(x, loss, self.pair.student(*whole_way(found, x), rng, batch.weight))
        return loss

    def _made(self, batch: Batch, rng: Rng) -> tuple[StudentInput, Tensor]:
        found = self.inputs(self.student, batch, rng)
        x = self.student.x0(found.x, found.t, found.cond) if found.answer is None else found.answer
        return found, x


def whole_way(found: StudentInput, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Cond]:
    """The step from an input to its clean end. UserError for an input that has none."""
    return found.x, x, own_end(found), found.t, torch.zeros_like(found.t), found.cond


def own_end(found: StudentInput) -> Tensor:
    """The end of the input's own trajectory: the clip that was noised, or the last state in a bank.

    UserError for inputs that have none, such as the student's own sampling.
    """
    if found.target is None:
        raise UserError("these inputs have no clean end", "method.inputs", "say data or bank")
    return found.target


def judging(modules: Mapping[str, nn.Module], terms: Sequence[Term | StepJudge]) -> dict[str, nn.Module]:
    """The learner "critic", where somebody judges."""
    own = {term.name: term.module for term in terms if term.module is not None}
    watchers = {name: module for name, module in modules.items() if name != "student"} | own
    return {"critic": nn.ModuleDict(watchers)} if watchers else {}
