"""PixArt-alpha and -sigma: sizes as conditions, masked text, a learned variance nobody reads; exact against stock."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import CLOSE, apart
from diffusers import TCDScheduler
from families.image_bed import Bed, bed, rebuilt, told, told_alike

from vdistill.core.errors import UserError
from vdistill.families.random_tiny import random_tiny


def alpha_512() -> Bed:
    """As PixArt-alpha at 512: no added conditions, which its config leaves to the sample size."""
    pipe = random_tiny("pixart")
    network = rebuilt(pipe.transformer, sample_size=64, use_additional_conditions=None)
    pipe.register_modules(transformer=network)
    return bed("pixart", pipe)


def sigma_1024() -> Bed:
    """As PixArt-sigma at 1024: alpha's sample size, but told no sizes."""
    pipe = random_tiny("pixart-sigma")
    pipe.register_modules(transformer=rebuilt(pipe.transformer, sample_size=128))
    return bed("pixart-sigma", pipe)


KINDS = {
    "alpha 1024": lambda: bed("pixart"),
    "alpha 512": alpha_512,
    "sigma": lambda: bed("pixart-sigma"),
    "sigma 1024": sigma_1024,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_told_what_its_pipeline_tells_it(kind: str) -> None:
    b = KINDS[kind]()
    network = b.family.pipe.transformer
    assert told_alike(network, lambda: b.ours(1.0), lambda: b.stock(guidance_scale=1.0)) <= CLOSE


@pytest.mark.parametrize("kind", ["alpha 512", "sigma 1024"])
def test_variants_sample_under_guidance_as_their_pipeline_does(kind: str) -> None:
    b = KINDS[kind]()
    assert apart(b.ours(4.5), b.stock()) <= CLOSE
    assert apart(b.ours(2.0), b.stock()) > 1e-3


def test_height_and_width_are_told_in_this_order_and_their_ratio() -> None:
    b = bed("pixart")
    x = torch.randn(2, 4, 1, 8, 6)
    cond = b.cond.select(torch.tensor([0, 0]))
    t = torch.tensor([0.5, 0.5])
    said, _ = told(b.family.pipe.transformer, lambda: b.family.net.x0(x, t, cond))[0]
    assert said["added_cond_kwargs.resolution"].tolist() == [[64.0, 48.0]] * 2
    assert torch.equal(said["added_cond_kwargs.aspect_ratio"], torch.full((2, 1), 64 / 48))


def test_padding_is_not_read_and_words_are() -> None:
    b = bed("pixart-sigma")
    x, t = b.noise(), torch.tensor([0.6])
    plain, text = b.family.net.x0(x, t, b.cond), b.cond.fields["text"]
    padding = (b.cond.fields["text.mask"] == 0)[..., None]
    assert padding.any()
    for where, same in ((padding, True), (~padding, False)):
        other = b.family.net.x0(x, t, b.cond.with_field("text", torch.where(where, text + 5, text)))
        assert (apart(other, plain) <= CLOSE) is same


def test_dropping_the_text_drops_its_mask_too() -> None:
    b = bed("pixart")
    dropped, null = b.cond.drop(["text"]), b.family.text([""])
    assert torch.equal(dropped.fields["text.mask"], null.fields["text.mask"])
    assert not torch.equal(dropped.fields["text.mask"], b.cond.fields["text.mask"])


def test_the_variance_it_learned_changes_nothing() -> None:
    b = bed("pixart-sigma")
    before = b.ours(4.5)
    head: Any = b.family.pipe.transformer.proj_out  # rows: height, width, channel of a patch
    with torch.no_grad():
        head.bias.view(4, 8)[:, 4:] += 3.0
    assert torch.equal(b.ours(4.5), before)
    with torch.no_grad():
        head.bias.view(4, 8)[:, :4] += 3.0
    assert apart(b.ours(4.5), before) > 1e-2


def test_text_may_be_as_long_as_each_pipeline_reads() -> None:
    for variant, length in (("pixart", 120), ("pixart-sigma", 300)):
        pipe = random_tiny(variant)
        assert bed(variant, pipe).family.text_length == pipe.tokenizer.model_max_length == 16
        pipe.tokenizer.model_max_length = 512
        assert bed(variant, pipe).family.text_length == length
    with pytest.raises(UserError, match="tokens, pixart reads 16"):
        bed("pixart").family.text(["a red cat jumps " * 20])


def test_pictures_are_the_pipelines() -> None:
    b = bed("pixart")
    pixels = b.family.codec.decode(b.family.unpack(b.ours(4.5), b.shape))
    assert apart((pixels[:, :, 0] + 1) / 2, b.stock(output_type="pt")) <= CLOSE


def test_a_scheduler_with_an_eta_of_its_own_gets_the_pipelines() -> None:
    pipe = random_tiny("pixart-sigma")
    pipe.register_modules(scheduler=TCDScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"))
    b = bed("pixart-sigma", pipe)
    found = b.ours(4.5)
    assert found.isfinite().all() and apart(found, b.stock(guidance_scale=4.5)) <= CLOSE
