"""Clips from captions by any model: a few-step student at its own times, a teacher by its solver and guidance."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..core.attention import Attend, full
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guidance import cfg
from ..core.guided import INPUT, Guided, Told
from ..core.schedule import Schedule
from ..core.solvers import Solver, solve
from ..families.few_step import FewStepScheduler
from ..families.stock import StockFamily
from ..families.stock_sampler import sample_stock
from ..video.extend import continue_from
from .about import About
from .build_scales import told_student
from .causal_file import Saved, read_causal
from .models import clip_shape, finite, model_folder, whole_number
from .streaming import block_by_block


@dataclass(frozen=True)
class Plan:
    """How to sample. steps, guidance, solver: of a teacher (a student's times are its own); seed: of the first noise,
    clip i of a call gets seed + i; scale: what a student that takes the guidance scale as an input is told; causal: how
    a model that makes its clips block by block does so."""

    steps: int = 50
    guidance: float = 1.0
    solver: Solver | Literal["own"] = "ddim"
    seed: int = 0
    scale: float | None = None
    batch: int = 16
    causal: Saved | None = None


@dataclass(frozen=True)
class Sampled:
    """pixels [B, 3, T, H, W] in [-1, 1]; passes: of the network for one clip; seconds: of a clip, with decoding."""

    pixels: Tensor
    passes: int
    seconds: float


def plan_of(family: StockFamily, about: About, args: argparse.Namespace) -> Plan:
    """What a user asked for with `--steps`, `--guidance`, `--scale`, `--solver` and `--seed`, the rest from the model.
    UserError for what its kind of model has no use for."""
    steps, guidance, scale = args.steps, args.guidance, args.scale
    whole_number(steps, 1, "--steps")
    whole_number(args.seed, 0, "--seed", 2**63)
    finite(guidance, 0, "--guidance")
    finite(scale, 0, "--scale")
    takes_scale = family.network_of().takes_scale
    if scale is not None and not takes_scale:
        raise UserError("this model does not take the guidance scale as an input", "--scale", "use --guidance")
    if family.times is not None:
        if guidance not in (None, 1.0):
            raise UserError("a few-step student runs without guidance; it has it in its weights", "--guidance")
        if steps not in (None, len(family.times)):
            raise UserError(f"this student takes {len(family.times)} steps, found {steps}", "--steps", "leave it out")
    if takes_scale:
        scale = about.guidance if scale is None else scale
    takes_scale = takes_scale and family.guided_by != INPUT
    own = 1.0 if family.times is not None or takes_scale else about.guidance
    solver: Any = args.solver or about.solver
    return Plan(
        steps or about.steps, own if guidance is None else guidance, solver, args.seed, scale,
        causal=read_causal(model_folder(args.model)),
    )  # fmt: skip


def size_of(text: str | None, about: About) -> tuple[int, int]:
    """(height, width) from HxW or from the model. UserError for anything else."""
    if text is None:
        return about.height, about.width
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(s.isdecimal() and int(s) for s in sides):
        raise UserError(f"expected height x width such as 32x32, found {text!r}", "--size")
    return int(sides[0]), int(sides[-1])


class Counted:
    """A denoiser that counts the clips that went through it."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.clips = inner, 0

    @property
    def schedule(self) -> Schedule:
        return self.inner.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        self.clips += len(x)
        return self.inner.x0(x, t, cond, attend=attend)


def beginning(
    family: StockFamily, shape: Sequence[int], seed: int, count: int, first: Tensor | None
) -> tuple[Tensor, dict[str, Tensor], list[torch.Generator]]:
    """(first noise [count, *shape], conditions of the first pictures, generators that go on from there).

    Sample i is what torch.Generator().manual_seed(seed + i) draws, in the order the stock pipeline draws.
    UserError where a picture is missing or of no use.
    """
    if first is None and family.needs_image:
        raise UserError(f"{family.name} of this folder starts from an image", "--image", "give one")
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    images = [None] * count if first is None else first.to(family.device).expand(count, -1, -1, -1).split(1)
    fields = [{} if i is None else family.from_image(i, shape, g) for i, g in zip(images, generators, strict=True)]
    noise = torch.cat([family.noise(shape, g) for g in generators]).to(family.device)
    return noise, {name: torch.cat([f[name] for f in fields]) for name in fields[0]}, generators


@torch.no_grad()
def generate(
    family: StockFamily,
    captions: Sequence[str],
    plan: Plan,
    frames: int,
    size: tuple[int, int],
    net: Denoiser | None = None,
    times: Sequence[float] | None = None,
    first: Tensor | None = None,
) -> Sampled:
    """One clip a caption. size: (height, width) in pixels; net, times: instead of the family's own; first: [1, 3, H, W]
    in [-1, 1], the picture all clips start from."""
    times = family.times if times is None else times
    counted = Counted(net or family.net)
    shape = clip_shape(family, frames, *size)
    begun, clips = time.perf_counter(), []
    for i in range(0, len(captions), plan.batch):
        part = captions[i : i + plan.batch]
        if plan.causal is not None:
            how = {"seed": plan.seed + i, "steps": plan.steps, "guidance": plan.guidance, "net": counted}
            walk = replace(plan.causal, times=None if times is None else tuple(times))
            clips.append(block_by_block(family, walk, part, frames, size, **how))
            continue
        clips.append(decoded(family, counted, part, plan, shape, times, plan.seed + i, first))
    seconds = (time.perf_counter() - begun) / len(captions)
    return Sampled(torch.cat(clips).cpu(), counted.clips // len(captions), seconds)


def decoded(
    family: StockFamily,
    net: Denoiser,
    captions: Sequence[str],
    plan: Plan,
    shape: Sequence[int],
    times: Sequence[float] | None,
    seed: int,
    first: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """Pixels [B, 3, T, H, W] of one batch, clip i from seed + i. shape: [C, T, H, W] of its latents; first: pictures
    [1 or B, 3, H, W] in [-1, 1]; known: latents [B, C, k, H, W] that clips of a `Continued` net begin with."""
    noise, fields, generators = beginning(family, shape, seed, len(captions), first)
    cond = family.text(captions).to(family.device)
    for name, value in fields.items():
        cond = cond.with_field(name, value)
    if plan.scale is not None:
        cond = cond.with_field("guidance", torch.full((len(captions),), plan.scale, device=family.device))
    if known is not None:
        cond = continue_from(cond, known.to(noise), noise)
    return family.codec.decode(latents(family, net, noise, cond, plan, times, generators))


def latents(
    family: StockFamily,
    net: Denoiser,
    noise: Tensor,
    cond: Cond,
    plan: Plan,
    times: Sequence[float] | None,
    generators: list[torch.Generator] | None = None,
) -> Tensor:
    """Clean latents, shaped as noise [B, C, T, H, W]: at a student's times, or as the plan says.

    generators: of the draws of a folder's own scheduler, one a sample.
    """
    if times is None and plan.solver != "own":
        return solve(guided(family, net, plan.guidance), noise, net.schedule.grid(plan.steps), cond, plan.solver)
    if times is None:

        def at(step: int, timestep: float, steps: int) -> Denoiser:
            return guided(family, net, family.scale_at(plan.guidance, timestep, steps))

        return sample_stock(family, at, noise, cond, plan.steps, generators)
    net = told_student(family, net)
    scheduler = FewStepScheduler.of(family.schedule, times, "sample", family.clock.steps)
    z, shape = family.pack(noise), noise.shape[1:]
    for time_now, timestep in zip(times, scheduler.timesteps, strict=True):
        now = torch.full((len(noise),), time_now, dtype=torch.float64, device=noise.device)
        x0 = net.x0(family.unpack(z, shape), now, cond)
        z = scheduler.step(family.pack(x0), timestep, z, return_dict=False)[0]
    return family.finish(family.unpack(z, shape), cond)


def guided(family: StockFamily, net: Denoiser, scale: float) -> Denoiser:
    """A network under the guidance its family knows, at one scale; 1 is none."""
    net = told_student(family, net)
    if family.guided_by == INPUT:
        return Told(net, scale)
    return Guided(net, cfg(scale, family.guided_by), apart=family.passes_apart) if scale != 1 else net
