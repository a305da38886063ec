"""Counting parameters and bytes of what trains: each tensor once, under the role that holds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..core.denoiser import Denoiser, Net
from ..core.optim import Optimizer
from ..core.scope import AdapterRole, Roles
from ..core.step import Method
from ..families.stock import StockFamily
from ..families.stock_net import StockNet


def tensors_of(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """Every parameter and buffer once, by identity."""
    return {id(t): t for module in modules for t in (*module.parameters(), *module.buffers())}


def bytes_of(modules: Iterable[nn.Module]) -> int:
    """Bytes of their parameters and buffers."""
    return sum(t.nbytes for t in tensors_of(modules).values())


def counted(family: StockFamily) -> dict[str, int]:
    """Parameters of every module of the pipeline, by its name there."""
    parts = {name: module for name, module in family.pipe.components.items() if isinstance(module, nn.Module)}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in parts.items()}


def trained(method: Method) -> dict[str, int]:
    """Parameters each learner trains."""
    return {f"trained: {name}": sum(p.numel() for p in module.parameters()) for name, module in method.learners.items()}


def net_of(role: Denoiser) -> StockNet:
    """The stock network a role plays on."""
    net = role.net if isinstance(role, AdapterRole) else role
    assert isinstance(net, Net) and isinstance(net.net, StockNet)
    return net.net


def weights(roles: Roles, method: Method) -> dict[str, int]:
    """Bytes of weights: of what each learner trains, and of what is frozen, a base that roles share counted once."""
    found: dict[str, int] = {}
    seen: set[int] = set()

    def count(name: str, module: nn.Module) -> None:
        own = {key: t for key, t in tensors_of([module]).items() if key not in seen}
        seen.update(own)
        found[name] = found.get(name, 0) + sum(t.nbytes for t in own.values())

    for name, module in method.learners.items():
        count(name, module)
    for name, role in roles.denoisers.items():
        if not isinstance(role, AdapterRole):
            count(name, net_of(role))  # its buffers
    count("base of all roles" if isinstance(roles.teacher, AdapterRole) else "teacher", net_of(roles.teacher))
    return {name: size for name, size in found.items() if size}


def states(optim: Optimizer) -> Iterator[Tensor]:
    """Tensors like those an optimizer keeps: two averages of AdamW, one of Muon."""
    for part in optim.parts:
        for p in (p for group in part.param_groups for p in group["params"]):
            for _ in range(2 if isinstance(part, torch.optim.AdamW) else 1):
                yield torch.zeros_like(p)


def stepping(optim: Optimizer, gpu: bool, gpus: int) -> int:
    """Bytes an optimizer's step takes for itself: AdamW's roots (of one tensor, or on a GPU of all), and gradients in
    one piece, twice, where several processes average them."""
    sizes = [[p.nbytes for group in part.param_groups for p in group["params"]] for part in optim.parts]
    adam = [s for s, part in zip(sizes, optim.parts, strict=True) if isinstance(part, torch.optim.AdamW)]
    roots = max((sum(s) if gpu else 2 * max(s) for s in adam), default=0)
    return max(roots, 2 * sum(map(sum, sizes)) if gpus > 1 else 0)
