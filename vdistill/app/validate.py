"""Clips made while training: RUN/validation/step_N, and their scores where the world knows the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ..core.engine import Engine
from ..core.errors import UserError
from ..data.media import write_video
from ..families.stock import StockFamily
from ..worlds.shapes import Shapes
from .build import Built
from .build_family import vocabulary
from .causal_file import saved
from .generate import Plan, generate
from .models import clip_of
from .sample import first_image
from .schema import Config, DataShapes, Validation
from .schema_avatar import DataTalker
from .score import score
from .talk_clips import talk_validator

SHOWN = 8


def check_image(v: Validation, family: StockFamily) -> None:
    """UserError where clips are to be made from a first picture and none is named, or the other way round."""
    if v.every and family.needs_image and v.image is None:
        what = f"{family.name} of this folder starts from an image"
        raise UserError(what, "validation.image", "name a PNG or JPEG there, or say validation.every: 0")
    if v.image is not None and not family.needs_image:
        raise UserError(
            f"{family.name} of this folder does not start from an image", "validation.image", "leave it out"
        )


def validator(config: Config, built: Built, engine: Engine) -> Callable[[int], None] | None:
    """What to call at a validation step, or None for a family without clips."""
    family, v = built.family, config.validation
    if not isinstance(family, StockFamily):
        return None
    if isinstance(config.data, DataTalker):
        return talk_validator(config, built, engine)
    world = isinstance(config.data, DataShapes)
    prompts = list(v.prompts) or ([Shapes(split="test", open=0.0).caption(i) for i in range(SHOWN)] if world else [])
    prompts = prompts or list(dict.fromkeys(vocabulary(config)))[:SHOWN]
    frames, height, width = clip_of(built, config)
    causal = saved(config.causal, built.times) if config.causal else None
    plan = Plan(v.steps, v.guidance, seed=v.seed, causal=causal)
    check_image(v, family)
    first = first_image(Path(v.image) if v.image else None, (height, width))

    def validate(step: int) -> None:
        if not engine.accelerator.is_main_process:
            return
        folder = engine.out / "validation" / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        with engine.averaged():
            made = generate(family, prompts, plan, frames, (height, width), built.student, built.times, first)
        for i, clip in enumerate(made.pixels):
            write_video(folder / f"{i:02d}.mp4", clip, fps=8, scale=max(1, 128 // clip.shape[-1]))
        found = {"step": step, "prompts": prompts} | (score(made.pixels, prompts) if world else {})
        (folder / "scores.json").write_text(json.dumps(found, indent=1))

    return validate
