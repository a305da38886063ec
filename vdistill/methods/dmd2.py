"""Improved distribution matching distillation, DMD2 (Yin et al. 2024): follow teacher minus critic on own samples.

grad_x KL = E [ (x0_critic(x_t) - x0_teacher(x_t)) / mean|x - x0_teacher| ]; the critic denoises what the student makes
(two time scales); terms (a GAN) add to both sides. `generate` says how the student makes x, gradients included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, is_grad_enabled, nn, no_grad, set_grad_enabled

from ..core.denoiser import Denoiser
from ..core.losses.divergence import Weigh
from ..core.losses.identity import score_identity
from ..core.losses.matching import matching
from ..core.losses.regression import weighted_x0
from ..core.rng import Rng
from ..core.step import Balance, Batch, Carried, Generate, Loss, See, Switching, Term, added, alone
from ..core.times import Times, Uniform


@dataclass(frozen=True)
class Dmd2Config:
    """critic_per_student: critic updates for each of the student's; floor: smallest t in its weight 1 / t^2; sid: alpha
    of the score identity loss in place of distribution matching (SiD; gradients go through teacher and critic)."""

    critic_per_student: int = 5
    floor: float = 0.05
    sid: float | None = None


class Dmd2:
    """Learners: "student", and "critic" with the modules of the terms. `teacher` comes guided; see: what teacher and
    critic are shown of a sample; balance: how a term's loss is weighed against the matching; weigh: the matching's
    weights, of another divergence than reverse KL (f-distill)."""

    def __init__(
        self,
        cfg: Dmd2Config,
        teacher: Denoiser,
        student: Denoiser,
        critic: Denoiser,
        modules: Mapping[str, nn.Module],
        generate: Generate,
        terms: Sequence[Term] = (),
        times: Times = Uniform(0.02, 0.98),
        see: See = alone,
        balance: Balance = added,
        weigh: Weigh | None = None,
    ) -> None:
        self.cfg, self.teacher, self.student, self.critic = cfg, teacher, student, critic
        self.generate, self.terms, self.times, self.see = generate, terms, times, see
        self.balance, self.weigh = balance, weigh
        self.carried = generate if isinstance(generate, Carried) else None
        watchers = {"critic": modules["critic"]} | {t.name: t.module for t in terms if t.module is not None}
        watchers |= {} if weigh is None else {"weigh": weigh}
        self.learners: Mapping[str, nn.Module] = {"student": modules["student"], "critic": nn.ModuleDict(watchers)}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student", "critic") if step % self.cfg.critic_per_student == 0 else ("critic",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        batch = self.generate.ahead(batch, rng) if isinstance(self.generate, Switching) else batch
        return self.student_loss(batch, rng) if learner == "student" else self.critic_loss(batch, rng)

    def student_loss(self, batch: Batch, rng: Rng) -> Loss:
        x = self.generate(self.student, batch, rng)
        with set_grad_enabled(self.cfg.sid is not None and is_grad_enabled()):
            t, xt = self._renoise(x, rng)
            real = self.see(self.teacher, x).x0(xt, t, batch.cond)
            fake = self.see(self.critic, x).x0(xt, t, batch.cond)
        weight = None if self.weigh is None else self.weigh(xt.detach(), t, batch.cond)
        if self.cfg.sid is None:
            far = matching(x, real, fake, weight=weight)
        else:
            far = score_identity(x, real, fake, self.cfg.sid)
        loss = Loss(batch.mean(far), {"gap": (fake - real).detach().abs().mean()})
        for term in self.terms:
            loss = self.balance(x, loss, term.student(x, batch, rng))
        return loss

    def critic_loss(self, batch: Batch, rng: Rng) -> Loss:
        with no_grad():
            x = self.generate(self.student, batch, rng)
            t, xt = self._renoise(x, rng)
        guess = self.see(self.critic, x).x0(xt, t, batch.cond)
        loss = Loss(batch.mean(weighted_x0(guess, x, t, self.critic.schedule, "flow", self.cfg.floor)))
        for term in self.terms:
            loss = loss + term.watch(x, batch, rng)
        return loss

    def _renoise(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        t = self.times(rng, len(x), x)
        return t, self.critic.schedule.noise(x, rng.normal("eps", x.shape, like=x), t)
