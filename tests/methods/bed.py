"""The exact test bed: laws as teachers, small students, and the engine that trains them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.engine import Cadence, Engine
from vdistill.core.optim import OptimSpec
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.step import Batch, Method
from vdistill.families.analytic import Classes, Exact, gaussian
from vdistill.families.analytic_nets import Affine, Bell

RF = Schedule("rf")
G1 = gaussian(RF)
G8 = gaussian(RF, [0.7] * 8, [0.5] * 8)  # one sample's mean |x - x0_hat| is then seldom near 0
MU, S = 0.7, 0.5
CLASSES = Classes(RF, torch.tensor([[1.0], [-1.0], [0.25]], dtype=torch.float64)[..., None], 0.5)


def batch_of(law: Exact, n: int, seed: int = 0) -> Batch:
    """n samples, with a label each where the law has classes."""
    rng, cond = Rng(seed, turn="data"), Cond()
    if isinstance(law, Classes):
        cond = law.cond(rng.integers("label", (n,), len(law.means) - 1))
    return Batch(law.sample(n, rng, cond), cond)


def doubled(batch: Batch) -> Batch:
    """The same samples in float64, and so everything drawn to fit them."""
    return Batch(batch.x.double(), batch.cond, batch.weight)


def affine(
    *times: float, classes: int = 0, guidance: bool = False, scale: float = 1.0, shift: float = 0.0, size: int = 1
) -> Net:
    """x0_hat = a x + b, an a and a b for every time and element, for samples [B, size, 1]."""
    net = Affine((size, 1), times, classes, guidance, scale)
    nn.init.constant_(net.b, shift)
    return Net(net, RF, "x0")


def bell(size: int = 1) -> Net:
    """A learned Gaussian, for samples [B, size, 1]."""
    return Net(Bell((size, 1), RF), RF, "x0")


def train(
    method: Method,
    law: Exact,
    steps: int,
    lrs: Mapping[str, float],
    *,
    batch: int = 256,
    decay: float = 0.5,
    ema: float = 0.0,
) -> None:
    """Run the engine on the law's samples; the student ends at its average where there is one."""
    optim = {n: OptimSpec(lr=lrs[n], decay=decay, ema=ema if n == "student" else 0.0) for n in method.learners}
    with tempfile.TemporaryDirectory() as out:
        engine = Engine(
            method, lambda step, micro: batch_of(law, batch, step), optim, Path(out), steps=steps,
            cadence=Cadence(checkpoint=0),
        )  # fmt: skip
        engine.run()
        if "student" in engine.ema:
            engine.ema["student"].swap(method.learners["student"])


def close(a: Tensor, b: Tensor, atol: float) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol, check_dtype=False)


class Asked:
    """A denoiser that remembers how often, with what and for how many samples it was asked."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.calls = inner, list[tuple[Tensor, Tensor, Cond]]()
        self.graphs: list[bool] = []

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        answer = self.inner.x0(x, t, cond, attend=attend)
        self.calls.append((x, t, cond))
        self.graphs.append(answer.requires_grad)
        return answer
