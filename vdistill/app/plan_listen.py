"""Which role of a step passes how much through its network. Passes without a graph are acted out once, then known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..core.attention import Placed
from ..core.scope import PLAYING, Roles
from ..families.stock_net import StockNet
from .plan_memory import Flops, Passes
from .plan_sizes import net_of
from .plan_watch import Watch

GRAPHLESS = "{}, no graph"


@dataclass(frozen=True)
class _Known:
    """What a pass without a graph was: its answer's type, work, and most bytes beside its input."""

    dtype: torch.dtype
    flops: Flops
    working: int


class Listener:
    """While it is on, forward passes of the roles' networks are counted in `passes`, by role and kind."""

    def __init__(self, watch: Watch, roles: Roles) -> None:
        self.watch, self.passes = watch, dict[str, Passes]()
        self.names = {id(net_of(roles.teacher)): "teacher"}
        self.names |= {id(net_of(d)): name for name, d in roles.denoisers.items()}
        self.networks = {id(n): n for n in (net_of(d) for d in (roles.teacher, *roles.denoisers.values()))}
        self.known: dict[Any, _Known] = {}

    def __enter__(self) -> Self:
        for network in self.networks.values():
            network.forward = self._heard(network, network.forward)  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        for network in self.networks.values():
            del network.forward

    def _heard(self, network: StockNet, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        watch = self.watch

        def heard(x: Tensor, *args: Any, **more: Any) -> Tensor:
            playing, graph = PLAYING.get(), torch.is_grad_enabled()
            role = self.names[id(network)] if playing is None else playing.adapter or "teacher"
            key = (role, tuple(x.shape))
            tapped = any(block._forward_hooks for block in network.blocks())
            remembering = any(isinstance(each, Placed) for each in args)  # who is asked for what it saw, later
            known = None if graph or tapped or remembering else self.known.get(key)
            peak, alive, before = watch.peak, watch.alive, Counter(watch.flops)
            if known is None:
                watch.forget_peak()
                out = forward(x, *args, **more)
                known = _Known(out.dtype, watch.flops - before, watch.peak - alive)
                watch.peak = max(watch.peak, peak)
                if not graph:
                    self.known[key] = known
            else:
                out = torch.empty(x.shape, dtype=known.dtype)
                watch.flops.update(known.flops)
                watch.peak = max(peak, alive + known.working)
            each = self.passes.setdefault(role if graph else GRAPHLESS.format(role), Passes())
            each.samples += len(x)
            each.flops.update(known.flops)
            each.working = max(each.working, known.working)
            return out

        return heard


def repeated(passes: Mapping[str, Passes], role: str, below: int, acted: int) -> Flops:
    """Make the acted-out passes of a role before its last the mean number, (below - 1) / 2; returns the work added.

    acted: samples that went through one of them.
    """
    each = passes.get(GRAPHLESS.format(role))
    if each is None or not each.samples:
        return Counter()
    more = ((below - 1) / 2 - 1) * acted
    added: Flops = Counter({k: int(v * more / each.samples) for k, v in each.flops.items()})
    each.samples += more
    each.flops.update(added)
    return added
