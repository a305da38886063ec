"""Which mixed supervision carries good looks over from poor data, and not its flicker: an ablation on the toy talker.

python tools/bench_supervision.py OUT.json [--rows NAME ...] [--seeds 0 1 2] [--steps 800] [--moving 0.15]

A teacher of three passes learns from clean clips of 24 people; students of one pass, told their scales by tokens, learn
from it and from clips of which half are damaged. OUT.json: rows, each with row, seed, seconds, and at "1,1" and "2,3"
(scales of reference and audio) pcc, identity, jitter, motion (see worlds/toy_talker.py) on 256 clean clips of people
nobody has seen, 25 Euler steps; world, steps, command. What is in OUT.json already is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser, Net
from vdistill.core.guided import Guided
from vdistill.core.inputs import Noised
from vdistill.core.losses.mixed import ByQuality, Const, Disagreement, GradNorm, Region, Sync
from vdistill.core.losses.regression import weighted_x0
from vdistill.core.plan import AsTold, Telling, plan, scales_in
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import solve
from vdistill.core.times import Uniform
from vdistill.families.guidance_tokens import ScaleTokens, TokenReader
from vdistill.methods.guidance_scales import ScaleLaw, ToldScales
from vdistill.methods.mixed import MixedConfig, MixedDistillation, Supervision
from vdistill.worlds.toy_talker import FRAMES, REF, SIZE, SOUND, ToyTalker, scores

RF = Schedule("rf")
PLAN = plan("chain", ["ref", "audio"])
LAW = ScaleLaw({"ref": 2.0, "audio": 3.0}, {"ref": 4.0, "audio": 4.0})
POINTS = {"1,1": {"ref": 1.0, "audio": 1.0}, "2,3": {"ref": 2.0, "audio": 3.0}}
TIMES = Uniform(0.02, 1.0)
BEST = Supervision("delta", [Region("mouth")], smooth=math.inf, replaces=1.0)


@dataclass(frozen=True)
class Row:
    """supervision: what data adds; quality: whether the student is told the clip's quality; damaged: share of data."""

    supervision: Supervision | None
    quality: bool = False
    damaged: float = 0.5


def rows() -> dict[str, Row]:
    """The ablation; balances with a state are made anew at every call."""
    region = [Region("mouth")]
    return {
        "teacher-only, clean data": Row(None, damaged=0.0),
        "teacher-only": Row(None),
        "raw, region": Row(Supervision("raw", region)),
        "delta, region": Row(Supervision("delta", region)),
        "delta, region, smooth inf": Row(Supervision("delta", region, smooth=math.inf)),
        "delta, region, smooth inf, replaces": Row(BEST),
        "delta, region, replaces": Row(Supervision("delta", region, replaces=1.0)),
        "delta, region, quality": Row(Supervision("delta", region), quality=True),
        "delta, region, smooth inf, replaces, quality": Row(BEST, quality=True),
        "delta, region, smooth 2, replaces": Row(Supervision("delta", region, smooth=2.0, replaces=1.0)),
        "delta, region, smooth 4, replaces": Row(Supervision("delta", region, smooth=4.0, replaces=1.0)),
        "raw, region, smooth inf, replaces": Row(Supervision("raw", region, smooth=math.inf, replaces=1.0)),
        "unit, const": Row(Supervision("unit", [Const(0.5)])),
        "unit, region": Row(Supervision("unit", region)),
        "delta, const": Row(Supervision("delta", [Const(0.5)])),
        "delta, by_quality": Row(Supervision("delta", [ByQuality(0.25)])),
        "delta, disagreement": Row(Supervision("delta", [Disagreement()], weight=0.5)),
        "delta, sync": Row(Supervision("delta", [Sync("mouth")])),
        "delta, region, gradnorm": Row(Supervision("delta", region, ratio=GradNorm(0.5))),
        "delta, sync, smooth inf, replaces": Row(Supervision("delta", [Sync("mouth")], smooth=math.inf, replaces=1.0)),
    }


class Talker(nn.Module):
    """x [B, 12, 16] -> its flow: a token a frame, with what is heard there, beside a token of the reference."""

    def __init__(self, told: tuple[str, ...] = (), d: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.x, self.sound, self.ref = nn.Linear(SIZE, d), nn.Linear(SOUND, d), nn.Linear(REF, d)
        self.place = nn.Parameter(0.1 * torch.randn(FRAMES + 1, d))
        self.time = nn.Sequential(nn.Linear(32, d), nn.SiLU(), nn.Linear(d, d))
        more: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(d, 4, 4 * d, **more) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, SIZE))
        self.told = told
        self.tokens = ScaleTokens(told, 2, 32) if told else None
        self.readers = nn.ModuleList(TokenReader(d, 32) for _ in range(layers) if told)

    def forward(self, x: Tensor, t: Tensor, cond: Cond, attend: Attend = full) -> Tensor:
        rate = torch.exp(torch.linspace(0, 5, 16))
        angle = t.to(x.dtype)[:, None] * rate
        time = self.time(torch.cat([angle.sin(), angle.cos()], 1))[:, None]
        frames = self.x(x.transpose(1, 2)) + self.sound(cond.along["audio"])
        h = torch.cat([self.ref(cond.fields["ref"])[:, None], frames], 1) + self.place + time
        tokens = self.tokens(scales_in(cond)) if self.tokens is not None and scales_in(cond) else None
        for i, block in enumerate(self.blocks):
            h = block(h)
            if tokens is not None:
                h = h + self.readers[i](h, tokens)
        return self.out(h[:, 1:]).transpose(1, 2)  # type: ignore[no-any-return]


def teacher_of(world: ToyTalker, steps: int, seed: int, batch: int = 64) -> Net:
    """Trained on clean clips, with ref, audio and both dropped in a tenth of them each."""
    torch.manual_seed(seed)
    net = Net(Talker(), RF, "flow")
    optim = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.0)
    for step in range(steps):
        rng = Rng(seed, step, turn="teacher")
        data, _ = world.clips(rng, batch, "clean")
        chance = rng.uniform("drop", (batch,))
        cond = data.cond.drop_where("ref", (chance < 0.1) | ((chance > 0.2) & (chance < 0.3)))
        cond = cond.drop_where("audio", (chance > 0.1) & (chance < 0.3))
        t = TIMES(rng, batch, data.x)
        xt = RF.noise(data.x, rng.normal("eps", data.x.shape), t)
        loss = weighted_x0(net.x0(xt, t, cond), data.x, t, RF).mean()
        learn(optim, loss, 2e-3, step, steps)
    return net.requires_grad_(False)


def learn(optim: torch.optim.Optimizer, loss: Tensor, rate: float, step: int, steps: int) -> None:
    """One update, the rate falling to nothing along a cosine."""
    for group in optim.param_groups:
        group["lr"] = rate * min(1.0, step / 50) * (1 + math.cos(math.pi * step / steps)) / 2
    optim.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optim.param_groups for p in group["params"]], 1.0)
    optim.step()


def student_of(world: ToyTalker, teacher: Net, row: Row, steps: int, seed: int, batch: int = 64) -> Net:
    """One pass told its scales, from the teacher's weights on."""
    torch.manual_seed(seed)
    told = (*PLAN.names, "quality") if row.quality else PLAN.names
    inner = Talker(told)
    inner.load_state_dict(teacher.net.state_dict(), strict=False)
    net = Net(inner, RF, "flow")
    base = MixedDistillation(
        MixedConfig(), AsTold(teacher, PLAN), net, net, Noised(TIMES), copy.deepcopy(row.supervision)
    )
    method = ToldScales(base, PLAN, LAW, quality=row.quality)
    optim = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0)
    for step in range(steps):
        rng = Rng(seed, step, turn="student")
        loss = method.loss("student", world.mixed(rng, batch, row.damaged), rng)
        learn(optim, loss.total, 1e-3, step, steps)
    return net.requires_grad_(False)


@torch.no_grad()
def measured(world: ToyTalker, denoiser: Denoiser) -> dict[str, float]:
    """Scores on 256 clean clips of people nobody has seen, 25 Euler steps from one noise."""
    data, truth = world.clips(Rng(77, turn="open"), 256, "open")
    noise = Rng(77, turn="noise").normal("x", data.x.shape)
    return asdict(scores(solve(denoiser, noise, RF.grid(25), data.cond), truth, world.way))


def at_points(
    world: ToyTalker, net: Net, quality: bool = False, guided: bool = False
) -> dict[str, Mapping[str, float]]:
    """Scores at every point of the scales: guided in three passes, or told in one."""
    found: dict[str, Mapping[str, float]] = {}
    for name, point in POINTS.items():
        told = {**point, "quality": 1.0} if quality else point
        found[name] = measured(world, Guided(net, PLAN.at(**point)) if guided else Telling(net, told))
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown, means over seeds; identity against "teacher-only" of the same seeds in brackets."""
    lines = [
        "| row | seeds | " + " | ".join(f"{p}: pcc / identity / jitter / motion" for p in POINTS) + " |",
        "|---|---|---|---|",
    ]
    base = {r["seed"]: r for r in found if r["row"] == "teacher-only"}
    for name in dict.fromkeys(r["row"] for r in found):
        own = [r for r in found if r["row"] == name]
        cells = []
        for point in POINTS:
            mean = {k: sum(r[point][k] for r in own) / len(own) for k in own[0][point]}
            known = [base[r["seed"]][point]["identity"] for r in own if r["seed"] in base]
            change = f" ({mean['identity'] * len(known) / sum(known) - 1:+.0%})" if len(known) == len(own) else ""
            cells.append(
                f"{mean['pcc']:.3f} / {mean['identity']:.3f}{change} / {mean['jitter']:.3f} / {mean['motion']:.2f}"
            )
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--teacher-steps", type=int, default=3000)
    parser.add_argument("--moving", type=float, default=0.15)
    args = parser.parse_args()
    world = ToyTalker(moving=args.moving)
    said: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    said |= {"world": asdict(world), "steps": args.steps, "command": " ".join(sys.argv)}

    def note(row: str, seed: int, begun: float, points: Mapping[str, Mapping[str, float]]) -> None:
        said["rows"].append({"row": row, "seed": seed, "seconds": round(time.perf_counter() - begun, 1), **points})
        args.out.write_text(json.dumps(said, indent=1) + "\n")
        print(
            f"{row:48s} seed {seed}",
            *("  ".join(f"{k} {v:.3f}" for k, v in p.items()) for p in points.values()),
            flush=True,
        )

    for seed in args.seeds:
        teacher: Net | None = None
        for name in args.rows or rows():
            if any(r["row"] == name and r["seed"] == seed for r in said["rows"]):
                continue
            if teacher is None:
                begun = time.perf_counter()
                teacher = teacher_of(world, args.teacher_steps, seed)
                note("teacher, three passes", seed, begun, at_points(world, teacher, guided=True))
            begun = time.perf_counter()
            net = student_of(world, teacher, rows()[name], args.steps, seed)
            note(name, seed, begun, at_points(world, net, rows()[name].quality))
    print(table(said["rows"]))


if __name__ == "__main__":
    main()
