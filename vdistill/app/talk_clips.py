"""Talking heads made by any model that hears: from clips of the talker world, under a chain of guidance scales."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ..causal.rolling import generate_rolling
from ..causal.rollout import Plan as Walk
from ..causal.rollout import generate
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.engine import Engine
from ..core.guidance import chain
from ..core.guided import Guided
from ..core.rng import Rng
from ..core.sampling import Deterministic, Renoise, Sampler
from ..data.encode import png
from ..eval.aperture import aperture
from ..eval.sync import pearson
from ..families.stock import StockFamily
from ..worlds.talker.clips import Clip
from ..worlds.talker.talker import Talker
from .build import Built
from .build_avatar import conditions_of
from .build_causal import unit_of
from .build_scales import tokens_of, told_student
from .causal_file import Saved, saved
from .generate import Plan, latents
from .models import clip_of
from .schema import Config
from .talker_source import caption

SPLITS = ("seen", "open")
SHOWN = 6  # clips of each split


def told(family: StockFamily, clips: Sequence[Clip], captions: Sequence[str]) -> Cond:
    """Conditions of clips: what they sound like, one picture of each, a caption of each."""
    ref = family.codec.encode(torch.stack([clip.reference for clip in clips])[:, :, None])[:, :, 0]
    cond = conditions_of(family)(torch.stack([clip.sound for clip in clips]), ref, family.text(captions))
    return cond.to(family.device)


def under(net: Denoiser, scales: Mapping[str, float] | None, max_batch: int | None = None) -> Denoiser:
    """The network under a chain of scales, in the order given; itself where all are 1 or none is given."""
    if not scales or all(scale == 1 for scale in scales.values()):
        return net
    return Guided(net, chain(*scales.items()), max_batch)


@torch.no_grad()
def talking(
    family: StockFamily,
    cond: Cond,
    shape: Sequence[int],
    steps: int,
    scales: Mapping[str, float] | None = None,
    seed: int = 0,
    net: Denoiser | None = None,
    times: Sequence[float] | None = None,
    causal: Saved | None = None,
) -> Tensor:
    """Pixels [B, 3, T, H, W] in [-1, 1] of conditions of B clips. shape: [C, T, H, W] of their latents; scales: of a
    chain, or those that a student with guidance tokens is told; times: of a few-step student; causal: how a student
    that makes its clips block by block does so."""
    count = len(next(iter(cond.fields.values())))
    noise = torch.stack([Rng(seed + i).normal("first", shape) for i in range(count)]).to(family.device)
    net = net or family.net
    net = under(net, scales) if tokens_of(family) is None else told_student(family, net, scales)
    if causal is not None:
        return family.codec.decode(rolled(family, causal, net, noise, cond, steps, times, seed))
    return family.codec.decode(latents(family, net, noise, cond, Plan(steps), times))


def rolled(
    family: StockFamily,
    causal: Saved,
    net: Denoiser,
    noise: Tensor,
    cond: Cond,
    steps: int,
    times: Sequence[float] | None,
    seed: int,
) -> Tensor:
    """Latents block by block, as a stream makes them; times: of a student, otherwise `steps` of a causal teacher."""
    unit, sampler = unit_of(family), cast(Sampler, Renoise())
    if times is None:
        times, sampler = tuple(family.schedule.grid(steps)[:-1].tolist()), Deterministic()
    walk = Walk(causal.layout(unit), tuple(times), causal.first, causal.commit_sigma, unit, sampler)
    make = generate_rolling if causal.rolling > 1 else generate
    return make(net, noise, cond, walk, Rng(seed, turn="talk"))


def talk_validator(config: Config, built: Built, engine: Engine) -> Callable[[int], None]:
    """What to call at a validation step: sheets of frames, and how well mouths follow the sound."""
    family, v = built.family, config.validation
    assert isinstance(family, StockFamily)
    frames, size, _ = clip_of(built, config)
    shape = family.codec.shape(frames, size, size)
    groups = {split: held_out(split, frames, size) for split in SPLITS}
    causal = saved(config.causal, built.times) if config.causal else None
    how = (v.steps, v.scales, v.seed, built.student, built.times, causal)

    def validate(step: int) -> None:
        if not engine.accelerator.is_main_process:
            return
        folder = engine.out / "validation" / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, float] = {"step": step}
        for split, (clips, captions) in groups.items():
            with engine.averaged():
                made = talking(family, told(family, clips, captions), shape, *how).cpu()
            (folder / f"{split}.png").write_bytes(png(sheet(clips, made), 2))
            found |= {f"{split}/{name}": value for name, value in measured(clips, made).items()}
        (folder / "scores.json").write_text(json.dumps(found, indent=1))

    return validate


def held_out(split: str, frames: int, size: int) -> tuple[list[Clip], list[str]]:
    """(clips, captions) that no training saw."""
    world = Talker(split, size, frames)
    clips = [world.clip(i) for i in range(SHOWN)]
    return clips, [caption(world.who(i)[1].liveliness) for i in range(SHOWN)]


def measured(clips: Sequence[Clip], made: Tensor) -> dict[str, float]:
    """sync: correlation of how far mouths look open with how far they should be; colour: mean distance to the true
    clip, each frame's colours averaged over squares of a quarter of the frame, in [-1, 1] units."""
    truth = torch.stack([clip.frames for clip in clips])
    mouths = torch.stack([clip.mouth[:, 0] for clip in clips])
    coarse = torch.nn.functional.adaptive_avg_pool3d
    size = (made.shape[2], 4, 4)
    return {
        "sync": float(pearson(aperture(made), mouths).mean()),
        "colour": float((coarse(made, size) - coarse(truth, size)).abs().mean()),
    }


def sheet(clips: Sequence[Clip], made: Tensor, shown: int = 8) -> Tensor:
    """[3, H, W]: for each clip its reference, then frames as they should be, and below as they were made."""
    rows = []
    for clip, ours in zip(clips, made, strict=True):
        at = torch.linspace(0, ours.shape[1] - 1, shown).long()
        for frames in (clip.frames, ours):
            rows.append(torch.cat([clip.reference, *(frames[:, int(i)] for i in at)], 2))
    return torch.cat(rows, 1)
