"""Stable Diffusion 3 and 3.5: what is special about them, exact against the stock pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import CLOSE, apart
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from families.image_bed import Bed, bed, rebuilt, told_alike
from torch import Tensor

from vdistill.core.attention import full
from vdistill.core.errors import UserError
from vdistill.families.random_tiny import random_tiny
from vdistill.families.sd3 import Sd3Family


def medium() -> Bed:
    """As 3.5 medium: norms on queries and keys, two attentions in the first block, a shift that follows size."""
    pipe = random_tiny("sd3")
    network = rebuilt(pipe.transformer, dual_attention_layers=(0,), qk_norm="rms_norm")
    shifts = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    pipe.register_modules(transformer=network, scheduler=shifts)
    return bed("sd3", pipe)


def without_t5() -> Bed:
    pipe = random_tiny("sd3")
    parts = pipe.components | {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return bed("sd3", pipe, max_sequence_length=256)


@pytest.mark.parametrize("make", [lambda: bed("sd3"), medium, without_t5], ids=["3", "3.5 medium", "no T5"])
def test_the_network_is_told_what_its_pipeline_tells_it(make: Any) -> None:
    b = make()
    network = b.family.pipe.transformer
    assert told_alike(network, lambda: b.ours(1.0), lambda: b.stock(guidance_scale=1.0)) <= CLOSE


@pytest.mark.parametrize("make", [medium, without_t5], ids=["3.5 medium", "no T5"])
def test_variants_sample_under_guidance_as_their_pipeline_does(make: Any) -> None:
    b = make()
    assert apart(b.ours(7.0), b.stock()) <= CLOSE
    assert apart(b.ours(4.0), b.stock()) > 1e-3


def test_a_shift_that_follows_size_is_another_one_for_another_size() -> None:
    b = medium()
    small, large = b.shape, b.family.codec.shape(1, 256, 256)
    sigmas = []
    for shape in (small, large):
        b.family.shift_for(shape)
        b.family.set_timesteps(b.family.pipe.scheduler, 4, shape, torch.device("cpu"))
        sigmas.append(b.family.pipe.scheduler.sigmas)
        mu = b.family.mu_of(shape)
        assert abs(b.family.schedule.shift - torch.tensor(mu).exp().item()) < 1e-5
    assert sigmas[1][1] > sigmas[0][1] + 1e-3


def test_the_seam_sees_text_first_then_the_second_attention_without_text() -> None:
    b, seen = medium(), []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, **more: Any) -> Tensor:
        seen.append((layer, prefix, q.shape[2], rope))
        return full(layer, q, k, v, rope, prefix=prefix, **more)

    x, t = b.noise(), torch.tensor([0.7])
    assert apart(b.family.net.x0(x, t, b.cond, attend=attend), b.family.net.x0(x, t, b.cond)) <= CLOSE
    text, tokens = b.cond.fields["text"].shape[1], b.family.tokens(b.shape)
    assert seen == [(0, text, text + tokens, None), (1, 0, tokens, None), (2, text, text + tokens, None)]


def test_dropping_the_text_drops_the_pooled_text_too() -> None:
    b = bed("sd3")
    null = b.family.text([""])
    dropped = b.cond.drop(["text"])
    for part in ("text", "text.pooled"):
        assert torch.equal(dropped.fields[part], null.fields[part])
        assert not torch.equal(dropped.fields[part], b.cond.fields[part])


def test_a_negative_prompt_stands_where_the_pipeline_puts_it() -> None:
    b = bed("sd3")
    family = Sd3Family(b.family.pipe, "a blue square sleeps")
    told = Bed(family, b.call, family.text(["a red cat jumps over a fence"]))
    assert apart(told.ours(7.0), told.stock(negative_prompt="a blue square sleeps")) <= CLOSE


def test_a_pipeline_without_t5_reads_what_its_clips_read(tmp_path: Path) -> None:
    b = without_t5()
    b.family.save(b.family.net, tmp_path)
    opened = StableDiffusion3Pipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    back = Sd3Family(opened)
    x, t = b.noise(), torch.tensor([0.4])
    assert torch.equal(back.net.x0(x, t, back.text(["a red cat jumps over a fence"])), b.family.net.x0(x, t, b.cond))
    assert back.text_length == back.pipe.tokenizer.model_max_length
    with pytest.raises(UserError, match="tokens, sd3 reads"):
        back.text(["red " * 40])


def test_pictures_are_the_pipelines_and_come_back() -> None:
    b = bed("sd3")
    pixels = b.family.codec.decode(b.family.unpack(b.ours(7.0), b.shape))
    assert apart((pixels[:, :, 0] + 1) / 2, b.stock(output_type="pt")) <= CLOSE
    again = b.family.codec.encode(pixels)
    want = b.family.pipe.vae.encode(pixels[:, :, 0]).latent_dist.mode()
    assert apart(again[:, :, 0], (want - 0.0609) * 1.5305) <= CLOSE
    with pytest.raises(UserError, match="multiples of 16"):
        b.family.codec.shape(1, 64, 40)
