"""A judge as the only teacher: LADD (Sauer et al. 2024) with a frozen teacher's features, APT (Lin et al. 2025) with a
copy of the teacher that learns to judge.

student: min E[ g(D(noise(G(z), t), t, c)) ];  critic: the judge of the same game, with its penalties.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn, no_grad

from ..core.denoiser import Denoiser
from ..core.rng import Rng
from ..core.step import Batch, Generate, Loss, Term
from .judged import judging


class AdversarialDistillation:
    """Learners: "student", and "critic": the judge, with the network it looks through where that learns too.

    modules: of the student, and of the "critic" where there is one; each: updates of the judge for one of the student.
    """

    def __init__(
        self, student: Denoiser, modules: Mapping[str, nn.Module], generate: Generate, term: Term, each: int = 1
    ) -> None:
        self.student, self.generate, self.term, self.each = student, generate, term, each
        self.learners: Mapping[str, nn.Module] = {"student": modules["student"]} | judging(modules, [term])

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student", "critic") if step % self.each == 0 else ("critic",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        if learner == "student":
            return self.term.student(self.generate(self.student, batch, rng), batch, rng)
        with no_grad():
            x = self.generate(self.student, batch, rng)
        return self.term.watch(x, batch, rng)
