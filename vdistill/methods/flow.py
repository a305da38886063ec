"""Flow / diffusion training: makes teachers. L = E w(t) |x0_hat(x_t, t, c) - x0|^2, conditions dropped at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from ..core.begin import Begin
from ..core.denoiser import Denoiser
from ..core.drops import Table, dropped
from ..core.losses.regression import Weighting, position_weights, weighted_x0
from ..core.rng import Rng
from ..core.step import Batch, Loss, Term
from ..core.times import LogitNormal, Shifted


@dataclass(frozen=True)
class FlowConfig:
    """time_mean, time_std: of the logit-normal t before the schedule's shift (Esser et al. 2024); weighting: whose
    squared error is minimised, "flow" the velocity's (Lipman et al. 2023); floor: of its weight; drop: share of
    samples trained without the condition `name`; drops: instead, (conditions dropped together, share of samples), which
    exclude each other; regions: name -> how much more an error counts there; begin: samples whose first positions are
    known, if any."""

    time_mean: float = 0.0
    time_std: float = 1.0
    floor: float = 0.05
    drop: float = 0.1
    weighting: Weighting = "flow"
    name: str = "text"
    drops: Table = ()
    regions: Mapping[str, float] = field(default_factory=dict)
    begin: Begin | None = None

    @property
    def table(self) -> Table:
        """What is dropped in how many of the samples."""
        return self.drops or (((self.name,), self.drop),)


class Flow:
    """One learner, "student": the network being trained from data. terms: of its estimate, under the conditions it was
    asked with; they have no modules of their own."""

    def __init__(self, cfg: FlowConfig, net: Denoiser, module: nn.Module, terms: Sequence[Term] = ()) -> None:
        self.cfg, self.net, self.terms = cfg, net, terms
        self.times = Shifted(LogitNormal(cfg.time_mean, cfg.time_std), net.schedule)
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        x, n, cfg = batch.x, len(batch), self.cfg
        t = self.times(rng, n, x)
        cond = dropped(batch.cond, cfg.table, rng.uniform("drop", (n,), like=x), asked=bool(cfg.drops))
        xt = self.net.schedule.noise(x, rng.normal("eps", x.shape, like=x), t)
        where = position_weights(batch.regions, cfg.regions)
        if cfg.begin is not None:
            xt, t, rest = cfg.begin(x, xt, t, self.net.schedule, rng)
            where = rest if where is None else where * rest
        guess = self.net.x0(xt, t, cond)
        loss = Loss(batch.mean(weighted_x0(guess, x, t, self.net.schedule, cfg.weighting, cfg.floor, where)))
        for term in self.terms:
            loss = loss + term.student(guess, replace(batch, cond=cond), rng)
        return loss
