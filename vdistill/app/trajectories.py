"""A teacher's trajectories: which noise, which caption, which times. Each is a function of (seed, index) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guidance import cfg
from ..core.guided import INPUT, Guided, PerSample, Told
from ..core.precision import usable
from ..core.rng import Rng
from ..core.sampling import start
from ..core.solvers import Solver, path
from ..families.analytic import LABEL
from ..families.analytic_family import AnalyticFamily
from .bank_conditions import Asked, asks
from .build import guidance_of
from .build_family import frugal, make_family
from .kept_times import times_of
from .schema import Config
from .schema_adversarial import MethodJudged
from .schema_causal import MethodCausalConsistency, MethodOdeInit
from .schema_family import FamilyTiny
from .schema_method import MethodDmd2, MethodGuidance, MethodLcm

Scale = float | tuple[float, float] | None
"""A guidance scale, a range each trajectory draws its own from, or what the config says."""


@dataclass(frozen=True)
class Trajectories:
    """shape: of a sample; grid: the solver's times; keep: those kept; guide: scales [n] -> the teacher under guidance;
    scales: the range they are drawn from, None for one guidance; settings: all that makes another bank."""

    asked: Asked
    guide: Callable[[Tensor | None], Denoiser]
    shape: tuple[int, ...]
    grid: tuple[float, ...]
    keep: tuple[float, ...]
    solver: Solver
    seed: int
    dtype: torch.dtype
    device: torch.device
    autocast: bool
    finish: Callable[[Tensor, Cond], Tensor]
    scales: tuple[float, float] | None
    settings: dict[str, Any]

    def noise(self, indices: Sequence[int]) -> Tensor:
        """The first noise [n, C, T, ...] of these trajectories."""
        return torch.stack([self._rng(i).normal("noise", self.shape) for i in indices])

    @torch.no_grad()
    def make(self, indices: Sequence[int]) -> tuple[Tensor, Cond, tuple[str, ...]]:
        """(states [n, K, C, T, ...] at the kept times, their condition, its captions), on the CPU.

        UserError for a teacher that gives values that are not finite.
        """
        cond, texts = self.asked(indices)
        scale = None
        if self.scales:
            scale = torch.stack([self._rng(i).uniform("scale", (), *self.scales) for i in indices]).to(self.device)
        teacher, noise = self.guide(scale), self.noise(indices).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext():
            x, moved = start(teacher.schedule, noise, 1.0), cond.to(self.device)
            states = path(teacher, x, self.grid, moved, self.solver)
            states[-1] = self.finish(states[-1], moved)
        kept = torch.stack([states[self.grid.index(t)].to("cpu", self.dtype) for t in self.keep], 1)
        if not kept.isfinite().all():
            raise UserError("the teacher gave values that are not finite", "family", "its weights may be damaged")
        cond = cond.to("cpu", self.dtype)
        return kept, cond if scale is None else cond.with_field(INPUT, scale.float().cpu()), texts

    def _rng(self, i: int) -> Rng:
        return Rng(self.seed, step=i, turn="bank")

    def bytes(self) -> tuple[int, int]:
        """On disk, (of one trajectory, of what a shard says once for all of its own)."""
        cond, _ = self.asked([0])

        def of(values: Iterable[Tensor]) -> int:
            return sum(v.numel() * (self.dtype.itemsize if v.is_floating_point() else v.element_size()) for v in values)

        states = len(self.keep) * torch.Size(self.shape).numel() * self.dtype.itemsize
        return states + of([*cond.fields.values(), *cond.along.values()]), of(cond.null.values())


def open_trajectories(
    config: Config,
    *,
    steps: int,
    keep: str,
    solver: Solver,
    scale: Scale,
    seed: int,
    dtype: str,
    device: torch.device | str = "cpu",
) -> Trajectories:
    """The teacher of a config and what to ask it. UserError for what cannot be.

    keep: "pairs", "path", "student" or times such as "1,0.5".
    """
    if isinstance(config.family, FamilyTiny) and config.family.path is None:
        raise UserError("the config names no trained teacher", "family.path", "a diffusers folder, or 'shapes'")
    family = make_family(config, device)
    frugal(config, family)
    teacher: Denoiser
    finish: Callable[[Tensor, Cond], Tensor]
    if isinstance(family, AnalyticFamily):
        teacher, guided_by, finish = family.teacher, LABEL, as_it_is
    else:
        teacher, guided_by, finish = family.net, family.guided_by, family.finish
        family.net.eval().requires_grad_(False)
        if family.times is not None:
            raise UserError("is a few-step student; a bank needs a teacher", "family.path")
    guide, scales, said = guidance(config, teacher, guided_by, scale)
    grid, kept = times_of(keep, config, teacher.schedule, steps)
    asked, shape, source = asks(config, family, seed)
    at = torch.device(device)
    precision = usable(config.train.precision, at)
    settings = {
        "family": config.family.model_dump(mode="json", exclude={"path", "offload", "tiling"}, exclude_defaults=True)
        | {"name": config.family.name},
        "weights": fingerprint(teacher),
        "captions": source,
        "shape": [*shape],
        "guidance": said,
        "solver": solver,
        "steps": steps,
        "times": [*kept],
        "seed": seed,
        "dtype": dtype,
        "precision": precision,
    }
    kind, autocast = getattr(torch, dtype), precision == "bf16"
    return Trajectories(asked, guide, shape, grid, kept, solver, seed, kind, at, autocast, finish, scales, settings)


# -- guidance --------------------------------------------------------------------------------------------------------


def guidance(
    config: Config, teacher: Denoiser, guided_by: str, scale: Scale
) -> tuple[Callable[[Tensor | None], Denoiser], tuple[float, float] | None, Any]:
    """(scales -> teacher under guidance, the range they are drawn from, what bank.json says of it)."""
    m, most = config.method, config.train.guidance_batch
    learned = "text" if isinstance(m, MethodGuidance) and guided_by == INPUT else guided_by  # as training asks it
    name = getattr(m, "condition", None) or learned
    told = guided_by == INPUT and isinstance(m, MethodDmd2) and m.guidance.kind == "cfg" and not m.guidance.names
    if scale is None and isinstance(m, MethodDmd2) and not told:
        table = Guided(teacher, guidance_of(m.guidance, guided_by), most)
        return (lambda _: table), None, m.guidance.model_dump(mode="json")
    if scale is None:
        scale = said_by(config)
    if isinstance(scale, tuple):
        if scale[0] < scale[1]:
            return (lambda each: PerSample(teacher, each, name, most)), scale, [*scale]  # type: ignore[arg-type]
        scale = scale[0]
    one = Told(teacher, scale) if name == INPUT else Guided(teacher, cfg(scale, name), most)
    fixed: Denoiser = teacher if scale == 1 and name != INPUT else one
    return (lambda _: fixed), None, scale


def said_by(config: Config) -> float | tuple[float, float]:
    """The scale, or range of scales, that the method of a config teaches; 1, none, for flow."""
    m = config.method
    if isinstance(m, MethodGuidance):
        return m.scale_low, m.scale_high
    if isinstance(m, MethodLcm):
        return m.guidance_low, m.guidance_high
    if isinstance(m, MethodOdeInit | MethodCausalConsistency | MethodJudged):
        return m.scale
    return m.guidance.scale if isinstance(m, MethodDmd2) else 1.0


def as_it_is(x: Tensor, cond: Cond) -> Tensor:
    """Nothing is done to the result."""
    return x


def fingerprint(teacher: Denoiser) -> str:
    """Of a network's weights: every tensor's name, shape and two of its values."""
    if not isinstance(teacher, nn.Module):
        return "exact"
    found = hashlib.blake2b(digest_size=16)
    for name, value in teacher.state_dict().items():
        ends = value.flatten()[[0, -1]].float().tolist() if value.numel() else []
        found.update(f"{name} {tuple(value.shape)} {ends}".encode())
    return found.hexdigest()
