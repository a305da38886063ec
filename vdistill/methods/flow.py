"""Flow / diffusion training: makes teachers. L = E w(t) |x0_hat(x_t, t, c) - x0|^2, conditions dropped at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..core.denoiser import Net
from ..core.rng import Rng
from ..core.schedule import spread
from ..core.step import Batch, Loss


@dataclass(frozen=True)
class FlowConfig:
    """time_mean, time_std: of the logit-normal t before the schedule's shift (Esser et al. 2024); floor: smallest t in
    the weight 1 / t^2, which makes the x0 error a velocity error (Lipman et al. 2023); drop: caption dropout."""

    time_mean: float = 0.0
    time_std: float = 1.0
    floor: float = 0.05
    drop: float = 0.1


class Flow:
    """One learner, "student": the network being trained from data."""

    def __init__(self, cfg: FlowConfig, net: Net) -> None:
        self.cfg, self.net = cfg, net
        self.learners: Mapping[str, nn.Module] = {"student": net}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("student",)

    def loss(self, learner: str, batch: Batch, rng: Rng) -> Loss:
        x, n, cfg = batch.x, len(batch), self.cfg
        raw = torch.sigmoid(cfg.time_mean + cfg.time_std * rng.normal("t", (n,)).to(x.device, torch.float64))
        t = self.net.schedule.warp(raw)
        cond = batch.cond
        if "text" in cond.null:
            cond = cond.drop_where("text", rng.uniform("drop", (n,), like=x) < cfg.drop)
        xt = self.net.schedule.noise(x, rng.normal("eps", x.shape, like=x), t)
        error = (self.net.x0(xt, t, cond) - x) / spread(t.clamp_min(cfg.floor), x).to(x.dtype)
        return Loss(batch.mean(error.square().flatten(1).mean(1)))
