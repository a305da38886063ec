"""Image pipelines of tiny random weights, changed as a test needs it: run by their own loop, and by ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from contract import apart
from torch import Tensor, nn

from vdistill.app.catalog import FAMILIES, PIPELINES, find
from vdistill.app.generate import guided
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.families.random_tiny import CALLS, GAIN, random_tiny
from vdistill.families.random_tiny_text import fill
from vdistill.families.stock import StockFamily
from vdistill.families.stock_sampler import sample_stock

CAPTION = "a red cat jumps over a fence"


@dataclass(frozen=True)
class Bed:
    """A pipeline as a family, with one caption and the call its pipeline is given."""

    family: StockFamily
    call: dict[str, Any]
    cond: Cond

    @property
    def shape(self) -> tuple[int, int, int, int]:
        side = self.call.get("height", 64), self.call.get("width", 64)
        found: tuple[int, int, int, int] = self.family.codec.shape(1, *side)  # type: ignore[assignment]
        return found

    def noise(self, seed: int = 0) -> Tensor:
        return self.family.noise(self.shape, torch.Generator().manual_seed(seed))

    def stock(self, steps: int = 5, **other: Any) -> Tensor:
        """What the stock pipeline makes."""
        draws = torch.Generator().manual_seed(0)
        call = self.call | other | {"num_inference_steps": steps, "generator": draws, "return_dict": False}
        made: Tensor = self.family.pipe(**call)[0]
        return made

    def ours(self, scale: float, steps: int = 5) -> Tensor:
        """The same by our loop, as the pipeline holds latents."""

        def at(step: int, timestep: float, count: int) -> Denoiser:
            return guided(self.family, self.family.net, scale)

        return self.family.pack(sample_stock(self.family, at, self.noise(), self.cond, steps))


def bed(variant: str, pipe: Any = None, caption: str = CAPTION, **call: Any) -> Bed:
    """A variant of the tiny pipelines, or `pipe` in its place. call: over the arguments of the variant's own."""
    pipe = random_tiny(variant) if pipe is None else pipe
    family: StockFamily = find(FAMILIES, PIPELINES[type(pipe).__name__])(pipe)
    return Bed(family, CALLS[variant] | call, family.text([caption]))


def rebuilt(network: Any, **config: Any) -> Any:
    """A network of the same class and config but for what is said, of other random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        kept = {k: v for k, v in network.config.items() if not k.startswith("_")}
        return fill(type(network).from_config(kept | config), GAIN)


def told(module: nn.Module, run: Callable[[], object]) -> list[tuple[dict[str, Any], Tensor]]:
    """What a network is told in every one of its calls while `run` runs (None left out), and what it answers."""
    names, found = inspect.signature(module.forward), []

    def note(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        said = {k: v for k, v in names.bind(*args, **kwargs).arguments.items() if v is not None and k != "return_dict"}
        said |= {f"{k}.{part}": v for k in [*said] if isinstance(said[k], dict) for part, v in said.pop(k).items()}
        said = {k: v.detach().clone() for k, v in said.items() if isinstance(v, Tensor)}
        found.append((said, (out if isinstance(out, tuple) else (out.sample,))[0].detach().clone()))

    hook = module.register_forward_hook(note, with_kwargs=True)
    try:
        run()
    finally:
        hook.remove()
    return found


def told_alike(module: nn.Module, ours: Callable[[], object], stock: Callable[[], object]) -> float:
    """Largest difference between two runs in anything the network is told or answers; inf when one is told more."""
    worst, one, other = 0.0, told(module, ours), told(module, stock)
    if len(one) != len(other):
        return float("inf")
    for (a, said), (b, wanted) in zip(one, other, strict=True):
        if a.keys() != b.keys():
            return float("inf")
        worst = max(worst, apart(said, wanted), *(apart(a[k], b[k].broadcast_to(a[k].shape)) for k in a))
    return worst
