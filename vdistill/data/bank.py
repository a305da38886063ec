"""A trajectory bank as training data: the ends of its trajectories as samples, and its states as student inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.bank import Bank
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.inputs import StudentInput
from ..core.rng import Rng
from ..core.step import Batch

ABOUT = "bank.json"
KEY = "bank/"


class BankData:
    """What `vdistill bank` wrote, for `data.loader.Feed`: x is the end of a trajectory, cond its condition.

    A key says which trajectory, so that `OnTrajectory` finds its other states. UserError for a bank that is not whole.
    """

    def __init__(self, folder: Path | str) -> None:
        self.bank = Bank.open(Path(folder))
        wanted, _ = read_about(self.bank.folder)
        if len(self.bank) < wanted:
            found = f"holds {len(self.bank)} of {wanted} trajectories"
            raise UserError(found, str(folder), "run the same `vdistill bank` again, or with that --count")
        self.groups = (len(self.bank),)
        self.shape = tuple(self.bank.read([0])[0].shape[2:])

    def __len__(self) -> int:
        return len(self.bank)

    def captions(self) -> tuple[str, ...]:
        return self.bank.texts()

    def batch(self, indices: Sequence[int]) -> Batch:
        states, cond = self.bank.read(indices)
        keys = tuple(f"{KEY}{i}" for i in indices)
        return Batch(states[:, -1].float(), cond.to(dtype=torch.float32), keys=keys)


@dataclass(frozen=True)
class OnTrajectory:
    """Inputs from the batch's own trajectories: a state before the end, at a time drawn for each sample (draw
    "input/level"); the target is the end. The condition is the batch's. times: draw among these only.

    UserError when the bank has no such time, or for a batch that is not from a bank.
    """

    bank: Bank
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._levels()

    def _levels(self) -> torch.Tensor:
        """Which of the bank's times may be drawn."""
        before = self.bank.times[:-1]
        near = [min(range(len(before)), key=lambda i: abs(before[i] - t)) for t in self.times]
        for t, i in zip(self.times, near, strict=True):
            if abs(before[i] - t) > 1e-6:
                where = str(self.bank.folder)
                raise UserError(f"the bank has times {[*before]}, not {t}", where, "make one with --keep student")
        return torch.tensor(near or range(len(before)))

    def __call__(self, student: Denoiser, batch: Batch, rng: Rng) -> StudentInput:
        states, levels = self._read(batch), self._levels()
        level = levels[rng.integers("input/level", (len(batch),), len(levels))]
        x = states[torch.arange(len(batch)), level].to(batch.x)
        t = torch.tensor(self.bank.times, dtype=torch.float64)[level].to(batch.x.device)
        return StudentInput(x, t, batch.cond, target=batch.x)

    def states(self, batch: Batch, rng: Rng) -> tuple[Tensor, tuple[float, ...]]:
        """(states of the batch's own trajectories [B, K, C, T, ...], their times): those that may be drawn, and the
        end. UserError for a batch that is not from a bank."""
        kept = [*self._levels().tolist(), len(self.bank.times) - 1]
        found = self._read(batch)[:, kept].to(batch.x)
        return found, tuple(self.bank.times[i] for i in kept)

    def _read(self, batch: Batch) -> Tensor:
        if len(batch.keys) != len(batch) or not all(key.startswith(KEY) for key in batch.keys):
            raise UserError("inputs from a bank need the bank as data", "method.inputs", "say data: {name: bank}")
        return self.bank.read([int(key.removeprefix(KEY)) for key in batch.keys])[0]


def read_about(folder: Path) -> tuple[int, dict[str, Any]]:
    """(how many trajectories there are to be, what they are made with) of a bank; (0, {}) where that is not written.

    UserError for a damaged file.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_bytes())
        return int(about["count"]), dict(about["settings"])
    except FileNotFoundError:
        return 0, {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"is damaged ({error!r})", str(path), "delete the bank and make it again") from error


def write_about(folder: Path, count: int, settings: Mapping[str, Any]) -> None:
    """Say what a bank is to become."""
    about = {"format": 1, "count": count, "settings": dict(settings)}
    scratch = folder / f".tmp-{os.getpid()}-{ABOUT}"  # several processes write the same
    scratch.write_text(json.dumps(about, ensure_ascii=False, indent=1))
    scratch.replace(folder / ABOUT)
