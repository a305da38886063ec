"""One round of the game: time, noise and changes are drawn once for it, so that real and generated are shown alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from torch import Tensor

from ..core.cond import Cond
from ..core.errors import UserError
from ..core.losses.gan import Kind, watch_loss
from ..core.rng import Rng
from ..core.step import Loss

Side = Literal["real", "fake"]
SHIFTED: tuple[Kind, ...] = ("relativistic", "wgan")
"""Games in which only differences of logits count, so that 0 is no border."""


@dataclass(frozen=True)
class Seen:
    """Samples as a judge met them: x [B, C, T, ...], what was shown of them, its logits [B, N] of that."""

    x: Tensor
    shown: Sequence[Tensor]
    logits: Tensor


class Round(ABC):
    """What a judge is shown of samples, and what it says of that."""

    @abstractmethod
    def show(self, x: Tensor) -> Sequence[Tensor]:
        """Of samples [B, C, T, ...], as the judge takes it."""

    @abstractmethod
    def judge(self, shown: Sequence[Tensor]) -> Tensor:
        """Logits [B, N], without autocast: judges are small, and differences of logits are what counts."""

    def ask(self, x: Tensor) -> Seen:
        """Samples, shown and judged."""
        shown = self.show(x)
        return Seen(x, shown, self.judge(shown))


class Penalty(Protocol):
    """Added to the judge's loss, of real samples or of generated ones."""

    @property
    def of(self) -> Side: ...

    def __call__(self, here: Round, seen: Seen, rng: Rng) -> Tensor:
        """[B]; seen: the samples as the judge met them in this round."""


def watched(
    here: Round, fake: Tensor, real: Tensor, kind: Kind, penalties: Sequence[Penalty], rng: Rng,
    at: Tensor | None = None, other: Round | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(what the judge pays [B], logits of generated, of real). at: weights of the logits; other: the same round with
    conditions of other samples, in which real ones count as generated."""
    said, told = here.ask(fake), here.ask(real)
    cost = watch_loss(told.logits, said.logits, kind, at)
    if other is not None:
        cost = (cost + watch_loss(told.logits, other.ask(real).logits, kind, at)) / 2
    for penalty in penalties:
        cost = cost + penalty(here, told if penalty.of == "real" else said, rng)
    return cost, said.logits, told.logits


def watch_report(loss: Tensor, fake: Tensor, real: Tensor, kind: Kind) -> Loss:
    """The judge's loss with the numbers of the log: told_apart, the share it gets right, and logit_gap."""
    if kind in SHIFTED:
        right = (real > fake).float().mean()
    else:
        right = ((real > 0).float().mean() + (fake < 0).float().mean()) / 2
    gap = real.float().mean() - fake.float().mean()
    return Loss(loss, {"gan": loss.detach(), "told_apart": right.detach(), "logit_gap": gap.detach()})


def with_anothers(cond: Cond, names: Sequence[str] = ()) -> Cond:
    """Each sample with the conditions of the one before it: all, or those named, with their parts. UserError for a
    sample that is alone."""

    def swapped(part: str, value: Tensor) -> Tensor:
        if len(value) < 2:
            said = "one clip has no other clip's conditions"
            raise UserError(said, "method.judge.mismatched", "say train.batch: 2 or more")
        return value.roll(1, 0) if not names or part.split(".")[0] in names else value

    fields, along = ({k: swapped(k, v) for k, v in some.items()} for some in (cond.fields, cond.along))
    return replace(cond, fields=fields, along=along)
