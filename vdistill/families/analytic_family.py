"""The `analytic` family: an exact law as teacher, a small network as student, and their samples as data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..core.cond import Cond
from ..core.denoiser import Net
from ..core.rng import Rng
from ..core.schedule import Schedule
from ..core.step import Batch
from .analytic import Classes, Exact, ar1, gaussian
from .analytic_mixture import mixture
from .analytic_nets import Mlp

CLASSES = 4


def law(target: str, schedule: Schedule) -> Exact:
    """The law called gaussian, mixture, ar1 or classes."""
    if target == "gaussian":
        return gaussian(schedule)
    if target == "ar1":
        return ar1(schedule, 8)
    if target == "classes":
        angle = torch.arange(CLASSES, dtype=torch.float64) * 2 * torch.pi / CLASSES
        means = torch.stack([angle.cos(), angle.sin()], 1)
        return Classes(schedule, torch.cat([means, torch.zeros(1, 2, dtype=torch.float64)])[..., None], 0.3)
    return mixture(schedule)


class AnalyticFamily:
    """`teacher` answers exactly; `net` is the untrained student beside it. condition: the name guidance may drop."""

    name = "analytic"
    lora_targets = ("out",)

    def __init__(self, target: str, schedule: Schedule, hidden: int, layers: int, seed: int = 0) -> None:
        self.target, self.schedule, self.teacher = target, schedule, law(target, schedule)
        self.labelled = isinstance(self.teacher, Classes)
        self._size = (hidden, layers)
        self.net = self.network(seed)

    def network(self, seed: int, guidance: bool = False) -> Net:
        """A new network of the family's size, its weights a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width, depth = self._size
            classes = CLASSES + 1 if self.labelled else 0
            return Net(Mlp(self.teacher.shape, classes, guidance, width, depth), self.schedule, "flow")

    def save(self, net: Net, folder: Path, times: Sequence[float] | None = None) -> None:
        """Weights as safetensors, and what they are of as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
        about = {"family": "analytic", "target": self.target, "schedule": self.schedule.kind, "times": times}
        (folder / "analytic.json").write_text(json.dumps(about, indent=1))


@dataclass(frozen=True)
class AnalyticSource:
    """(step, global micro-batch) -> Batch of exact samples."""

    family: AnalyticFamily
    batch: int
    seed: int = 0

    def __call__(self, step: int, micro: int) -> Batch:
        rng, teacher, cond = Rng(self.seed, step, micro, turn="data"), self.family.teacher, Cond()
        if isinstance(teacher, Classes):
            cond = teacher.cond(rng.integers("label", (self.batch,), CLASSES))
        keys = tuple(f"analytic/{step}/{micro}/{i}" for i in range(self.batch))
        return Batch(teacher.sample(self.batch, rng, cond), cond, keys=keys)
