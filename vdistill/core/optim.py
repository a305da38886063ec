"""Optimizers of one learner, their learning-rate schedule, and the moving average of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import UserError

HIDDEN = re.compile(r"(blocks|layers)\.\d+\.")


@dataclass(frozen=True)
class OptimSpec:
    """lr: peak; betas, weight_decay: AdamW's; warmup: steps of linear rise; decay: share of the run, at its end, over
    which the rate falls linearly to a fiftieth; clip: gradient norm; ema: decay of the weight average, 0 for none;
    ema_warmup: it begins with a short memory, and so forgets what the run started from.
    name "muon" trains the matrices inside blocks with Muon (Jordan et al. 2024) and everything else with AdamW. rates:
    dotted part of a parameter's name -> factor of lr for all that have it.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup: int = 0
    decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.0
    ema_warmup: bool = True
    rates: Mapping[str, float] = field(default_factory=dict)

    def rate(self, step: int, total: int) -> float:
        """Learning rate at a step of a run of `total` steps."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        left = (total - step) / total
        fall = 1.0 if self.decay <= 0 or left >= self.decay else max(0.02, left / self.decay)
        return self.lr * rise * fall


class Optimizer:
    """One or two torch optimizers that act as one on the parameters of a module."""

    def __init__(self, spec: OptimSpec, module: nn.Module) -> None:
        self.spec = spec
        named = list(module.named_parameters())
        self.params = [p for _, p in named]
        if not self.params:
            raise UserError("a learner has no parameters to train", "optim")
        self.parts: list[torch.optim.Optimizer] = []
        hidden = [(n, p) for n, p in named if p.ndim == 2 and HIDDEN.search(n)] if spec.name == "muon" else []
        if hidden:
            if not hasattr(torch.optim, "Muon"):
                raise UserError(f"muon needs torch 2.9 or later, found {torch.__version__}", "optim.name", "use adamw")
            from .muon import Muon

            self.parts.append(Muon(groups(hidden, spec.rates), spec.lr, spec.weight_decay))
        taken = {name for name, _ in hidden}
        if rest := groups([(n, p) for n, p in named if n not in taken], spec.rates):
            self.parts.append(torch.optim.AdamW(rest, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay))

    def zero(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, lr: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr * group["factor"]
            part.step()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, json) of the whole state; hyperparameters are not state, they come from the config."""
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, float] = {}
        for i, part in enumerate(self.parts):
            for key, entry in part.state_dict()["state"].items():
                for name, value in entry.items():
                    if isinstance(value, Tensor):
                        tensors[f"{i}.{key}.{name}"] = value
                    else:
                        scalars[f"{i}.{key}.{name}"] = value
        return tensors, scalars

    def load(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Inverse of `state`."""
        for i, part in enumerate(self.parts):
            entries: dict[int, dict[str, Any]] = {}
            for place, value in {**scalars, **tensors}.items():
                which, key, name = place.split(".", 2)
                if int(which) == i:
                    entries.setdefault(int(key), {})[name] = value
            part.load_state_dict({"state": entries, "param_groups": part.state_dict()["param_groups"]})


def groups(named: Sequence[tuple[str, nn.Parameter]], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters by the factor of their learning rate, for a torch optimizer."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = next((rate for part, rate in rates.items() if f".{part}." in f".{name}"), 1.0)
        found.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in found.items()]


class Ema:
    """Exponential moving average of parameters, with the usual warm-up min(decay, (1 + n) / (10 + n)), or without."""

    def __init__(self, decay: float, module: nn.Module, warmup: bool = True) -> None:
        self.decay, self.updates, self.warmup = decay, 0, warmup
        self.names = [n for n, _ in module.named_parameters()]
        self.shadow = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, params: Iterable[Tensor]) -> None:
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        self.updates += 1
        for shadow, p in zip(self.shadow, params, strict=True):
            shadow.lerp_(p.detach().to(shadow.dtype), 1 - keep)

    def state(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.shadow, strict=True))

    def load(self, tensors: dict[str, Tensor], updates: int) -> None:
        self.updates = updates
        for name, shadow in zip(self.names, self.shadow, strict=True):
            shadow.copy_(tensors[name])

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the module's weights with the average; a second call puts them back."""
        for shadow, p in zip(self.shadow, module.parameters(), strict=True):
            kept = p.detach().clone()
            p.copy_(shadow)
            shadow.copy_(kept)
