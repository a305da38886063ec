"""From an opened model to a stream: a causal few-step student at its own times, or a causal teacher by a solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..causal.rolling_stream import RollingStream
from ..causal.rollout import Plan
from ..causal.stream import Stream
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.guidance import cfg
from ..core.guided import INPUT, Guided, Told
from ..core.sampling import Deterministic, Renoise, Sampler
from ..families.stock import StockFamily
from .build_causal import unit_of
from .causal_file import Saved, read_causal
from .models import clip_shape, model_folder


def causal_of(name: str | Path) -> Saved:
    """How a model streams. UserError for one that sees its whole clip."""
    folder = model_folder(name)
    found = read_causal(folder)
    if found is None:
        hint = "distil a causal student (causal: in a config), or name a public one with --preset"
        raise UserError("sees its whole clip, so it does not stream", str(folder), hint)
    return found


def stream_of(
    family: StockFamily,
    spec: Saved,
    prompts: Sequence[str],
    size: tuple[int, int],
    *,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 1.0,
    net: Denoiser | None = None,
    store: torch.device | None = None,
) -> Stream:
    """A stream of one clip a prompt. size: (height, width) in pixels; steps, guidance: of a causal teacher; net: in
    place of the family's own; clip i is what seed + i makes alone."""
    student, unit = net or family.net, unit_of(family)
    channels, _, high, wide = clip_shape(family, 1, *size)
    times, sampler = spec.times or family.times, cast(Sampler, Renoise())
    if times is None:
        times, sampler = tuple(family.schedule.grid(steps)[:-1].tolist()), Deterministic()
        student = told(family, student, guidance)
    plan = Plan(spec.layout(unit), times, spec.first, spec.commit_sigma, unit, sampler)
    cond = family.text(prompts).to(family.device)
    seeds = tuple(seed + i for i in range(len(prompts)))
    kind = RollingStream if spec.rolling > 1 else Stream
    return kind(student, plan, (channels, high, wide), cond, seeds, family.device, store, spec.commit == "recompute")


def told(family: StockFamily, student: Denoiser, scale: float) -> Denoiser:
    """A causal teacher under guidance; a scale of 1 is none."""
    if family.guided_by == INPUT:
        return Told(student, scale)
    return student if scale == 1 else Guided(student, cfg(scale, family.guided_by))


def latent_count(family: StockFamily, spec: Saved, frames: int) -> int:
    """Latent frames of whole blocks that hold `frames` frames, and those that only fill the first patch."""
    needed = getattr(family.codec, "spare", 0) + 1 + math.ceil((frames - 1) / family.codec.temporal)
    first = spec.first_block or spec.block
    return first + max(math.ceil((needed - first) / spec.block), 0) * spec.block


def held_back(decode: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Frames that a streaming decoder still waits with, if any."""
    found: Tensor | None = decode.finish() if hasattr(decode, "finish") else None
    return None if found is None else found.cpu()


@torch.no_grad()
def block_by_block(
    family: StockFamily,
    spec: Saved,
    prompts: Sequence[str],
    frames: int,
    size: tuple[int, int],
    **how: Any,
) -> Tensor:
    """[B, 3, frames, H, W] in [-1, 1]. how: as `stream_of` takes it."""
    stream = stream_of(family, spec, prompts, size, **how)
    total, made = latent_count(family, spec, frames), list[Tensor]()
    while sum(x.shape[2] for x in made) < total:
        made.append(next(stream))
    return family.codec.decode(torch.cat(made, 2))[:, :, :frames]
