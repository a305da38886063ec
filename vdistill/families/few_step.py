"""The scheduler an exported student carries: its trained times, wherever and however it is called.

Pipelines call set_timesteps(n) and step(); n is ignored, because a few-step student is right at its own times only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from ..core.rng import Rng
from ..core.schedule import Schedule
from .clock import BETAS, PREDICTS, Clock


def source_of(noise: Tensor) -> Rng:
    """A source of further draws that is a function of one sample's first noise."""
    code = hashlib.blake2b(noise.detach().cpu().float().contiguous().numpy().tobytes(), digest_size=7).digest()
    return Rng(int.from_bytes(code, "little"))


class Straight(tuple[float, ...]):
    """Times of a student whose steps go straight on, without fresh noise: those of progressive distillation."""


class FewStepScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Few-step sampling at fixed `times` (descending, in (0, 1]), on the rectified-flow path or, where a beta_schedule
    is given, on the variance-preserving one.

    stochastic: predict, then renoise to the next time (LCM, DMD2); otherwise a deterministic step. A sample's draws
    are a function of its first noise, because some pipelines pass no generator on: so the same first noise gives the
    same result in any pipeline and any batch.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        times: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
        prediction_type: str = "sample",
        stochastic: bool = True,
        shift: float = 1.0,
        num_train_timesteps: int = 1000,
        beta_schedule: str | None = None,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        rescale_betas_zero_snr: bool = False,
        snr_shift_scale: float = 1.0,
    ) -> None:
        self.init_noise_sigma = 1.0
        self.set_timesteps()

    @classmethod
    def of(cls, path: Schedule, times: Sequence[float], prediction_type: str, train_steps: int) -> FewStepScheduler:
        """The scheduler of a student trained at `times` on `path`; `Straight` ones are walked without fresh noise."""
        given = {"times": list(times), "prediction_type": prediction_type, "num_train_timesteps": train_steps}
        given["stochastic"] = not isinstance(times, Straight)
        if path.kind == "rf":
            return cls(**given, shift=path.shift)  # type: ignore[arg-type]
        return cls(
            **given,  # type: ignore[arg-type]
            beta_schedule=next(k for k, v in BETAS.items() if v == path.betas),
            beta_start=path.beta_start,
            beta_end=path.beta_end,
            rescale_betas_zero_snr=path.zero_snr,
            snr_shift_scale=path.snr_shift,
        )

    @property
    def trained(self) -> tuple[float, ...]:
        """The times it was made of, `Straight` where it walks so."""
        return (tuple if self.config.stochastic else Straight)(map(float, self.config.times))

    @property
    def path(self) -> Schedule:
        """The noise path it walks."""
        c = self.config
        if c.beta_schedule is None:
            return Schedule("rf", shift=c.shift)
        return Schedule(
            "vp", betas=BETAS[c.beta_schedule], beta_start=c.beta_start, beta_end=c.beta_end,
            train_steps=c.num_train_timesteps, zero_snr=c.rescale_betas_zero_snr, snr_shift=c.snr_shift_scale,
        )  # fmt: skip

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """The trained times, whatever is asked for."""
        self.times = [*map(float, self.config.times), 0.0]
        self.num_inference_steps, self.place = len(self.times) - 1, 0
        self.sources: list[Rng] = []
        clock = Clock(self.path, PREDICTS[self.config.prediction_type], self.config.num_train_timesteps)
        self.timesteps = clock.told(torch.tensor(self.times[:-1], dtype=torch.float64)).to(device)
        self.sigmas = torch.tensor(self.times, dtype=torch.float32, device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Pipelines that start in the middle say where."""
        self.place = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """One step of the trained schedule: (the next sample, the clean estimate)."""
        path = self.path
        now, then = (
            torch.full((len(sample),), v, dtype=torch.float64, device=sample.device)
            for v in self.times[self.place : self.place + 2]
        )
        clean = path.x0(model_output, sample, now, PREDICTS[self.config.prediction_type])
        if self.place == 0:
            self.sources = [source_of(noise) for noise in sample]
        self.place += 1
        if self.place == self.num_inference_steps:
            moved = clean
        elif self.config.stochastic:
            draw = torch.stack([s.normal(f"z/{self.place}", sample.shape[1:], like=sample) for s in self.sources])
            moved = path.noise(clean, draw, then)
        else:
            moved = path.step(clean, sample, now, then)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved, clean)
