"""A judge of steps: does x_s lie where the teacher goes from x_t, or is it a jump (SDXL-Lightning, Lin et al. 2024)?

D(x_t, x_s, t, s, c): the point before the step, the point after it, both times and the condition. Without the point
before, D(x_s, s, c), it no longer asks that the jump ends on the same trajectory (the paper's relaxed second stage).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.losses.gan import Kind, game, student_loss
from ..core.rng import Rng
from ..core.schedule import Schedule, spread
from ..core.step import Batch, Loss
from .augment import Augment, in_turn
from .look import Look
from .rounds import Penalty, Round, watch_report, watched, with_anothers


@dataclass(frozen=True)
class Later:
    """Ends x_s noised on, to a time drawn evenly from [s, most]; where s >= most they stay as they are.

    Generated and real ones alike. At one time alone, a network that looks at them finds faults of one size alone
    (SDXL-Lightning, on judges at several times).
    """

    schedule: Schedule
    most: float = 0.75

    def time(self, s: Tensor, name: str, rng: Rng) -> Tensor:
        """[B], float64."""
        return s + (self.most - s).clamp_min(0) * rng.uniform(name, (len(s),), like=s)

    def __call__(self, xs: Tensor, s: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """x_u = r x_s + (sigma_u^2 - r^2 sigma_s^2)^(1/2) eps, r = alpha_u / alpha_s."""
        (alpha_s, sigma_s), (alpha_u, sigma_u) = self.schedule.alpha_sigma(s), self.schedule.alpha_sigma(u)
        ratio = alpha_u / alpha_s
        more = (sigma_u.square() - (ratio * sigma_s).square()).clamp_min(0).sqrt()
        return (spread(ratio, xs) * xs + spread(more, xs) * eps).to(xs.dtype)


@dataclass(frozen=True)
class Pair:
    """student(...), watch(...): as a `Term`'s, of a step x_t -> x_s instead of a clean sample.

    look: what of a point is shown to the judge; judge: (seen, times, cond) -> logits [B, N], where each thing seen is
    that of x_t and of x_s side by side along `axis` and times [B, 2] are t and s. before: False shows x_s alone, with
    times [B]. axis: of channels, 1 of latents, -1 of features [B, N, C]. mismatched: real steps with another's
    conditions count as fakes, all of them or those `swapped` (Diffusion2GAN); later: how ends are noised on.
    """

    look: Look
    judge: nn.Module
    axis: int = 1
    weight: float = 1.0
    watch_weight: float = 1.0
    kind: Kind = "ns"
    before: bool = True
    augment: Augment = in_turn(())
    penalties: Sequence[Penalty] = ()
    mismatched: bool = False
    swapped: Sequence[str] = ()
    later: Later | None = None
    name: str = "pair"

    @property
    def module(self) -> nn.Module:
        return self.judge

    def student(
        self, xt: Tensor, fake: Tensor, real: Tensor, t: Tensor, s: Tensor, cond: Cond, rng: Rng,
        weight: Tensor | None = None,
    ) -> Loss:  # fmt: skip
        """The student's loss. xt, fake, real: [B, C, T, ...] at t [B] and, both of them, at s [B]; a gradient reaches
        `fake` alone. weight: of the samples [B]."""
        jump, told = Jump(self, xt, t, s, cond, rng), None
        if game(self.kind).paired:
            with torch.no_grad():
                told = jump.ask(real).logits
        loss = self.weight * Batch(fake, cond, weight).mean(student_loss(jump.ask(fake).logits, told, self.kind))
        return Loss(loss, {"gan": loss.detach()})

    def watch(
        self, xt: Tensor, fake: Tensor, real: Tensor, t: Tensor, s: Tensor, cond: Cond, rng: Rng,
        weight: Tensor | None = None,
    ) -> Loss:  # fmt: skip
        """The judge's loss, of the same; real: where the teacher went from the same x_t."""
        jump = Jump(self, xt, t, s, cond, rng)
        other = Jump(self, xt, t, s, with_anothers(cond, self.swapped), rng) if self.mismatched else None
        cost, said, told = watched(jump, fake.detach(), real, self.kind, self.penalties, rng, other=other)
        loss = self.watch_weight * Batch(fake, cond, weight).mean(cost)
        return watch_report(loss, said, told, self.kind)


class Jump(Round):
    """A round on one step: x_t is looked at once, then any x_s beside it, changed alike."""

    def __init__(self, pair: Pair, xt: Tensor, t: Tensor, s: Tensor, cond: Cond, rng: Rng) -> None:
        self.pair, self.s, self.cond, self.rng = pair, s, cond, rng
        self.end = s if pair.later is None else pair.later.time(s, f"{pair.name}/later", rng)
        self.times, self.seen = self.end, list[Tensor]()
        if pair.before:
            self.times = torch.stack([t, self.end], 1)
            self.seen = [*pair.look(pair.augment(xt.detach(), rng), t, cond)]

    def show(self, x: Tensor) -> Sequence[Tensor]:
        x = self.pair.augment(x, self.rng)
        if self.pair.later is not None:
            x = self.pair.later(x, self.s, self.end, self.rng.normal(f"{self.pair.name}/eps", x.shape, like=x))
        seen = self.pair.look(x, self.end, self.cond)
        if not self.seen:
            return seen
        return [torch.cat(two, self.pair.axis) for two in zip(self.seen, seen, strict=True)]

    def judge(self, shown: Sequence[Tensor]) -> Tensor:
        with torch.autocast(self.s.device.type, enabled=False):
            return torch.as_tensor(self.pair.judge(shown, self.times, self.cond))
