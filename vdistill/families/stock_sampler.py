"""A teacher sampled by the scheduler of its own folder: the loop of its stock pipeline, around any denoiser of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from .stock import StockFamily

At = Callable[[int, float, int], Denoiser]
"""(step, timestep, steps) -> the denoiser of that step: guidance may change on the way."""


@torch.no_grad()
def sample_stock(
    family: StockFamily,
    at: At,
    noise: Tensor,
    cond: Cond,
    steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Tensor:
    """Clean latents [B, C, T, H, W] from first noise of that shape.

    generator: of the draws of schedulers that make some. The estimate goes to x0 and back to what the scheduler
    expects; the two conversions cancel whatever the scheduler rounds its timesteps to.
    """
    scheduler, clock, shape = family.pipe.scheduler, family.clock, noise.shape[1:]
    family.set_timesteps(scheduler, steps, tuple(shape), noise.device)
    z, memory = family.pack(noise) * getattr(scheduler, "init_noise_sigma", 1.0), dict[str, Any]()
    for i, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(z, timestep) if hasattr(scheduler, "scale_model_input") else z
        x = family.unpack(scaled, shape)
        t = clock.time(timestep).to(x.device).expand(len(x))
        x0 = at(i, float(timestep), steps).x0(x, t, cond)
        prediction = family.pack(clock.schedule.prediction(x0, x, t, clock.predicts))
        z = family.advance(scheduler, prediction, i, z, generator, memory)
    return family.finish(family.unpack(z, shape), cond)
