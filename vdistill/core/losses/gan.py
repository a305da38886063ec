"""Adversarial losses on logits, positive meaning real. Each is averaged over positions, then over heads, per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from ..errors import UserError
from .regression import per_sample

Kind = Literal["ns", "minimax", "hinge", "lsgan", "wgan", "relativistic"]
Logits = Tensor | Sequence[Tensor]
"""[B, N], or one such tensor per head."""
Elementwise = Callable[[Tensor, Tensor], Tensor]
"""(real, fake) logits -> loss of the same shape."""


@dataclass(frozen=True)
class Game:
    """student: what the maker of fakes minimises; watch: what the discriminator minimises; paired: whether the
    student's loss looks at real logits too."""

    student: Elementwise
    watch: Elementwise
    paired: bool = False


def _logistic(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(fake) + softplus(-real)


GAMES: dict[Kind, Game] = {
    # non-saturating (Goodfellow et al. 2014; DMD2): at the optimal logit log r the matching loss with h = 1 / (1 + r)
    "ns": Game(lambda real, fake: softplus(-fake), _logistic),
    # at the optimal logit the matching loss with h = r / (1 + r)
    "minimax": Game(lambda real, fake: -softplus(fake), _logistic),
    "hinge": Game(lambda real, fake: -fake, lambda real, fake: relu(1 - real) + relu(1 + fake)),
    "lsgan": Game(
        lambda real, fake: (torch.sigmoid(fake) - 1).square(),
        lambda real, fake: 0.5 * ((torch.sigmoid(real) - 1).square() + torch.sigmoid(fake).square()),
    ),
    "wgan": Game(lambda real, fake: -fake, lambda real, fake: fake - real),
    "relativistic": Game(lambda real, fake: softplus(real - fake), lambda real, fake: softplus(fake - real), True),
}


def game(kind: Kind) -> Game:
    """The losses of a kind. UserError, naming the known, for another."""
    if kind not in GAMES:
        raise UserError(f"adversarial loss {kind!r}; known: {', '.join(GAMES)}", "gan.kind")
    return GAMES[kind]


def _over_heads(loss: Elementwise, real: Logits, fake: Logits) -> Tensor:
    reals, fakes = ([x] if isinstance(x, Tensor) else list(x) for x in (real, fake))
    return torch.stack([per_sample(loss(r, f)) for r, f in zip(reals, fakes, strict=True)]).mean(0)


def student_loss(fake: Logits, real: Logits | None = None, kind: Kind = "ns") -> Tensor:
    """What the student pays for its fakes [B]; `real` is for relativistic games only (ValueError without it there)."""
    rules = game(kind)
    if rules.paired and real is None:
        raise ValueError(f"a {kind} student loss compares with real logits: give them")
    return _over_heads(rules.student, real if rules.paired and real is not None else fake, fake)


def watch_loss(real: Logits, fake: Logits, kind: Kind = "ns") -> Tensor:
    """What the discriminator pays [B], real and fake in pairs of the batch."""
    return _over_heads(game(kind).watch, real, fake)


def approximate_r1(logits: Logits, disturbed: Logits) -> Tensor:
    """|D(x) - D(x + s n)|^2 [B], n standard normal: about s^2 |grad D|^2, no second backward (Lin et al. 2025)."""
    return _over_heads(lambda a, b: (a - b).square(), logits, disturbed)
