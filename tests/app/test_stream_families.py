"""Every video family streams: its blocks, its decoder, its prompts."""

from __future__ import annotations

import pytest
import torch
from contract import case

from vdistill.app.causal_file import Saved
from vdistill.app.live import Live
from vdistill.app.streaming import block_by_block, stream_of
from vdistill.core.errors import UserError

SLOW = pytest.param("hunyuan15", marks=pytest.mark.slow)  # a decoder of 16 x 16 pixels
VIDEO = ("wan", "cogvideox-5b", "cogvideox15-5b", "hunyuan", SLOW, "ltx")


@pytest.mark.parametrize("variant", VIDEO)
def test_a_family_streams(variant: str) -> None:
    found = case(variant)
    family, size = (
        found.family,
        (found.shape[2] * found.family.codec.spatial, found.shape[3] * found.family.codec.spatial),
    )
    spec = Saved(block=2, window=8, sink=2, rope="relative", times=(1.0, 0.6))
    live = Live(family, stream_of(family, spec, ["a cat"], size), size, "a cat")
    made = [next(live) for _ in range(3)]
    live.say("a dog")
    made += [next(live) for _ in range(2)]
    made += [rest] if (rest := live.finish()) is not None else []
    pixels = torch.cat(made, 2)
    latents = live.stream.number * live.stream.plan.unit - getattr(family.codec, "spare", 0)
    assert pixels.shape[2] == 1 + (latents - 1) * family.codec.temporal
    assert pixels.shape[-2:] == size and pixels.isfinite().all() and pixels.std() > 0
    assert len(live.stream.cache) <= 8


@pytest.mark.parametrize("variant", VIDEO)
def test_clips_of_a_causal_model_are_as_long_as_asked(variant: str) -> None:
    found = case(variant)
    family, size = (
        found.family,
        (found.shape[2] * found.family.codec.spatial, found.shape[3] * found.family.codec.spatial),
    )
    frames = 1 + 4 * family.codec.temporal
    spec = Saved(block=2, rope="relative", times=(1.0, 0.6))
    assert block_by_block(family, spec, ["a cat", "a dog"], frames, size).shape == (2, 3, frames, *size)


def test_two_experts_do_not_share_a_memory() -> None:
    found = case("wan22-a14b")
    with pytest.raises(UserError, match="has two experts"):
        stream_of(found.family, Saved(times=(1.0, 0.6)), ["a cat"], (64, 64))
