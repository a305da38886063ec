"""What a folder's scheduler says: the noise path, what the network predicts, and which number it is told for a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.schedule import Betas, Predicts, Schedule

PREDICTS: dict[str, Predicts] = {
    "sample": "x0",
    "epsilon": "eps",
    "v_prediction": "v",
    "flow_prediction": "flow",
}
BETAS: dict[str, Betas] = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
FLOW = ("FlowMatch", "FlowMap")  # schedulers by these names know no other path


@dataclass(frozen=True)
class Clock:
    """schedule: the path, with the time shift of grids; predicts: of the network; steps: training timesteps."""

    schedule: Schedule
    predicts: Predicts
    steps: int = 1000

    def told(self, t: Tensor) -> Tensor:
        """Times t in [0, 1] -> the timesteps the network was trained with, float32: N t for flows, N t - 1 for vp."""
        scaled = self.steps * t.to(torch.float64)
        return (scaled if self.schedule.kind == "rf" else (scaled - 1).clamp_min(0)).to(torch.float32)

    def time(self, timestep: Tensor) -> Tensor:
        """Timesteps -> t in [0, 1], float64: the inverse of `told`."""
        given = timestep.to(torch.float64)
        return (given if self.schedule.kind == "rf" else given + 1) / self.steps


def clock_of(scheduler: Any) -> Clock:
    """The clock of a diffusers scheduler. UserError for one whose path cannot be said exactly."""
    config, kind = scheduler.config, type(scheduler).__name__
    steps = int(config.get("num_train_timesteps", 1000))
    if kind == "FewStepScheduler":
        return Clock(scheduler.path, PREDICTS[config.prediction_type], steps)
    if kind.startswith(FLOW) or config.get("use_flow_sigmas"):
        predicts = "flow_prediction" if kind.startswith(FLOW) else config.get("prediction_type", "flow_prediction")
        return Clock(Schedule("rf", shift=shift_of(config)), _predicts(predicts, kind), steps)
    if config.get("beta_schedule") is None:
        raise UserError(f"{kind} states neither betas nor flow sigmas", "scheduler", "use the one the model came with")
    clock = Clock(_betas(config, kind, steps), _predicts(config.get("prediction_type", "epsilon"), kind), steps)
    _agrees(clock.schedule, scheduler, kind)
    return clock


def shift_of(config: Mapping[str, Any], tokens: int | None = None) -> float:
    """The time shift k of t -> k t / (1 + (k - 1) t). tokens: of a sample, for schedulers whose shift follows its size
    (mu is linear in it; k = exp(mu) for exponential shifts, mu for linear ones)."""
    if not config.get("use_dynamic_shifting"):
        return float(config.get("flow_shift", config.get("shift", 1.0)))
    mu = mu_for(config, config.get("base_image_seq_len", 256) if tokens is None else tokens)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def mu_for(config: Mapping[str, Any], tokens: int) -> float:
    """mu of a sample of so many tokens: linear between a base and a largest number of them."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (top - base) / (high - low)
    return float(tokens * slope + (base - slope * low))


def _predicts(name: str, kind: str) -> Predicts:
    if name not in PREDICTS:
        raise UserError(f"{kind} with prediction_type {name!r}; known are {', '.join(PREDICTS)}", "scheduler")
    return PREDICTS[name]


def _betas(config: Mapping[str, Any], kind: str, steps: int) -> Schedule:
    name = config["beta_schedule"]
    if config.get("trained_betas") is not None or name not in BETAS:
        found = "betas of its own" if config.get("trained_betas") is not None else f"beta_schedule {name!r}"
        raise UserError(f"{kind} has {found}; known are {', '.join(BETAS)}", "scheduler")
    return Schedule(
        "vp",
        betas=BETAS[name],
        beta_start=float(config["beta_start"]),
        beta_end=float(config["beta_end"]),
        train_steps=steps,
        zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
        snr_shift=float(config.get("snr_shift_scale", 1.0)),
    )


def _agrees(schedule: Schedule, scheduler: Any, kind: str) -> None:
    theirs = getattr(scheduler, "alphas_cumprod", None)
    if theirs is None:
        return
    steps = schedule.train_steps
    ours = schedule.alpha_sigma(torch.arange(1, steps + 1, dtype=torch.float64) / steps)[0]
    worst = float((ours - theirs.double().cpu().clamp_min(0).sqrt()).abs().max())
    if worst > 1e-3:
        raise UserError(f"the noise levels of {kind} differ from its own config by up to {worst:.3g}", "scheduler")
