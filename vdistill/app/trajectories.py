"""A teacher's trajectories: which noise, which caption, which times. Each is a function of (seed, index) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guidance import cfg
from ..core.guided import INPUT, Guided, PerSample, Told
from ..core.rng import Rng
from ..core.sampling import start
from ..core.schedule import Schedule
from ..core.solvers import Solver, path
from ..data.loader import open_data
from ..data.order import index as shuffled
from ..data.prompts import read_prompts
from ..families.analytic import LABEL, Classes
from ..families.analytic_family import CLASSES, AnalyticFamily
from .build import guidance_of
from .build_family import AnyFamily, frugal, make_family, world_of
from .models import clip_shape, fit_network
from .schema import Config, DataLatents, DataPrompts, DataShapes
from .schema_family import FamilyTiny
from .schema_method import MethodDmd2, MethodFlow, MethodGuidance, MethodLcm

Scale = float | tuple[float, float] | None
"""A guidance scale, a range each trajectory draws its own from, or what the config says."""
Asked = Callable[[Sequence[int]], tuple[Cond, tuple[str, ...]]]
"""Indices -> their condition, and what it was made from (nothing for a law without captions)."""


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
            cond = cond.with_field(INPUT, scale.float())
        teacher, noise = self.guide(scale), self.noise(indices).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext():
            states = path(teacher, start(teacher.schedule, noise, 1.0), self.grid, cond.to(self.device), self.solver)
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
    teacher, guided_by = (
        (family.teacher, LABEL) if isinstance(family, AnalyticFamily) else (family.net, family.guided_by)
    )
    if not isinstance(family, AnalyticFamily):
        family.net.eval().requires_grad_(False)
        if family.times is not None:
            raise UserError("is a few-step student; a bank needs a teacher", str(getattr(config.family, "path", "")))
        if family.needs_image:
            raise UserError("starts from an image, which a bank has not", str(getattr(config.family, "path", "")))
    guide, scales, said = guidance(config, teacher, guided_by, scale)
    grid, kept = times_of(keep, config, teacher.schedule, steps)
    asked, shape, source = asks(config, family, seed)
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
        "precision": config.train.precision,
    }
    at = torch.device(device)
    autocast = config.train.precision == "bf16"
    return Trajectories(
        asked, guide, shape, grid, kept, solver, seed, getattr(torch, dtype), at, autocast, scales, settings
    )


# -- times -----------------------------------------------------------------------------------------------------------


def times_of(keep: str, config: Config, schedule: Schedule, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(the solver's times, the kept ones, 1 to 0 each). A kept time that is none of the grid moves the nearest there,
    so the number of steps stays. UserError for times that cannot be."""
    grid = tuple(schedule.grid(steps).tolist())
    if keep == "pairs":
        return grid, (grid[0], grid[-1])
    if keep == "path":
        return grid, grid
    kept = student_times(config, schedule) if keep == "student" else listed(keep)
    kept = (*kept, 0.0) if kept[-1] > 0 else kept
    if len(kept) < 2 or any(a <= b for a, b in pairwise(kept)) or not 0 <= kept[-1] < kept[0] <= 1:
        raise UserError(f"times must descend in [0, 1], found {[*kept]}", "--keep", "such as 1,0.75,0.5,0.25,0")
    inner = [t for t in kept if 0 < t < 1]
    free = list(grid[1:-1])
    if len(inner) > len(free):
        raise UserError(f"{len(inner)} times to keep on a way of {steps} steps", "--steps", "take more steps")
    for t in inner:
        free.remove(min(free, key=lambda g: abs(g - t)))
    return tuple(sorted({*free, *inner, grid[0], grid[-1]}, reverse=True)), kept


def student_times(config: Config, schedule: Schedule) -> tuple[float, ...]:
    """Where the student of a config is asked. UserError for one of any number of steps."""
    m = config.method
    if not isinstance(m, MethodFlow) and m.times:
        return m.times
    if not isinstance(m, MethodLcm | MethodDmd2):
        raise UserError(f"the student of method {m.name} has no times of its own", "--keep", "list them: 1,0.75,0.5")
    return tuple(schedule.grid(m.steps)[:-1].tolist())


def listed(text: str) -> tuple[float, ...]:
    """Times between commas."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"expected pairs, path, student or times, found {text!r}", "--keep", "such as 1,0.5") from error


# -- guidance --------------------------------------------------------------------------------------------------------


def guidance(
    config: Config, teacher: Denoiser, guided_by: str, scale: Scale
) -> tuple[Callable[[Tensor | None], Denoiser], tuple[float, float] | None, Any]:
    """(scales -> teacher under guidance, the range they are drawn from, what bank.json says of it)."""
    m, most = config.method, config.train.guidance_batch
    name = getattr(m, "condition", None) or guided_by
    if scale is None and isinstance(m, MethodDmd2) and not (guided_by == INPUT and m.guidance.kind == "cfg"):
        table = Guided(teacher, guidance_of(m.guidance, guided_by), most)
        return (lambda _: table), None, m.guidance.model_dump(mode="json")
    if scale is None:
        scale = said_by(config)
    if isinstance(scale, tuple):
        if scale[0] < scale[1]:
            return (lambda each: PerSample(teacher, each, name, most)), scale, [*scale]  # type: ignore[arg-type]
        scale = scale[0]
    one = Told(teacher, scale) if guided_by == INPUT else Guided(teacher, cfg(scale, name), most)
    fixed: Denoiser = teacher if scale == 1 and guided_by != INPUT else one
    return (lambda _: fixed), None, scale


def said_by(config: Config) -> float | tuple[float, float]:
    """The scale, or range of scales, that the method of a config teaches; 1, none, for flow."""
    m = config.method
    if isinstance(m, MethodGuidance):
        return m.scale_low, m.scale_high
    if isinstance(m, MethodLcm):
        return m.guidance_low, m.guidance_high
    return 1.0 if isinstance(m, MethodFlow) else m.guidance.scale


# -- captions --------------------------------------------------------------------------------------------------------


def asks(config: Config, family: AnyFamily, seed: int) -> tuple[Asked, tuple[int, ...], Any]:
    """(index -> condition, shape of a sample, what bank.json says of the captions)."""
    if isinstance(family, AnalyticFamily):
        return analytic(family, seed), family.teacher.shape, family.target
    caption, shape, said = captions(config, family, seed)

    def asked(indices: Sequence[int]) -> tuple[Cond, tuple[str, ...]]:
        texts = tuple(caption(i) for i in indices)
        return family.text(texts), texts

    return asked, shape, said


def analytic(family: AnalyticFamily, seed: int) -> Asked:
    """Labels, where the law has them."""
    teacher = family.teacher

    def asked(indices: Sequence[int]) -> tuple[Cond, tuple[str, ...]]:
        if not isinstance(teacher, Classes):
            return Cond(), ()
        return teacher.cond(torch.tensor([Rng(seed, i, turn="bank").integer("label", CLASSES) for i in indices])), ()

    return asked


def captions(config: Config, family: Any, seed: int) -> tuple[Callable[[int], str], tuple[int, ...], Any]:
    """(index -> caption, shape of the latents, what bank.json says). A list of captions is passed through shuffled,
    all of it before any comes again; the shapes world makes new ones."""
    d = config.data
    if isinstance(d, DataShapes):
        world = world_of(d)

        def drawn(i: int) -> str:
            return world.caption(Rng(seed, i, turn="bank").integer("caption", 2**31))

        return drawn, clip_shape(family, *config.family.clip), {"world": asdict(world)}  # type: ignore[union-attr]
    assert isinstance(d, DataLatents | DataPrompts)
    if Path(d.path).is_file():
        lines, shape = read_prompts(Path(d.path)), clip_shape(family, *config.family.clip)  # type: ignore[union-attr]
    else:
        data = open_data(d.path, lambda _: Cond())
        lines, shape = data.captions(), data.shape
        fit_network(family, shape, d.path)
    code = hashlib.blake2b("\0".join(lines).encode(), digest_size=16).hexdigest()
    return (lambda i: lines[shuffled(seed, i, 0, 1, len(lines))[0]]), shape, f"{len(lines)} captions {code}"


def fingerprint(teacher: Denoiser) -> str:
    """Of a network's weights: every tensor's name, shape and two of its values."""
    if not isinstance(teacher, nn.Module):
        return "exact"
    found = hashlib.blake2b(digest_size=16)
    for name, value in teacher.state_dict().items():
        ends = value.flatten()[[0, -1]].float().tolist() if value.numel() else []
        found.update(f"{name} {tuple(value.shape)} {ends}".encode())
    return found.hexdigest()
