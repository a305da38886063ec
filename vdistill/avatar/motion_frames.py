"""Frames of the past that the next chunk goes on from, damaged as a student's own would be, so that errors do not pile.

A share of the pixels is blanked (Hallo3 blanks 10 to 25 %), and noise of lognormal strength is added.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UserError
from ..core.rng import Rng


@dataclass(frozen=True)
class MotionFrames:
    """blank: least and largest share of pixels set to 0; log_mean, log_std: of the noise's standard deviation, in
    units of x; share: of samples that are damaged at all."""

    blank: tuple[float, float] = (0.1, 0.25)
    log_mean: float = -3.0
    log_std: float = 0.5
    share: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.blank
        if not 0 <= low <= high < 1 or self.log_std < 0 or not 0 <= self.share <= 1:
            what = f"blank {self.blank}, log_std {self.log_std}, share {self.share}"
            raise UserError(what, "motion frames", "0 <= blank < 1, log_std at least 0, share from 0 to 1")

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        """x [B, C, m, H, W]: pixels in [-1, 1] or latents, where 0 is grey. All channels of a pixel go together."""
        one = (len(x), 1, 1, 1, 1)
        ratio = rng.uniform("motion/ratio", one, *self.blank, like=x)
        kept = rng.uniform("motion/blank", (len(x), 1, *x.shape[2:]), like=x) >= ratio
        strength = (rng.normal("motion/strength", one, x) * self.log_std + self.log_mean).exp()
        damaged = (x + strength * rng.normal("motion/noise", x.shape, x)) * kept
        chosen = (rng.uniform("motion/chosen", one, like=x) < self.share).to(x.dtype)
        return x + (damaged - x) * chosen
