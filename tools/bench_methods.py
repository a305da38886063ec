"""Every method on laws that are known exactly, with fixed budgets: how near a small network's samples come.

python tools/bench_methods.py [--json FILE] [--only ROW ...]

The law is the default mixture of three Gaussians in the plane (std 0.35, weights 0.5, 0.3, 0.2); for guidance, four
classes under scale 3, which are again a mixture (std 0.3, even weights). Students and critics of the mixture begin as
the network that row "flow" trains. Every row is 8,000 samples against as many true ones.

Keys of the JSON: machine (cpu, cores, threads, torch, command); samples; rows, each with name; passes: network passes
of one sample; updates: of the student's weights, and critic_updates where it has one; sw2: sliced Wasserstein-2
distance (64 projections); mode_tv: total variation of the mode weights; stds: standard deviation within each mode, null
for an empty one; seconds: of the training.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.engine import Cadence, Engine
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.inputs import Generated, Noised, Simulated
from vdistill.core.losses.divergence import DIVERGENCES, Name, Weigh
from vdistill.core.optim import OptimSpec
from vdistill.core.rng import Rng
from vdistill.core.sampling import Renoise
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import solve
from vdistill.core.step import Method, added
from vdistill.core.times import Uniform
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.balance import GradientRatio
from vdistill.discriminators.heads import CrossHeads, TokenHeads
from vdistill.discriminators.latent import LatentJudge, factorised_steps
from vdistill.discriminators.look import Taps
from vdistill.families.analytic import Classes
from vdistill.families.analytic_family import AnalyticFamily, AnalyticSource
from vdistill.families.analytic_mixture import Mixture, mode_stds, mode_tv, sw2
from vdistill.families.analytic_nets import mlp
from vdistill.methods.dmd2 import Dmd2, Dmd2Config
from vdistill.methods.flow import Flow, FlowConfig
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation
from vdistill.methods.lcm import Lcm, LcmConfig

RF, N, SCALE = Schedule("rf"), 8000, 3.0
FOUR = (1.0, 0.75, 0.5, 0.25)
PLANE = AnalyticFamily("mixture", RF, 64, 3)
CLASSES = AnalyticFamily("classes", RF, 64, 3)
assert isinstance(PLANE.teacher, Mixture) and isinstance(CLASSES.teacher, Classes)
LAW, LABELLED = PLANE.teacher, CLASSES.teacher
GUIDED = Mixture(
    RF, torch.stack([LABELLED.guided(k, SCALE).mean for k in range(4)]), torch.full((4,), 0.25), torch.full((4,), 0.3)
)


@dataclass(frozen=True)
class Row:
    """See the keys of the JSON."""

    name: str
    passes: int
    sw2: float
    mode_tv: float
    stds: list[float | None]
    updates: int = 0
    critic_updates: int = 0
    seconds: float = 0.0


def row(name: str, passes: int, x: Tensor, law: Mixture = LAW, cost: Mapping[str, float] = {}) -> Row:
    """Samples measured against their law, of whose modes the true ones have exactly their share."""
    share = [law.means[k] + law.stds[k] * Rng(99).normal(f"true/{k}", (round(len(x) * float(w)), *law.shape))
             for k, w in enumerate(law.weights)]  # fmt: skip
    far, tv = sw2(x, torch.cat(share)), mode_tv(x, law)
    stds = [None if std.isnan() else std.item() for std in mode_stds(x, law)]
    return Row(name, passes, far, tv, stds, **cost)  # type: ignore[arg-type]


def noise() -> Tensor:
    return Rng(1).normal("noise", (N, 2, 1))


def train(
    method: Method, family: AnalyticFamily, steps: int, lrs: Mapping[str, float], ema: float = 0.0
) -> dict[str, float]:
    """Through the engine, 256 samples a step, the rate falling over the last half; what it cost."""
    specs = {n: OptimSpec(lr=lr, decay=0.5, ema=ema if n == "student" else 0.0) for n, lr in lrs.items()}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        engine = Engine(
            method, AnalyticSource(family, 256), specs, Path(out), steps=steps, cadence=Cadence(checkpoint=0)
        )
        engine.run()
        if ema:
            engine.ema["student"].swap(method.learners["student"])
    turns = [method.turn(step) for step in range(steps)]
    cost = {n: sum(n in turn for turn in turns) for n in lrs}
    return {
        "updates": cost["student"],
        "critic_updates": cost.get("critic", 0),
        "seconds": time.perf_counter() - begun,
    }


@torch.no_grad()
def ode(net: Denoiser, steps: int, cond: Cond = Cond()) -> Tensor:
    """Samples by so many Euler steps."""
    return solve(net, noise(), RF.grid(steps), cond)


@torch.no_grad()
def few(net: Denoiser, times: Sequence[float]) -> Tensor:
    """Samples by estimating and renoising at the times."""
    return Renoise()(net, noise(), Cond(), Rng(2), times)


# -- rows -------------------------------------------------------------------------------------------------------------


def truth() -> list[Row]:
    """The distance of two true sets, and the exact teacher at 50, 4 and 1 steps."""
    exact = [row(f"exact teacher, {n} Euler", n, ode(LAW, n)) for n in (50, 4, 1)]
    return [row("true samples", 0, LAW.sample(N, Rng(5))), *exact]


@lru_cache
def learned() -> tuple[Net, dict[str, float]]:
    """The network of row "flow", where the others begin."""
    net = mlp((2, 1), RF)
    return net, train(Flow(FlowConfig(), net, net), PLANE, 1500, {"student": 3e-3})


def flow() -> list[Row]:
    net, cost = learned()
    rows = [row(f"that network, {n} renoised (start of the rows below)", n, few(net, FOUR[:n])) for n in (4, 1)]
    return [row("flow, 50 Euler", 50, ode(net, 50), cost=cost), *rows]


def guidance() -> list[Row]:
    """One pass a step that takes the scale, beside the exact teacher's two."""
    net = mlp((2, 1), RF, classes=5, guidance=True)
    spec = GuidanceConfig(1.0, 4.0, "label")
    cost = train(GuidanceDistillation(spec, LABELLED, net, net, Noised(Uniform())), CLASSES, 2500, {"student": 3e-3})
    cond = LABELLED.cond(torch.arange(N) % 4)
    told = cond.with_field("guidance", torch.full((N,), SCALE))
    return [
        row(
            "classes: exact teacher at s = 3, 50 Euler",
            100,
            ode(Guided(LABELLED, cfg(SCALE, "label")), 50, cond),
            GUIDED,
        ),
        row("classes: guidance at s = 3, 50 Euler", 50, ode(net, 50, told), GUIDED, cost=cost),
    ]


def lcm() -> list[Row]:
    net = copy.deepcopy(learned()[0])
    cost = train(Lcm(LcmConfig(50, low=1.0, high=1.0), LAW, net, net), PLANE, 3000, {"student": 2e-3}, ema=0.98)
    return [row(f"lcm, {len(times)} steps", len(times), few(net, times), cost=cost) for times in (FOUR[:1], FOUR)]


@dataclass(frozen=True)
class Volume:
    """A `Look` at the noised points as clips of one place, [B, 2, 1, 1, 1]."""

    def __call__(self, xt: Tensor, t: Tensor, cond: Cond) -> Sequence[Tensor]:
        return [xt[..., None, None]]


def gan(weight: float) -> Callable[[Net], Adversarial]:
    """Heads on the features of the critic, which learns with them."""
    return lambda critic: Adversarial(Taps(critic, (1, 2)), RF, TokenHeads([64, 64]), weight, 0.1)


def judge(kind: str) -> Callable[[Net], Adversarial]:
    """Judges that share nothing with the critic: heads, or a token that reads, on the frozen network of row "flow", and
    convolutions, which are products here, of the points themselves."""

    def made(critic: Net) -> Adversarial:
        torch.manual_seed(0)
        if kind == "latent":
            return Adversarial(Volume(), RF, LatentJudge(2, factorised_steps(32), 32), watch_weight=1.0)
        net = copy.deepcopy(learned()[0]).requires_grad_(False)
        heads = {"teacher": TokenHeads, "cross": CrossHeads}[kind]
        return Adversarial(Taps(net, (1,), True), RF, heads([64]), watch_weight=1.0)

    return made


def matched(
    name: str, times: tuple[float, ...], steps: int, each: int, judge: Callable[[Net], Adversarial] | None = None,
    divergence: Name = "reverse_kl", share: float | None = None,
) -> list[Row]:  # fmt: skip
    """DMD2 with backward simulation at `times`, `each` critic updates for one of the student's; share: of its pull that
    the judge's becomes."""
    student, critic = (copy.deepcopy(learned()[0]) for _ in range(2))
    terms = [] if judge is None else [judge(critic)]
    modules = {"student": student, "critic": critic}
    weigh = Weigh(DIVERGENCES[divergence], terms[0].log_ratio) if divergence != "reverse_kl" else None
    make = Generated(Simulated(times))
    balance = added if share is None else GradientRatio(share)
    method = Dmd2(Dmd2Config(each), LAW, student, critic, modules, make, terms, balance=balance, weigh=weigh)
    cost = train(method, PLANE, steps, {"student": 5e-4, "critic": 2e-3}, ema=0.98)
    return [row(name, len(times), few(student, times), cost=cost)]


KINDS = ("teacher", "cross", "latent")
ROWS: dict[str, Callable[[], list[Row]]] = {
    "truth": truth,
    "flow": flow,
    "guidance": guidance,
    "lcm": lcm,
    "dmd2": lambda: matched("dmd2, 1 step", (1.0,), 3000, 5),
    "dmd2_gan": lambda: matched("dmd2 with GAN, 1 step", (1.0,), 3000, 5, gan(3e-3)),
    "dmd2_forward_kl": lambda: matched("dmd2 with GAN, forward KL, 1 step", (1.0,), 3000, 5, gan(3e-3), "forward_kl"),
    "dmd2_jensen_shannon": lambda: matched(
        "dmd2 with GAN, Jensen-Shannon, 1 step", (1.0,), 3000, 5, gan(3e-3), "jensen_shannon"
    ),
    "judges": lambda: [
        row
        for kind in KINDS
        for row in matched(f"dmd2 with judge {kind}, 1 step", (1.0,), 3000, 5, judge(kind), share=0.1)
    ],
    "dmd2_four": lambda: matched("dmd2, 4 steps", FOUR, 4000, 2),
    "dmd2_four_gan": lambda: matched("dmd2 with GAN, 4 steps", FOUR, 4000, 2, gan(0.1)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    args = parser.parse_args()
    machine = {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "python": platform.python_version(), "command": " ".join(sys.argv),
    }  # fmt: skip
    print(json.dumps(machine))
    print("| sampler or method | passes | updates (critic) | SW2 | mode TV | stds | seconds |\n|" + "---|" * 7)
    rows: list[Row] = []
    for name in args.only:
        for r in ROWS[name]():
            stds, updates = (
                " ".join("-" if s is None else f"{s:.2f}" for s in r.stds),
                f"{r.updates} ({r.critic_updates})",
            )
            cells = (r.name, r.passes, updates, f"{r.sw2:.3f}", f"{r.mode_tv:.3f}", stds, f"{r.seconds:.1f}")
            print("|", " | ".join(map(str, cells)), "|", flush=True)
            rows.append(r)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine, "samples": N, "rows": [asdict(r) for r in rows]}, indent=1)
        )


if __name__ == "__main__":
    main()
