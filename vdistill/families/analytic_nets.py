"""Small trainable networks on the exact laws' samples: students, critics and even teachers of the analytic benches.

Each is a raw network (x, t, cond, attend) -> prediction; `Net(network, schedule, predicts)` makes it a Denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Net
from ..core.errors import UserError
from ..core.schedule import Predicts, Schedule, spread
from .analytic import LABEL

GUIDANCE = "guidance"


class Affine(nn.Module):
    """G(z) = a z + b, elementwise, with its own a and b for each of a few times: predicts x0. The nearest time serves.

    shape: of a sample, (C, T, ...); classes: how many labels (with that for none) b distinguishes, 0 for none.
    guidance: adds (s - 1) g to b, s the scale in Cond field "guidance". Starts at a = `scale`, b = 0.
    """

    def __init__(
        self, shape: Sequence[int], times: Sequence[float], classes: int = 0, guidance: bool = False, scale: float = 1.0
    ) -> None:
        super().__init__()
        if not times:
            raise UserError("needs at least one time", "affine.times")
        rows = (len(times), max(classes, 1), *shape)
        self.times: Tensor
        self.register_buffer("times", torch.tensor(times, dtype=torch.float64))
        self.a = nn.Parameter(torch.full((len(times), *shape), scale))
        self.b = nn.Parameter(torch.zeros(rows))
        self.g = nn.Parameter(torch.zeros(rows)) if guidance else None
        self.classes = classes

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        """x: [B, *shape]; t: [B]."""
        place = (t.to(torch.float64).expand(len(x))[:, None] - self.times).abs().argmin(1)
        label = cond.fields[LABEL] if self.classes else torch.zeros_like(place)
        shift = self.b[place, label]
        if self.g is not None and GUIDANCE in cond.fields:
            shift = shift + spread(cond.fields[GUIDANCE].to(x.dtype) - 1, x) * self.g[place, label]
        return self.a[place] * x + shift


class Bell(nn.Module):
    """The exact x0 of a Gaussian of learned mean and log std: a critic that can be right at every t. Predicts x0."""

    def __init__(self, shape: Sequence[int], schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.mean, self.log_std = nn.Parameter(torch.zeros(tuple(shape))), nn.Parameter(torch.zeros(tuple(shape)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        """x: [B, *shape]; t: [B] or [B, T]."""
        alpha, sigma = (spread(v, x).to(x.dtype) for v in self.schedule.alpha_sigma(t))
        var = (2 * self.log_std).exp()
        return self.mean + alpha * var / (alpha**2 * var + sigma**2) * (x - alpha * self.mean)


class Mlp(nn.Module):
    """Three SiLU layers on the flattened sample, waves of t, and, where asked for, a label and a guidance scale.

    classes: as in `Affine`; guidance: reads Cond field "guidance" [B], 1 without it; changes
    nothing at birth. Taps: after each hidden layer.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int = 0,
        guidance: bool = False,
        width: int = 64,
        depth: int = 3,
        waves: int = 4,
    ) -> None:
        super().__init__()
        self.shape, self.waves = tuple(shape), waves
        size = math.prod(self.shape)
        self.label = nn.Embedding(classes, width) if classes else None
        self.guidance = nn.Linear(1, width, bias=False) if guidance else None
        if self.guidance is not None:
            nn.init.zeros_(self.guidance.weight)
        sizes = [size + 1 + 2 * waves, *[width] * depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.out = nn.Linear(width, size)

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        """x: [B, *shape]; t: [B]."""
        return self.out(self._features(x, t, cond)[-1]).view(x.shape)

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        """Features [B, 1, width] after the hidden layers asked for."""
        if not all(0 <= layer < len(self.hidden) for layer in layers):
            raise UserError(f"layers {list(layers)} asked for, the network has 0..{len(self.hidden) - 1}", "taps")
        found = self._features(x, t, cond)
        return [found[layer][:, None] for layer in layers]

    def _features(self, x: Tensor, t: Tensor, cond: Cond) -> list[Tensor]:
        time = t.to(torch.float64).expand(len(x))[:, None]
        phase = math.pi * time * torch.arange(1, self.waves + 1, device=x.device)
        inputs = torch.cat([x.flatten(1), torch.cat([time, phase.sin(), phase.cos()], 1).to(x.dtype)], 1)
        extra = torch.zeros((), device=x.device, dtype=x.dtype)
        if self.label is not None:
            extra = extra + self.label(cond.fields[LABEL])
        if self.guidance is not None and GUIDANCE in cond.fields:
            extra = extra + self.guidance(cond.fields[GUIDANCE].to(x.dtype)[:, None] - 1)
        features, h = [], inputs
        for number, layer in enumerate(self.hidden):
            h = nn.functional.silu(layer(h) + (extra if number == 0 else 0))
            features.append(h)
        return features


def mlp(
    shape: Sequence[int],
    schedule: Schedule,
    predicts: Predicts = "flow",
    classes: int = 0,
    guidance: bool = False,
    seed: int = 0,
) -> Net:
    """A new `Mlp` as a Denoiser, its weights a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(Mlp(shape, classes, guidance), schedule, predicts)
