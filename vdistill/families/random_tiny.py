"""Real stock pipelines with tiny random weights, built offline: what the contract tests and the tiny recipes run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..core.errors import UserError
from .random_tiny_image import IMAGE
from .random_tiny_text import LENGTH, fill
from .random_tiny_video import VIDEO

FACTORIES: dict[str, Callable[[], DiffusionPipeline]] = {**VIDEO, **IMAGE}


def random_tiny(variant: str, seed: int = 0) -> DiffusionPipeline:
    """The pipeline of a variant, float32, eval, without gradients; the same seed gives the same weights.

    UserError for a variant that is not in VARIANTS.
    """
    if variant not in FACTORIES:
        raise UserError(f"no tiny pipeline is called {variant!r}", "variant", f"there are {', '.join(FACTORIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = FACTORIES[variant]()
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                fill(part)
    pipe.set_progress_bar_config(disable=True)
    return pipe


VARIANTS: dict[str, Callable[[int], DiffusionPipeline]] = {name: partial(random_tiny, name) for name in FACTORIES}


@dataclass(frozen=True)
class TinyCall:
    """A small call of a pipeline. height, width: pixels; frames: of a video; length: tokens of text, where the call
    takes it; scale: guidance; extra: what only this pipeline takes."""

    height: int | None = 64
    width: int | None = 48
    frames: int | None = None
    length: int | None = None
    scale: float | None = None
    prompt: str | None = "a red cat jumps over a fence"
    output: str = "latent"
    extra: dict[str, Any] = field(default_factory=dict)

    def kwargs(self) -> dict[str, Any]:
        """Of the pipeline's __call__; num_inference_steps and generator are the caller's."""
        named = dict(
            prompt=self.prompt,
            height=self.height,
            width=self.width,
            num_frames=self.frames,
            max_sequence_length=self.length,
            guidance_scale=self.scale,
            output_type=self.output,
        )
        return {name: value for name, value in named.items() if value is not None} | self.extra


CALLS: dict[str, dict[str, Any]] = {
    name: call.kwargs()
    for name, call in {
        "wan": TinyCall(frames=9, length=LENGTH, scale=5.0),
        "cogvideox-5b": TinyCall(frames=9, length=LENGTH, scale=6.0),
        "hunyuan": TinyCall(frames=9, length=LENGTH, scale=6.0),
        "ltx": TinyCall(height=96, width=64, frames=17, length=LENGTH, scale=3.0),
        "sd15": TinyCall(scale=7.5),
        "sdxl": TinyCall(scale=5.0),
        "sd3": TinyCall(length=LENGTH, scale=7.0),
        "flux": TinyCall(length=LENGTH, scale=3.5),
    }.items()
}
