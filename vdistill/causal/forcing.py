"""Training a causal network from data, every block at a noise level of its own.

Teacher forcing: a block sees the clean ones before it, as it will when it streams (Causal Forcing, stage 1). Diffusion
forcing: it sees them as noisy as they are (Chen et al. 2024; CausVid). L = E w(t) |x0_hat(x_t, t, c) - x0|^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.drops import Table, dropped
from ..core.inputs import shared
from ..core.losses.regression import Weighting, weighted_x0
from ..core.rng import Rng
from ..core.sampling import at
from ..core.step import Batch, Loss, Shown, given_past
from ..core.times import LogitNormal, Shifted
from .attend import View
from .cache import Cache
from .layout import Layout
from .rollout import Plan, block_rng, make_block, part, remember
from .student import AfterClean, BlockCausal, block_times


@dataclass(frozen=True)
class ForcingConfig:
    """kind: what a block sees of those before it, clean ("teacher") or as noisy as they are ("diffusion").

    time_mean, time_std: of the logit-normal t before the schedule's shift; weighting, floor: as of flow training;
    drop: share of samples trained without the condition `name`; drops: instead, (conditions dropped together, share);
    context_noise: clean blocks are noised to a level drawn below this, so that a student forgives its own errors; own:
    share of the steps at which the clean blocks after a random one are the network's own, made at own_times as in a
    stream, so that it learns to go on truly from what it makes of the past (for data whose beginning says how it goes
    on); unit: latents to a position.
    """

    kind: Literal["teacher", "diffusion"] = "teacher"
    time_mean: float = 0.0
    time_std: float = 1.0
    floor: float = 0.05
    drop: float = 0.1
    weighting: Weighting = "flow"
    name: str = "text"
    context_noise: float = 0.0
    unit: int = 1
    own: float = 0.0
    own_times: tuple[float, ...] = (1.0, 0.8)
    drops: Table = ()

    @property
    def table(self) -> Table:
        """What is dropped in how many of the samples."""
        return self.drops or (((self.name,), self.drop),)


class Forcing:
    """One learner, "student". maker: makes the past that is the network's own; the network as it is, if not given;
    resampled: makes true pasts anew first (causal/resampled.py); else they are what the data says."""

    def __init__(
        self,
        cfg: ForcingConfig,
        layout: Layout,
        net: Denoiser,
        module: nn.Module,
        maker: Denoiser | None = None,
        resampled: Shown = given_past,
    ) -> None:
        self.cfg, self.layout, self.net, self.maker, self.resampled = cfg, layout, net, maker or net, resampled
        self.times = Shifted(LogitNormal(cfg.time_mean, cfg.time_std), net.schedule)
        self.learners: Mapping[str, nn.Module] = {"student": module}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        cfg, x, n = self.cfg, batch.x, len(batch)
        blocks = self.layout.blocks(x.shape[2] // cfg.unit)
        t = block_times(self.times(rng, n * (blocks[-1] + 1), x).unflatten(0, (n, -1)), blocks, cfg.unit)
        cond = dropped(batch.cond, cfg.table, rng.uniform("drop", (n,), like=x), asked=bool(cfg.drops))
        xt = self.net.schedule.noise(x, rng.normal("eps", x.shape, like=x), t)
        clean = self.resampled(self.maker, replace(batch, x=self.past(x, batch.cond, rng)), rng)
        guess = self.seeing(clean, rng).x0(xt, t, cond)
        return Loss(batch.mean(weighted_x0(guess, x, t, self.net.schedule, cfg.weighting, cfg.floor)))

    @torch.no_grad()
    def past(self, x: Tensor, cond: Cond, rng: Rng) -> Tensor:
        """Clean blocks as later ones see them: true, or true up to a random one and then made by the network itself."""
        cfg, length = self.cfg, x.shape[2] // self.cfg.unit
        spans = [*self.layout.spans(length)]
        if cfg.kind == "diffusion" or len(spans) < 3 or float(shared(rng).uniform("own", ())) >= cfg.own:
            return x
        plan, cache = Plan(self.layout, cfg.own_times, unit=cfg.unit), Cache(self.layout)
        first, made = 1 + shared(rng).integer("own/first", len(spans) - 2), []
        for number, (start, count) in enumerate(spans):
            here, ids = part(cond, plan, start, count), range(start, start + count)
            block = x.narrow(2, start * cfg.unit, count * cfg.unit)
            if number <= first:
                remember(self.maker, block, here, View(cache, ids), plan, block_rng(rng, start))
            else:
                noise = rng.normal(f"own/eps{number}", block.shape, like=x)
                block = make_block(self.maker, noise, here, cache, plan, rng, ids)
            made.append(block)
        return torch.cat(made, 2)

    def seeing(self, clean: Tensor, rng: Rng) -> Denoiser:
        """The network, each of whose blocks sees what came before it."""
        cfg = self.cfg
        if cfg.kind == "diffusion":
            return BlockCausal(self.net, self.layout, cfg.unit)
        level = cfg.context_noise * float(rng.uniform("context", ()))
        if level:
            clean = self.net.schedule.noise(clean, rng.normal("context/eps", clean.shape, like=clean), at(clean, level))
        return AfterClean(self.net, self.layout, clean, level, cfg.unit)
