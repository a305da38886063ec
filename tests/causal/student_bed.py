"""A tiny stock Wan in float64 as a causal student, and clips it learns from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from toys import tiny_family

from vdistill.causal.attend import View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan
from vdistill.causal.student import Remembering
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.step import Batch
from vdistill.families.tiny import TinyFamily

TIMES = (1.0, 0.7, 0.3)


def family(double: bool = True) -> TinyFamily:
    made = tiny_family()
    if double:
        made.network_of().double()
    return made


def clips(of: TinyFamily, length: int = 6, n: int = 2, dtype: torch.dtype = torch.float64) -> Batch:
    """Latents [n, 768, length, 2, 2] and captions."""
    source = torch.Generator().manual_seed(1)
    x = torch.randn(n, 768, length, 2, 2, generator=source, dtype=dtype)
    return Batch(x, of.text(["a red square", "a blue circle moves"][:n]).to(dtype=dtype))


def plan(block: int = 2, window: int | None = None, sink: int = 0, **more: object) -> Plan:
    return Plan(Layout(block, window=window, sink=sink), TIMES, **more)  # type: ignore[arg-type]


class Watched:
    """A denoiser that notes the times it was asked at and whether it kept a graph."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.asked = inner, list[tuple[float, bool]]()

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        said = self.inner.x0(x, t, cond, attend=attend)
        self.asked.append((float(t.max()), said.requires_grad))
        return said


def at_exit(step: int, steps: int = len(TIMES)) -> Rng:
    """A place in a run whose rollouts, of blocks and of windows, stop at `step`."""
    for rng in (Rng(3, step=i) for i in range(1000)):
        if rng.integer(f"exit/{steps}", steps) == step == rng.integer("exit", steps):
            return rng
    raise AssertionError("no such draw")


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    """Of every parameter, zero where there is none."""
    params = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    """Largest difference of two lists of gradients, in units of the largest of the first."""
    top = max(float(g.abs().max()) for g in a)
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / top


def other(scale: float = 1.05) -> TinyFamily:
    """A student of the same shape with other weights."""
    made = family()
    with torch.no_grad():
        for p in made.net.parameters():
            p.mul_(scale)
    return made


def by_memory(net: Denoiser, layout: Layout, clean: Tensor, x: Tensor, t: Tensor, batch: Batch) -> Tensor:
    """What `net` says of noisy blocks at times [B] or [B, T], one after the other, each with the clean ones before it
    remembered."""
    cache, said, zero = Cache(layout), [], torch.zeros(len(x), dtype=torch.float64)
    for start, count in layout.spans(x.shape[2]):
        part = slice(start, start + count)
        view = View(cache, range(start, start + count))
        said.append(Remembering(net, view).x0(x[:, :, part], t if t.ndim == 1 else t[:, part], batch.cond))
        view.keep = True
        Remembering(net, view).x0(clean[:, :, part], zero, batch.cond)
        view.commit()
    return torch.cat(said, 2)
