"""Clips made while training: RUN/validation/step_N, and their scores where the world knows the truth."""

from __future__ import annotations

import json
from collections.abc import Callable

from ..core.engine import Engine
from ..data.media import write_video
from ..families.stock import StockFamily
from ..worlds.shapes import Shapes
from .build import Built
from .build_family import vocabulary
from .generate import Plan, generate
from .models import clip_of
from .schema import Config, DataShapes
from .score import score

SHOWN = 8


def validator(config: Config, built: Built, engine: Engine) -> Callable[[int], None] | None:
    """What to call at a validation step, or None for a family without clips."""
    family, v = built.family, config.validation
    if not isinstance(family, StockFamily):
        return None
    world = isinstance(config.data, DataShapes)
    prompts = list(v.prompts) or ([Shapes(split="test", open=0.0).caption(i) for i in range(SHOWN)] if world else [])
    prompts = prompts or list(dict.fromkeys(vocabulary(config)))[:SHOWN]
    frames, height, width = clip_of(built, config)
    plan = Plan(v.steps, v.guidance, seed=v.seed)

    def validate(step: int) -> None:
        if not engine.accelerator.is_main_process:
            return
        folder = engine.out / "validation" / f"step_{step}"
        folder.mkdir(parents=True, exist_ok=True)
        with engine.averaged():
            made = generate(family, prompts, plan, frames, (height, width), built.student, built.times)
        for i, clip in enumerate(made.pixels):
            write_video(folder / f"{i:02d}.mp4", clip, fps=8, scale=max(1, 128 // clip.shape[-1]))
        found = {"step": step, "prompts": prompts} | (score(made.pixels, prompts) if world else {})
        (folder / "scores.json").write_text(json.dumps(found, indent=1))

    return validate
