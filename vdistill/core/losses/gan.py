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


def _over_heads(loss: Elementwise, real: Logits, fake: Logits, at: Logits | None = None) -> Tensor:
    reals, fakes = _listed(real), _listed(fake)
    weights = [None] * len(reals) if at is None else _listed(at)
    rows = zip(reals, fakes, weights, strict=True)
    return torch.stack([_mean(loss(r, f), w) for r, f, w in rows]).mean(0)


def _listed(logits: Logits) -> list[Tensor]:
    return [logits] if isinstance(logits, Tensor) else list(logits)


def _mean(values: Tensor, at: Tensor | None) -> Tensor:
    """Mean over positions [B], under weights [B, N] where there are any; 0 for a sample that weighs nothing."""
    if at is None:
        return per_sample(values)
    return (values * at).sum(1) / at.sum(1).clamp_min(torch.finfo(at.dtype).tiny)


def student_loss(fake: Logits, real: Logits | None = None, kind: Kind = "ns", at: Logits | None = None) -> Tensor:
    """What the student pays for its fakes [B]; `real` is for relativistic games only (ValueError without it there).

    at: weights >= 0 of the positions, as the logits: a mask of a region, a window of a long rollout.
    """
    rules = game(kind)
    if rules.paired and real is None:
        raise ValueError(f"a {kind} student loss compares with real logits: give them")
    return _over_heads(rules.student, real if rules.paired and real is not None else fake, fake, at)


def watch_loss(real: Logits, fake: Logits, kind: Kind = "ns", at: Logits | None = None) -> Tensor:
    """What the discriminator pays [B], real and fake in pairs of the batch; at: as in `student_loss`."""
    return _over_heads(game(kind).watch, real, fake, at)


def approximate_r1(logits: Logits, disturbed: Logits) -> Tensor:
    """|D(x) - D(x + s n)|^2 [B], n standard normal: about s^2 |grad D|^2, no second backward (Lin et al. 2025)."""
    return _over_heads(lambda a, b: (a - b).square(), logits, disturbed)


def exact_r1(logits: Tensor, x: Tensor) -> Tensor:
    """|grad_x D(x)|^2 [B], D the mean logit of a sample (Mescheder et al. 2018); its gradient is a second backward.

    x: what the logits [B, N] were computed of; it must require a gradient.
    """
    (slope,) = torch.autograd.grad(per_sample(logits).sum(), x, create_graph=True)
    return slope.to(torch.promote_types(slope.dtype, torch.float32)).flatten(1).square().sum(1)


def lecam(real: Logits, fake: Logits, usual_real: Tensor, usual_fake: Tensor) -> Tensor:
    """|D(real) - usual D(fake)|^2 + |D(fake) - usual D(real)|^2 [B] (Tseng et al. 2021): keeps a judge of few samples
    from running away. usual: averages over past batches, without a graph."""
    return _over_heads(lambda r, f: (r - usual_fake).square() + (f - usual_real).square(), real, fake)


def feature_gap(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Feature matching (Salimans et al. 2016), one number: how far the batch means of features [B, N, C] lie apart,
    squared, in units of the real features' variance, averaged over channels and layers."""

    def gap(r: Tensor, f: Tensor) -> Tensor:
        r, f = r.float().flatten(0, 1), f.float().flatten(0, 1)
        return ((r.mean(0) - f.mean(0)).square() / (r.var(0, unbiased=False) + 1e-6)).mean()

    return torch.stack([gap(r, f) for r, f in zip(real, fake, strict=True)]).mean()
