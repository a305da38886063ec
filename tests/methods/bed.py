"""The exact test bed: laws as teachers, small students, and the engine that trains them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
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
from vdistill.families.analytic_mixture import Mixture, mixture, mode_stds, mode_tv, sw2
from vdistill.families.analytic_nets import Affine, Bell, mlp
from vdistill.methods.flow import Flow, FlowConfig

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


@lru_cache
def mixture_net() -> Net:
    """A small network trained by flow matching on the default mixture: where students and critics begin."""
    net = mlp((2, 1), RF)
    train(Flow(FlowConfig(), net, net), mixture(RF), 1500, {"student": 3e-3})
    return net


def train(
    method: Method,
    law: Exact,
    steps: int,
    lrs: Mapping[str, float],
    *,
    batch: int = 256,
    decay: float = 0.5,
    ema: float = 0.0,
    watch: Callable[[int], None] = lambda step: None,
) -> None:
    """Run the engine on the law's samples; the student ends at its average where there is one. watch: sees each step."""
    optim = {n: OptimSpec(lr=lrs[n], decay=decay, ema=ema if n == "student" else 0.0) for n in method.learners}
    with tempfile.TemporaryDirectory() as out:
        engine = Engine(
            method, lambda step, micro: batch_of(law, batch, step), optim, Path(out), steps=steps,
            cadence=Cadence(checkpoint=0),
        )  # fmt: skip
        engine.run(lambda report: watch(report.step))
        if "student" in engine.ema:
            engine.ema["student"].swap(method.learners["student"])


def close(a: Tensor, b: Tensor, atol: float) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol, check_dtype=False)


@dataclass(frozen=True)
class Score:
    """Distances of samples from a mixture: sliced Wasserstein-2, total variation of the mode weights, per-mode std."""

    sw2: float
    tv: float
    stds: list[float]

    def __str__(self) -> str:
        return f"SW2 {self.sw2:.3f}, mode TV {self.tv:.3f}, stds {' '.join(f'{s:.2f}' for s in self.stds)}"


def score(x: Tensor, law: Mixture) -> Score:
    """Against as many true samples as there are."""
    truth = law.sample(len(x), Rng(99))
    return Score(sw2(x, truth), mode_tv(x, law), mode_stds(x, law).tolist())


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
