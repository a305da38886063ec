"""Conditions that follow a stream's positions, such as its sound: given as they come, dropped when used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.cond import Fields
from ..core.errors import UserError

START = "start"


@dataclass
class Along:
    """values: name -> [B, n, ...], of latents start, start + 1, ..."""

    start: int = 0
    values: dict[str, Tensor] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The first latent of which nothing is known."""
        return self.start + (next(iter(self.values.values())).shape[1] if self.values else 0)

    def hear(self, more: Fields) -> None:
        """What comes next. UserError for other names than before, or values of different lengths."""
        if self.values and self.values.keys() != more.keys():
            raise UserError(f"{sorted(more)} after {sorted(self.values)}", "stream.hear", "tell the same things")
        if len({(len(v), v.shape[1]) for v in more.values()}) > 1:
            raise UserError(
                f"of sizes { ({k: [*v.shape[:2]] for k, v in more.items()}) }", "stream.hear", "[B, n, ...]"
            )
        self.values = {k: torch.cat([self.values[k], v.to(self.values[k])], 1) if self.values else v
                       for k, v in more.items()}  # fmt: skip

    def of(self, start: int, count: int) -> Fields:
        """Of some latents; nothing where nothing was ever told. UserError for what has not come, or is gone."""
        if self.values and not self.start <= start <= start + count <= self.end:
            what = f"latents {start} to {start + count - 1} are asked for, told are {self.start} to {self.end - 1}"
            raise UserError(what, "stream", "tell it first what they follow: stream.hear")
        return {k: v.narrow(1, start - self.start, count) for k, v in self.values.items()}

    def forget(self, before: int) -> None:
        """Drop what latents before that one follow."""
        gone = min(before, self.end) - self.start
        if gone > 0:
            self.values = {k: v[:, gone:].clone() for k, v in self.values.items()}
            self.start += gone

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors; nothing where nothing was told."""
        found = {k: v.clone() for k, v in self.values.items()}
        return {**found, START: torch.tensor(self.start)} if found else {}

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], device: torch.device | str) -> Along:
        """Of what `state` gave."""
        values = {k: v.to(device) for k, v in state.items() if k != START}
        return cls(int(state[START]), values) if values else cls()
