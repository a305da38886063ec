"""What the contract asks of every published family, and the tiny pipelines of the same classes it is asked of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vdistill.app.catalog import PIPELINES
from vdistill.app.generate import guided
from vdistill.app.models import random_model
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.families.random_tiny import CALLS, TINY_CALLS, VARIANTS, random_tiny
from vdistill.families.stock import StockFamily
from vdistill.families.stock_sampler import sample_stock

CLOSE = 1e-5  # largest difference, in units of the largest latent where that is above 1


@lru_cache
def family_name(variant: str) -> str | None:
    return PIPELINES.get(type(random_tiny(variant)).__name__)


REGISTERED = [v for v in VARIANTS if family_name(v)]


@dataclass(frozen=True)
class Case:
    """A tiny teacher with one caption, one picture where it starts from one, and the call its pipeline is given."""

    variant: str
    family: StockFamily
    call: dict[str, Any]
    shape: tuple[int, int, int, int]
    text: Cond
    image: Tensor | None = None

    @property
    def scale(self) -> float:
        return float(self.call.get("guidance_scale") or 6.0)

    def begun(self, seed: int = 0) -> tuple[Tensor, Cond, torch.Generator]:
        """First noise and conditions as the pipeline draws them from one generator, which goes on from there."""
        generator, cond = torch.Generator().manual_seed(seed), self.text
        if self.image is not None:
            for field, value in self.family.from_image(self.image, self.shape, generator).items():
                cond = cond.with_field(field, value)
        return self.family.noise(self.shape, generator), cond, generator

    def noise(self, seed: int = 0) -> Tensor:
        return self.begun(seed)[0]

    @property
    def cond(self) -> Cond:
        return self.begun()[1]

    def stock(self, steps: int, seed: int = 0, **other: Any) -> Tensor:
        """What the stock pipeline makes."""
        draws = torch.Generator().manual_seed(seed)
        call = self.call | other | {"num_inference_steps": steps, "generator": draws, "return_dict": False}
        made = self.family.pipe(**call)[0]
        return torch.as_tensor(np.asarray(made)) if not isinstance(made, Tensor) else made

    def ours(self, steps: int, seed: int = 0, net: Denoiser | None = None) -> Tensor:
        """The same by our loop, [1, C, T, H, W]."""

        def at(step: int, timestep: float, count: int) -> Denoiser:
            return guided(self.family, net or self.family.net, self.family.scale_at(self.scale, timestep, count))

        noise, cond, generator = self.begun(seed)
        return sample_stock(self.family, at, noise, cond, steps, generator)


def case(variant: str, seed: int = 0) -> Case:
    name = family_name(variant)
    assert name is not None
    family = random_model(variant, name, seed, torch.float32, "")
    asked, call = TINY_CALLS[variant], dict(CALLS[variant])
    height, width = asked.height or 64, asked.width or 64
    shape = family.codec.shape(asked.frames or 1, height, width)
    if "guidance_scale_2" in call:
        family.scale_2 = call["guidance_scale_2"]  # type: ignore[attr-defined]
    caption = asked.prompt if asked.prompt is not None else str(call["class_labels"][0])
    image = None
    if "image" in call:
        image = torch.from_numpy(np.array(call["image"])).permute(2, 0, 1)[None].float() / 127.5 - 1
    return Case(variant, family, call, shape, family.text([caption]), image)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest value where that is above 1."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1))
