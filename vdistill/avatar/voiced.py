"""Who speaks when: frames of sound that are loud enough to be speech."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from .rates import SAMPLES, whole_frames


@dataclass(frozen=True)
class Voiced:
    """floor: root mean square of a frame, in dB of full scale, above which it is heard; hold: frames that speech lasts
    after its last loud frame; lead: frames it begins before the first (0 for live sound)."""

    floor: float = -45.0
    hold: int = 5
    lead: int = 0

    def __call__(self, sound: Tensor) -> Tensor:
        """sound [..., samples] in [-1, 1] -> bool [..., T], T whole frames."""
        frames = whole_frames(sound.shape[-1])
        power = sound[..., : SAMPLES * frames].float().unflatten(-1, (frames, SAMPLES)).square().mean(-1)
        loud = (power > 10 ** (self.floor / 10)).float().reshape(-1, 1, frames)
        spread = max_pool1d(pad(loud, (self.hold, self.lead)), self.hold + self.lead + 1, 1)
        return torch.unflatten(spread.flatten(), 0, power.shape).bool()
