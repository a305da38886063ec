"""The GAN term on diffused samples (DMD2, LADD): a judge of noised samples, real against generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.losses.gan import Kind, feature_gap, game, student_loss
from ..core.rng import Rng
from ..core.schedule import Schedule
from ..core.step import Batch, Loss
from ..core.times import Times, Uniform
from .anchor import Anchor
from .augment import Augment, in_turn
from .look import Drawn, Look
from .rounds import Penalty, Round, watch_report, watched, with_anothers

Where = Callable[[Tensor, Batch], Tensor]
"""(x, batch) -> weights [B, N] of the judge's positions: a region, a window of a rollout."""


@dataclass(frozen=True)
class Level(Round):
    """A round at one drawn time and noise, with one drawn augmentation of the clean samples."""

    term: Adversarial
    t: Tensor
    noise: Tensor
    cond: Cond
    rng: Rng

    def show(self, x: Tensor) -> Sequence[Tensor]:
        look = self.term.look
        xt = self.term.schedule.noise(self.term.augment(x, self.rng), self.noise, self.t)
        return (look.drawn(self.rng) if isinstance(look, Drawn) else look)(xt, self.t, self.cond)

    def judge(self, shown: Sequence[Tensor]) -> Tensor:
        with torch.autocast(self.t.device.type, enabled=False):
            return torch.as_tensor(self.term.judge(shown, self.t, self.cond))


@dataclass(frozen=True)
class Adversarial:
    """A Term. look: what of a noised sample is shown to the judge, (seen, t, cond) -> logits [B, N]; weight,
    watch_weight: in the student's and the judge's loss. Where the network looked through is itself trained (DMD2's
    critic), it learns to tell apart too. Real and generated meet the same times, noise and augmentation.

    levels: noise levels that are averaged; penalties, anchor: of the judge; features: weight of feature matching beside
    the game; mismatched: real samples with another's conditions count as fakes, all of them or those `swapped`; where:
    which positions count.
    """

    look: Look
    schedule: Schedule
    judge: nn.Module
    weight: float = 3e-3
    watch_weight: float = 1e-2
    kind: Kind = "ns"
    times: Times = Uniform(0.02, 0.98)
    name: str = "gan"
    levels: int = 1
    augment: Augment = in_turn(())
    penalties: Sequence[Penalty] = ()
    anchor: Anchor | None = None
    features: float = 0.0
    mismatched: bool = False
    swapped: Sequence[str] = ()
    where: Where | None = None

    @property
    def module(self) -> nn.Module:
        return self.judge if self.anchor is None else nn.ModuleDict({"judge": self.judge, "anchor": self.anchor})

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        at, costs, gaps = self._at(x, batch), [], []
        for level in self._levels(x, batch.cond, rng):
            seen, real = level.ask(x), None
            if game(self.kind).paired or self.features:
                with torch.no_grad():
                    real = level.ask(batch.x)
            costs.append(student_loss(seen.logits, None if real is None else real.logits, self.kind, at))
            gaps += [feature_gap(real.shown, seen.shown)] if real is not None and self.features else []
        loss = self.weight * batch.mean(mean(costs))
        parts = {"gan": loss.detach()}
        if gaps:
            parts["features"] = mean(gaps).detach()
            loss = loss + self.features * mean(gaps)
        return Loss(loss, parts)

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        rows = [self._watched(level, x.detach(), batch) for level in self._levels(x, batch.cond, rng)]
        fake, real = (torch.cat(logits, 1) for logits in zip(*(row[1:] for row in rows), strict=True))
        cost = mean([row[0] for row in rows])
        if self.anchor is not None:
            cost = cost + self.anchor(real, fake, rng.step)
        return watch_report(self.watch_weight * batch.mean(cost), fake, real, self.kind)

    @torch.no_grad()
    def log_ratio(self, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """log q / p [B], q the real samples' law and p the generated ones', as a logistic judge sees it: its logit."""
        with torch.autocast(xt.device.type, enabled=False):
            logits = torch.as_tensor(self.judge(self.look(xt, t, cond), t, cond))
        return logits.float().mean(1)

    def _watched(self, level: Level, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        other = replace(level, cond=with_anothers(level.cond, self.swapped)) if self.mismatched else None
        return watched(level, x, batch.x, self.kind, self.penalties, level.rng, self._at(x, batch), other)

    def _levels(self, x: Tensor, cond: Cond, rng: Rng) -> Iterator[Level]:
        for i in range(self.levels):
            place = self.name if i == 0 else f"{self.name}{i}"
            t, noise = self.times(rng, len(x), x, f"{place}/t"), rng.normal(f"{place}/eps", x.shape, like=x)
            yield Level(self, t, noise, cond, rng.at(turn=f"{rng.turn}/{place}"))

    def _at(self, x: Tensor, batch: Batch) -> Tensor | None:
        return None if self.where is None else self.where(x, batch)


def mean(values: Sequence[Tensor]) -> Tensor:
    """Of equally shaped tensors."""
    return torch.stack([*values]).mean(0)
