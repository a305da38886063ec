"""The one network interface of the engine: something with a schedule that predicts the clean sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from .attention import Attend, full
from .cond import Cond
from .schedule import Predicts, Schedule


class Denoiser(Protocol):
    """Predicts x0 from x_t. A network, a guided network and an exact formula are all denoisers."""

    @property
    def schedule(self) -> Schedule: ...

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        """x: [B, C, T, ...] noised; t: [B], or [B, T] for a time at each position, or [B, 1] for one that all share;
        returns the clean estimate, shaped as x."""


@runtime_checkable
class Tapped(Protocol):
    """A denoiser whose inner features can be read, for discriminators."""

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        """Features [B, N, C] after the named layers, N tokens."""


class Network(Protocol):
    """A raw network as a family exposes it: tensors and Cond in, prediction of a fixed type out."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend) -> Tensor: ...


class Net(nn.Module):
    """A raw network seen as a Denoiser. predicts: what its output is (x0, eps, v or flow)."""

    def __init__(self, net: nn.Module, schedule: Schedule, predicts: Predicts) -> None:
        super().__init__()
        self.net, self.schedule, self.predicts = net, schedule, predicts

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return self.schedule.x0(self.net(x, t, cond, attend).to(x.dtype), x, t, self.predicts)

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        return self.net.taps(x, t, cond, layers)  # type: ignore[no-any-return,operator]
