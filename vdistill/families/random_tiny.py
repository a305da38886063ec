"""Real stock pipelines with tiny random weights, built offline: what the contract tests and the tiny recipes run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import nn

from ..core.errors import UserError
from .random_tiny_image import IMAGE
from .random_tiny_text import LENGTH, fill
from .random_tiny_video import VIDEO

FACTORIES: dict[str, Callable[[], DiffusionPipeline]] = {**VIDEO, **IMAGE}
NETWORKS = ("transformer", "transformer_2", "unet")
GAIN = 3**0.5
"""On the linear layers of networks: torch's default start shrinks variance by a third in each, and text, the furthest
from the output, would hardly be seen there."""


def random_tiny(variant: str, seed: int = 0) -> DiffusionPipeline:
    """The pipeline of a variant, float32, eval, without gradients; the same seed gives the same weights.

    UserError for a variant that is not in VARIANTS.
    """
    if variant not in FACTORIES:
        raise UserError(f"no tiny pipeline is called {variant!r}", "variant", f"there are {', '.join(FACTORIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = FACTORIES[variant]()
        for name, part in pipe.components.items():
            if isinstance(part, nn.Module):
                fill(part, GAIN if name in NETWORKS else 1.0)
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
        named = {
            "prompt": self.prompt,
            "height": self.height,
            "width": self.width,
            "num_frames": self.frames,
            "max_sequence_length": self.length,
            "guidance_scale": self.scale,
            "output_type": self.output,
        }
        return {name: value for name, value in named.items() if value is not None} | self.extra


def picture(height: int, width: int) -> Image.Image:
    """A fixed first frame: ramps in red and green, a bright square."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * y // height, 255 * x // width, 64 + 0 * x], axis=-1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(pixels)


QUOTED = 'a red cat holds a sign that says "warm sun"'
PIXART = {"use_resolution_binning": False, "clean_caption": False}
VIDEO_CALL = TinyCall(frames=9, length=LENGTH, scale=6.0)
TINY_CALLS: dict[str, TinyCall] = {
    "wan": replace(VIDEO_CALL, scale=5.0),
    "wan-i2v": replace(VIDEO_CALL, scale=5.0, length=512, extra={"image": picture(64, 48)}),
    "wan22-ti2v": replace(VIDEO_CALL, scale=5.0, height=128, width=96),
    "wan22-a14b": replace(VIDEO_CALL, scale=4.0, extra={"guidance_scale_2": 3.0}),
    "cogvideox-2b": VIDEO_CALL,
    "cogvideox-5b": VIDEO_CALL,
    "cogvideox15-5b": VIDEO_CALL,
    "cogvideox-i2v": replace(VIDEO_CALL, extra={"image": picture(64, 48)}),
    "hunyuan": VIDEO_CALL,
    "hunyuan15": TinyCall(height=128, width=96, frames=9, prompt=QUOTED),
    "ltx": TinyCall(height=96, width=64, frames=17, length=LENGTH, scale=3.0),
    "animatediff": TinyCall(frames=4, scale=7.5),
    "sd15": TinyCall(scale=7.5),
    "sdxl": TinyCall(scale=5.0),
    "sd3": TinyCall(length=LENGTH, scale=7.0),
    "flux": TinyCall(length=LENGTH, scale=3.5),
    "pixart": TinyCall(length=LENGTH, scale=4.5, extra=PIXART),
    "pixart-sigma": TinyCall(length=LENGTH, scale=4.5, extra=PIXART),
    "dit": TinyCall(None, None, scale=4.0, prompt=None, output="pt", extra={"class_labels": [1]}),
}
CALLS: dict[str, dict[str, Any]] = {name: call.kwargs() for name, call in TINY_CALLS.items()}
"""Keyword arguments of a small call of each pipeline."""
