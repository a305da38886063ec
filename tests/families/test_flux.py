"""FLUX.1: packed latents, the scale as an input of dev, schnell without guidance; exact against the stock pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import CLOSE, apart
from diffusers import FlowMatchEulerDiscreteScheduler
from families.image_bed import Bed, bed, rebuilt, told, told_alike
from torch import Tensor

from vdistill.core.attention import full
from vdistill.core.guided import Told
from vdistill.families.flux import FluxFamily
from vdistill.families.random_tiny import random_tiny


def schnell() -> Bed:
    pipe = random_tiny("flux")
    network = rebuilt(pipe.transformer, guidance_embeds=False)
    pipe.register_modules(transformer=network, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0))
    return bed("flux", pipe)


@pytest.mark.parametrize("make", [lambda: bed("flux"), schnell], ids=["dev", "schnell"])
def test_the_network_is_told_what_its_pipeline_tells_it(make: Any) -> None:
    b = make()
    scale = 3.5 if b.family.guided_by == "guidance" else 1.0
    assert told_alike(b.family.pipe.transformer, lambda: b.ours(scale), lambda: b.stock()) <= CLOSE


def test_packing_is_the_pipelines_and_is_undone() -> None:
    b = bed("flux")
    x = torch.randn(2, 4, 1, 8, 6)
    packed = b.family.pack(x)
    assert torch.equal(packed, b.family.pipe._pack_latents(x[:, :, 0], 2, 4, 8, 6))
    assert torch.equal(b.family.unpack(packed, x.shape[1:]), x)
    assert torch.equal(b.family.pipe._unpack_latents(packed, 64, 48, 8), x[:, :, 0])


def test_dev_is_told_the_scale_and_hears_the_pipelines_default_when_nobody_says_one() -> None:
    b = bed("flux")
    x, t = b.noise(), torch.tensor([0.8])
    plain = b.family.net.x0(x, t, b.cond)
    assert torch.equal(plain, Told(b.family.net, b.family.defaults()["guidance"]).x0(x, t, b.cond))
    assert apart(plain, Told(b.family.net, 7.0).x0(x, t, b.cond)) > 1e-4
    assert apart(b.ours(5.0), b.stock(guidance_scale=5.0)) <= CLOSE
    network = b.family.network_of()
    assert network.takes_scale and network.with_scale_input() is network and network.with_fixed_scale(2.0) is network


def test_schnell_runs_without_guidance_unless_it_is_asked_for() -> None:
    b = schnell()
    assert b.family.guided_by == "text" and not b.family.network_of().takes_scale
    assert b.family.defaults()["guidance"] == 1.0
    assert apart(b.ours(1.0), b.stock()) <= CLOSE  # whatever guidance_scale the call names
    assert apart(b.ours(2.5), b.stock(true_cfg_scale=2.5, negative_prompt="")) <= CLOSE
    assert apart(b.ours(2.5), b.stock()) > 1e-3


def test_schnell_can_learn_a_scale_and_forget_it_into_its_weights() -> None:
    b = schnell()
    family = b.family
    x, t = b.noise(), torch.tensor([0.8])
    before = family.net.x0(x, t, b.cond)
    network = family.network_of().with_scale_input()
    assert network.takes_scale and network.guidance is not None
    cond = b.cond.with_field("guidance", torch.tensor([4.0]))
    assert torch.equal(family.as_net(network).x0(x, t, cond), before)
    torch.nn.init.normal_(network.guidance.outer.weight, generator=torch.Generator().manual_seed(0))
    moved = family.as_net(network).x0(x, t, cond)
    assert apart(moved, before) > 1e-4
    assert apart(family.as_net(network.with_fixed_scale(4.0)).x0(x, t, b.cond), moved) <= CLOSE


def test_without_a_word_the_size_is_the_pipelines() -> None:
    found = bed("flux").family.defaults()
    assert (found["height"], found["width"], found["steps"], found["guidance"]) == (1024, 1024, 28, 3.5)


def test_the_grid_for_a_size_is_the_schedulers() -> None:
    b = bed("flux")
    for height, width in ((64, 48), (256, 512)):
        shape = b.family.codec.shape(1, height, width)
        b.family.shift_for(shape)
        b.family.set_timesteps(b.family.pipe.scheduler, 5, shape, torch.device("cpu"))
        assert apart(b.family.schedule.grid(5), b.family.pipe.scheduler.sigmas) <= CLOSE


def test_a_scheduler_with_flow_sigmas_of_its_own_keeps_them() -> None:
    from diffusers import UniPCMultistepScheduler

    pipe = random_tiny("flux")
    own = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe.register_modules(scheduler=own)
    b = bed("flux", pipe)
    assert apart(b.ours(3.5), b.stock()) <= CLOSE


def test_in_half_precision_the_network_hears_the_same_times() -> None:
    pipe = random_tiny("flux").to(torch.bfloat16)
    b = Bed(FluxFamily(pipe), bed("flux").call, FluxFamily(pipe).text(["a red cat"]))
    network = pipe.transformer
    for ours, stock in zip(told(network, lambda: b.ours(3.5)), told(network, b.stock), strict=True):
        assert torch.equal(ours[0]["timestep"], stock[0]["timestep"])
        assert torch.equal(ours[0]["img_ids"], stock[0]["img_ids"])


def test_the_seam_gives_unrotated_keys_with_all_text_first() -> None:
    b, seen = bed("flux"), []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, **more: Any) -> Tensor:
        turned = rope(k)
        seen.append((layer, prefix, q.shape[2]))
        assert torch.equal(turned[:, :, : prefix + 1], k[:, :, : prefix + 1])  # text, and the picture's corner
        assert not torch.equal(turned[:, :, prefix + 1 :], k[:, :, prefix + 1 :])
        return full(layer, q, k, v, rope, prefix=prefix, **more)

    x, t = b.noise(), torch.tensor([0.7])
    assert apart(b.family.net.x0(x, t, b.cond, attend=attend), b.family.net.x0(x, t, b.cond)) <= CLOSE
    text = b.cond.fields["text"].shape[1]
    assert seen == [(layer, text, text + b.family.tokens(b.shape)) for layer in range(4)]


def test_pictures_are_the_pipelines() -> None:
    b = bed("flux")
    pixels = b.family.codec.decode(b.family.unpack(b.ours(3.5), b.shape))
    assert apart((pixels[:, :, 0] + 1) / 2, b.stock(output_type="pt")) <= CLOSE
