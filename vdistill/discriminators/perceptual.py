"""A perceptual distance of two samples as a regression loss: an ensemble over random changes done to both
(E-LatentLPIPS of Diffusion2GAN, Kang et al. 2024).

d(x, y) = E_A [ mean over layers and positions of | f(A x) / |f(A x)| - f(A y) / |f(A y)| |^2 ], f the features of a
look, A drawn anew. The paper's features are of a network trained to match people's judgements; these are not: they are
those of a frozen teacher, or of convolutions that were never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ..core.cond import Cond
from ..core.losses.regression import per_sample
from ..core.rng import Rng
from ..core.schedule import Schedule
from .augment import AUGMENTS, Augment, in_turn
from .look import Look

ENSEMBLE = in_turn(tuple(AUGMENTS.values()))
"""All changes there are, one after the other."""


class RandomFeatures(nn.Module):
    """A `Look` that needs no network: fixed convolutions of latents or pixels [B, C, T, H, W], a function of the seed.

    Features [B, N, C] after each of three layers, at full, half and quarter height and width, divided by `coarse`; T
    stays. Random weights see edges, textures and motion of neighbouring positions, and know nothing of meaning.
    """

    def __init__(self, channels: int, width: int = 32, seed: int = 0, coarse: int = 1) -> None:
        super().__init__()
        self.coarse = coarse
        sizes, rng = [channels, width, 2 * width, 4 * width], Rng(seed)
        self.widths = tuple(sizes[1:])
        for i in range(3):
            shape = (sizes[i + 1], sizes[i], 3, 3, 3)
            deviation = (2.0 / (sizes[i] * 27)) ** 0.5  # keeps the size of what goes through
            self.register_buffer(f"conv{i}", deviation * rng.normal(f"conv{i}", shape), persistent=False)
            self.register_buffer(f"bias{i}", rng.normal(f"bias{i}", shape[:1]), persistent=False)  # else 2 x looks as x

    def forward(self, xt: Tensor, t: Tensor, cond: Cond) -> Sequence[Tensor]:
        self.to(xt.device)
        h, found = xt.float(), []
        for i in range(3):
            stride = (1, self.coarse, self.coarse) if i == 0 else (1, 2, 2)
            kernel, bias = self.get_buffer(f"conv{i}"), self.get_buffer(f"bias{i}")
            h = leaky_relu(nn.functional.conv3d(h, kernel, bias, stride, 1), 0.2)
            found.append(h.flatten(2).transpose(1, 2))
        return found


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Of features [B, N, C] of several layers, each position's of length 1: squared difference, summed over channels,
    averaged over positions and layers; [B]."""
    return torch.stack([per_sample((_unit(f) - _unit(g)).square().sum(-1)) for f, g in zip(a, b, strict=True)]).mean(0)


def _unit(f: Tensor) -> Tensor:
    f = f.float()
    return f * (f.square().sum(-1, keepdim=True) + 1e-8).rsqrt()


@dataclass(frozen=True)
class Perceptual:
    """(x, target [B, C, T, H, W], cond, rng) -> distance [B]; a gradient reaches x alone.

    look: `RandomFeatures`, or `Taps` of a frozen teacher; time: the noise level both are brought to with one draw of
    noise, which a teacher's features want, on `schedule`; augment: changes done to both alike; draws: how many are
    averaged.
    """

    look: Look
    schedule: Schedule = field(default_factory=lambda: Schedule("rf"))
    time: float = 0.0
    augment: Augment = ENSEMBLE
    draws: int = 1
    name: str = "perceptual"

    def __call__(self, x: Tensor, target: Tensor, cond: Cond, rng: Rng) -> Tensor:
        costs = []
        for i in range(self.draws):
            at = rng.at(turn=f"{rng.turn}/{self.name}{i}")
            with torch.no_grad():
                want = self._features(target, cond, at)
            costs.append(feature_distance(self._features(x, cond, at), want))
        return torch.stack(costs).mean(0)

    def _features(self, x: Tensor, cond: Cond, at: Rng) -> Sequence[Tensor]:
        x = self.augment(x, at)
        t = torch.full((len(x),), self.time, dtype=torch.float64, device=x.device)
        if self.time:
            x = self.schedule.noise(x, at.normal("eps", x.shape, like=x), t)
        return self.look(x, t, cond)
