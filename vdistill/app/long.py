"""Clips longer than a model was made for: at once, in windows, one out of the other, or a line that says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..families.stock import StockFamily
from ..video.extend import Continued, extended, taken
from ..video.windows import Windowed
from .generate import Counted, Plan, Sampled, decoded, generate
from .models import clip_shape

Long = Literal["error", "direct", "windows", "extend"]
WHOLE = 0.9
"""Above this time windows are not used: there it is decided what a clip shows, and each window would decide alone."""
APART = 1 << 32  # between the seeds of a clip and of the one that goes on from it


def of_length(
    family: StockFamily,
    captions: Sequence[str],
    plan: Plan,
    frames: int,
    size: tuple[int, int],
    own: int,
    long: Long = "error",
    first: Tensor | None = None,
    whole: float | None = None,
) -> Sampled:
    """One clip of `frames` frames a caption. own: frames the model was made for; size, first: as of `generate`; whole:
    time above which windows are not used, WHOLE when left out.

    UserError for a length or a way that this model has no use for.
    """
    if frames <= own or long == "direct" or plan.causal is not None:
        return generate(family, captions, plan, frames, size, first=first)
    if family.image:
        raise UserError(f"{family.name} makes images, not {frames} frames", "--frames")
    if long == "windows" and family.needs_image:
        raise UserError("a first image belongs to one clip, not to its windows", "--long", "use --long extend")
    if long == "windows":
        return in_windows(family, captions, plan, frames, size, own, first, whole)
    if long == "extend":
        return one_from_another(family, captions, plan, frames, size, own, first)
    ways = "extend" if family.needs_image else "windows, --long extend"
    hint = f"say --long {ways} or, untried, --long direct"
    raise UserError(f"this model was made for clips of {own} frames, found {frames}", "--frames", hint)


def windowed(
    family: StockFamily,
    net: Denoiser,
    plan: Plan,
    window: int,
    times: Sequence[float] | None,
    whole: float | None = None,
) -> Windowed:
    """Windows of `window` latents that share half of them and move by about 0.38 of the rest at every step, which
    comes back to no place soon; the first latent of a window is not used where a codec makes it one frame."""
    overlap = (window + 1) // 2 if window > 1 else 0
    lead = min(overlap, int(family.codec.temporal > 1))
    grid = tuple(times) if times is not None else tuple(family.net.schedule.grid(plan.steps).tolist())
    shift = max(1, round(0.382 * (window - overlap)))
    if whole is None:  # AnimateDiff's places are a table that ends
        whole = 1.0 if family.name == "animatediff" else WHOLE
    return Windowed(net, window, overlap, shift, grid, lead, max_batch=plan.batch, whole=whole)


def in_windows(
    family: StockFamily,
    captions: Sequence[str],
    plan: Plan,
    frames: int,
    size: tuple[int, int],
    own: int,
    first: Tensor | None = None,
    whole: float | None = None,
) -> Sampled:
    """Sliding-window denoising; every window is a pass, and so is the whole sequence."""
    counted = Counted(family.net)
    net = windowed(family, counted, plan, clip_shape(family, own, *size)[1], family.times, whole)
    made = generate(family, captions, plan, frames, size, net, family.times, first)
    return replace(made, passes=counted.clips // len(captions))


@torch.no_grad()
def one_from_another(
    family: StockFamily,
    captions: Sequence[str],
    plan: Plan,
    frames: int,
    size: tuple[int, int],
    own: int,
    first: Tensor | None = None,
) -> Sampled:
    """Clips of the model's own length, each from the end of the one before: its last frame as the first image, or its
    last two latents as known ones for a model of text alone."""
    shape, begun = clip_shape(family, own, *size), time.perf_counter()
    keep = 1 if family.needs_image else 1 + family.codec.temporal * min(1, shape[1] - 2)
    counted, whole = Counted(family.net), []
    for i in range(0, len(captions), plan.batch):
        part = captions[i : i + plan.batch]

        def make(last: Tensor | None, number: int, part: Sequence[str] = part, i: int = i) -> Tensor:
            seed = (plan.seed + i + number * APART) % (1 << 64)
            picture, known = first, None
            if last is not None and family.needs_image:
                picture = last[:, :, -1]
            elif last is not None:
                known = family.codec.encode(last.to(family.device))
            return decoded(family, Continued(counted), part, plan, shape, family.times, seed, picture, known).cpu()

        whole.append(taken(extended(make, keep), frames))
    seconds = (time.perf_counter() - begun) / len(captions)
    return Sampled(torch.cat(whole), counted.clips // len(captions), seconds)
