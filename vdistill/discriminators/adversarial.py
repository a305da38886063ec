"""The GAN term on diffused samples (DMD2, LADD): a judge of noised samples, real against generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.losses.gan import Kind, feature_gap, game, student_loss, watch_loss
from ..core.rng import Rng
from ..core.schedule import Schedule
from ..core.step import Batch, Loss
from ..core.times import Times, Uniform
from .anchor import Anchor
from .augment import Augment, in_turn
from .look import Drawn, Look
from .penalties import Penalty

Where = Callable[[Tensor, Batch], Tensor]
"""(x, batch) -> weights [B, N] of the judge's positions: a region, a window of a rollout."""

SHIFTED: tuple[Kind, ...] = ("relativistic", "wgan")
"""Games in which only differences of logits count, so that 0 is no border."""


@dataclass(frozen=True)
class Level:
    """One drawn time, noise and augmentation: what is shown of clean samples x, and the logits [B, N] of it."""

    term: Adversarial
    t: Tensor
    noise: Tensor
    rng: Rng

    def show(self, x: Tensor, cond: Cond) -> Sequence[Tensor]:
        look = self.term.look
        xt = self.term.schedule.noise(self.term.augment(x, self.rng), self.noise, self.t)
        return (look.drawn(self.rng) if isinstance(look, Drawn) else look)(xt, self.t, cond)

    def judge(self, seen: Sequence[Tensor], cond: Cond) -> Tensor:
        with torch.autocast(self.t.device.type, enabled=False):  # small, and differences of logits are what counts
            return torch.as_tensor(self.term.judge(seen, self.t, cond))

    def ask(self, x: Tensor, cond: Cond) -> Tensor:
        return self.judge(self.show(x, cond), cond)


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
        at, cond, costs, gaps = self._at(x, batch), batch.cond, [], []
        for level in self._levels(x, rng):
            seen, real, logits = level.show(x, cond), None, None
            if game(self.kind).paired or self.features:
                with torch.no_grad():
                    real = level.show(batch.x, cond)
                    logits = level.judge(real, cond)
            costs.append(student_loss(level.judge(seen, cond), logits, self.kind, at))
            gaps += [feature_gap(real, seen)] if real is not None and self.features else []
        loss = self.weight * batch.mean(mean(costs))
        parts = {"gan": loss.detach()}
        if gaps:
            parts["features"] = mean(gaps).detach()
            loss = loss + self.features * mean(gaps)
        return Loss(loss, parts)

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        levels = [*self._levels(x, rng)]
        rows = [self._watched(level, x.detach(), batch) for level in levels]
        fake, real = (torch.cat(logits, 1) for logits in zip(*(row[1:] for row in rows), strict=True))
        cost = mean([row[0] for row in rows])
        if self.anchor is not None:
            cost = cost + self.anchor(real, fake)
        loss = self.watch_weight * batch.mean(cost)
        if self.kind in SHIFTED:
            told = (real > fake).float().mean()
        else:
            told = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
        parts = {"gan": loss, "told_apart": told, "logit_gap": real.float().mean() - fake.float().mean()}
        return Loss(loss, {name: value.detach() for name, value in parts.items()})

    @torch.no_grad()
    def log_ratio(self, xt: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """log q / p [B], q the real samples' law and p the generated ones', as a logistic judge sees it: its logit."""
        with torch.autocast(xt.device.type, enabled=False):
            logits = torch.as_tensor(self.judge(self.look(xt, t, cond), t, cond))
        return logits.float().mean(1)

    def _watched(self, level: Level, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(what the judge pays [B], logits of generated, of real) at one level."""
        at, cond = self._at(x, batch), batch.cond
        fake, real = level.ask(x, cond), level.ask(batch.x, cond)
        cost = watch_loss(real, fake, self.kind, at)
        if self.mismatched and len(x) > 1:
            other = with_anothers(cond, self.swapped)
            cost = (cost + watch_loss(real, level.ask(batch.x, other), self.kind, at)) / 2
        for penalty in self.penalties:
            shown, logits = (batch.x, real) if penalty.of == "real" else (x, fake)
            cost = cost + penalty(lambda each: level.ask(each, cond), shown, logits, level.rng)
        return cost, fake, real

    def _levels(self, x: Tensor, rng: Rng) -> Iterator[Level]:
        for i in range(self.levels):
            place = self.name if i == 0 else f"{self.name}{i}"
            t = self.times(rng, len(x), x, f"{place}/t")
            yield Level(self, t, rng.normal(f"{place}/eps", x.shape, like=x), rng.at(turn=f"{rng.turn}/{place}"))

    def _at(self, x: Tensor, batch: Batch) -> Tensor | None:
        return None if self.where is None else self.where(x, batch)


def with_anothers(cond: Cond, names: Sequence[str] = ()) -> Cond:
    """Each sample with the conditions of the one before it: all, or those named, with their parts."""

    def swapped(part: str, value: Tensor) -> Tensor:
        return value.roll(1, 0) if not names or part.split(".")[0] in names else value

    fields, along = ({k: swapped(k, v) for k, v in some.items()} for some in (cond.fields, cond.along))
    return replace(cond, fields=fields, along=along)


def mean(values: Sequence[Tensor]) -> Tensor:
    """Of equally shaped tensors."""
    return torch.stack([*values]).mean(0)
