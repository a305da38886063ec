"""Stable Diffusion 1.x and XL: the VAE, the taps and the attention seam, against the stock parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import CLOSE, apart
from families.image_bed import bed
from torch import Tensor

from vdistill.core.attention import full
from vdistill.core.errors import UserError
from vdistill.families.random_tiny import random_tiny


@pytest.mark.parametrize("variant", ["sd15", "sdxl"])
def test_pixels_are_the_pipelines_and_normalisation_undoes_itself(variant: str) -> None:
    b = bed(variant)
    draws = torch.Generator().manual_seed(1)
    z = torch.randn((1, *b.shape), generator=draws)
    pixels = b.stock(output_type="pt")
    ours = b.family.codec.decode(b.family.unpack(b.ours(b.call["guidance_scale"]), b.shape))
    assert apart((ours[:, :, 0] + 1) / 2, pixels) <= CLOSE
    scaling = {"sd15": 0.18215, "sdxl": 0.13025}[variant]
    encoded = b.family.codec.encode(ours)
    theirs = b.family.pipe.vae.encode(ours[:, :, 0]).latent_dist.mode() * scaling
    assert apart(encoded[:, :, 0], theirs) <= CLOSE and encoded.shape == z.shape


def test_xl_latents_are_normalised_by_channel_where_the_vae_says_so() -> None:
    pipe = random_tiny("sdxl")
    pipe.vae.register_to_config(latents_mean=[0.5, -1.0, 0.2, 2.0], latents_std=[2.0, 0.5, 1.5, 1.0])
    b = bed("sdxl", pipe)
    pixels = b.stock(output_type="pt")
    clean = b.family.unpack(b.ours(5.0), b.shape)
    assert apart((b.family.codec.decode(clean)[:, :, 0] + 1) / 2, pixels) <= CLOSE
    z = pipe.vae.encode(2 * pixels - 1).latent_dist.mode()
    mean, std = (torch.tensor(pipe.vae.config[k]).view(1, 4, 1, 1) for k in ("latents_mean", "latents_std"))
    found = b.family.codec.encode((2 * pixels - 1)[:, :, None])[:, :, 0]
    assert apart(found, (z - mean) * 0.13025 / std) <= CLOSE


def test_a_vae_that_overflows_in_half_precision_works_in_full_as_in_its_pipeline() -> None:
    pipe = random_tiny("sdxl")
    pipe.vae.decoder.conv_in.weight.data *= 2.0**13
    pipe.vae.decoder.conv_in.bias.data *= 2.0**13
    whole = bed("sdxl", pipe).family.codec.decode(torch.ones(1, 4, 1, 8, 6))
    pipe.vae.to(torch.float16)
    codec = bed("sdxl", pipe).family.codec
    half = codec.decode(torch.ones(1, 4, 1, 8, 6))
    assert half.isfinite().all() and (half - whole).abs().max() < 0.02
    assert pipe.vae.dtype == torch.float16  # as it was
    assert (codec.encode(half) - codec.encode(whole)).abs().max() < 0.01
    pipe.vae.register_to_config(force_upcast=False)
    assert not codec.decode(torch.ones(1, 4, 1, 8, 6)).isfinite().all()


def test_sides_that_do_not_divide_are_one_line() -> None:
    with pytest.raises(UserError, match="multiples of 8"):
        bed("sd15").family.codec.shape(1, 60, 64)


def test_features_come_from_every_level_with_its_width() -> None:
    b = bed("sdxl")
    network, t = b.family.network_of(), torch.tensor([0.5])
    found = b.family.net.taps(b.noise(), t, b.cond, range(5))
    assert [tuple(f.shape[1:]) for f in found] == [(12, 8), (12, 16), (12, 16), (48, 16), (48, 8)]
    assert [network.width(layer) for layer in range(5)] == [8, 16, 16, 16, 8]


def test_the_seam_sees_self_attention_of_every_level_and_can_change_it() -> None:
    b, seen, t = bed("sdxl"), [], torch.tensor([0.5])

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        seen.append((layer, q.shape[2], rope, more))
        return full(layer, q, k, v, rope, **more)

    def still(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        return torch.zeros_like(v)

    want = b.family.net.x0(b.noise(), t, b.cond)
    assert apart(b.family.net.x0(b.noise(), t, b.cond, attend=attend), want) <= CLOSE
    assert seen == [(layer, 12, None, {}) for layer in range(len(seen))] and len(seen) == 8
    assert apart(b.family.net.x0(b.noise(), t, b.cond, attend=still), want) > 1e-4
    assert torch.equal(b.family.net.x0(b.noise(), t, b.cond), want)  # the network's own kernels are back
