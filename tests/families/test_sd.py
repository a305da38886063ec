"""Stable Diffusion 1.x, 2.x and XL: what is special about them, exact against the stock pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers as d
import pytest
import torch
from contract import CLOSE, apart
from families.image_bed import CAPTION, Bed, bed, rebuilt, told_alike
from safetensors.torch import save_file
from torch import Tensor, nn

from vdistill.app.export import export_lora
from vdistill.app.generate import Plan, guided, latents
from vdistill.core.denoiser import Denoiser
from vdistill.core.errors import UserError
from vdistill.core.scope import Lora, lora_roles
from vdistill.families.lora_file import LORA_FILE
from vdistill.families.random_tiny import random_tiny
from vdistill.families.sd import SdFamily, UNetNet
from vdistill.families.stock_sampler import sample_stock

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V_ZERO: dict[str, Any] = {
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip
TIMES = (1.0, 0.75, 0.4)
variants = pytest.mark.parametrize("variant", ["sd15", "sdxl"])


def with_scheduler(variant: str, kind: Any, **config: Any) -> Bed:
    pipe = random_tiny(variant)
    pipe.register_modules(scheduler=kind(**(BETAS | config)))
    return bed(variant, pipe)


def sd2(**call: Any) -> Bed:
    """As 2.x at 768: v, trailing from zero SNR, heads of one size in blocks of several widths, linear projections."""
    pipe = random_tiny("sd15")
    unet = rebuilt(pipe.unet, use_linear_projection=True, attention_head_dim=(2, 4), upcast_attention=True)
    pipe.register_modules(unet=unet, scheduler=d.DDIMScheduler(clip_sample=False, **(BETAS | V_ZERO)))
    return bed("sd15", pipe, **call)


def sampled(b: Bed, scale: float) -> Tensor:
    """Our loop with draws that go on from the generator of the first noise, as in the pipelines."""
    draws = torch.Generator().manual_seed(0)
    noise = b.family.noise(b.shape, draws)

    def at(step: int, timestep: float, count: int) -> Denoiser:
        return guided(b.family, b.family.net, scale)

    return b.family.pack(sample_stock(b.family, at, noise, b.cond, 5, draws))


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: bed("sd15"), sd2, lambda: bed("sdxl")], ids=["1.5", "2", "XL"])
def test_the_network_is_told_what_its_pipeline_tells_it(make: Any) -> None:
    b = make()
    assert told_alike(b.family.pipe.unet, lambda: b.ours(1.0), lambda: b.stock(guidance_scale=1.0)) <= CLOSE


SCHEDULERS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "1.5 as published": ("sd15", d.PNDMScheduler, {"skip_prk_steps": True, "steps_offset": 1}),
    "v from zero SNR, DDIM": ("sd15", d.DDIMScheduler, {"clip_sample": False, **V_ZERO}),
    "v from zero SNR, Euler": ("sd15", d.EulerDiscreteScheduler, V_ZERO),
    "LCM": ("sd15", d.LCMScheduler, {}),
    "XL by DDIM": ("sdxl", d.DDIMScheduler, {"clip_sample": False}),
    "XL by Euler, trailing": ("sdxl", d.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "XL by Euler that draws": ("sdxl", d.EulerAncestralDiscreteScheduler, {}),
    "XL by DPM++, Karras": ("sdxl", d.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "XL by DPM++ that draws": ("sdxl", d.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "XL by TCD, whose own eta is not the pipeline's": ("sdxl", d.TCDScheduler, {}),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_of_the_folder_samples_as_in_the_pipeline(name: str) -> None:
    variant, kind, config = SCHEDULERS[name]
    b = with_scheduler(variant, kind, **config)
    found = sampled(b, b.call["guidance_scale"])
    assert found.isfinite().all() and apart(found, b.stock()) <= CLOSE


def test_heads_sizes_and_a_side_that_does_not_halve_are_the_pipelines() -> None:
    b = sd2(height=72, width=56)  # 9 x 7 latents, which the UNet cannot halve
    assert apart(b.ours(7.5), b.stock()) <= CLOSE
    assert apart(b.ours(4.0), b.stock()) > 1e-3


def test_a_network_that_predicts_eps_at_no_signal_is_not_hidden() -> None:
    b = with_scheduler("sd15", d.DDIMScheduler, clip_sample=False, rescale_betas_zero_snr=True)
    assert not b.family.net.x0(b.noise(), torch.ones(1), b.cond).isfinite().any()


# -- few steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: bed("sd15"), sd2, lambda: bed("sdxl")], ids=["1.5", "2", "XL"])
def test_a_student_from_pure_noise_runs_in_its_pipeline_as_here(make: Any, tmp_path: Path) -> None:
    b = make()
    b.family.save(b.family.net, tmp_path / "student", TIMES)
    back = Bed(type(b.family).load(tmp_path / "student"), b.call, b.cond)
    assert back.family.times == TIMES
    assert back.family.clock.predicts == b.family.clock.predicts
    ours = latents(back.family, back.family.net, b.noise(), b.cond, Plan(), TIMES)
    stock = back.stock(3, guidance_scale=1.0)
    assert ours.isfinite().all() and apart(ours[:, :, 0], stock) <= CLOSE


# -- the guidance scale as an input -----------------------------------------------------------------------------------


def taking(b: Bed) -> UNetNet:
    """The network with the scale as an input that makes a difference."""
    network: UNetNet = b.family.network_of().with_scale_input()  # type: ignore[assignment]
    module = network.scale_module()
    assert isinstance(module, nn.Linear)
    nn.init.normal_(module.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return network


@variants
def test_a_scale_is_embedded_as_the_pipeline_embeds_it(variant: str) -> None:
    b = bed(variant)
    network = taking(b)
    for scale in (1.0, 3.7, 8.0, 15.0):
        told = network.scale(b.cond.with_field("guidance", torch.tensor([scale], dtype=torch.float64)))
        theirs = b.family.pipe.get_guidance_scale_embedding(torch.tensor([scale - 1]), embedding_dim=256)
        assert told is not None and torch.equal(told, theirs)


@variants
def test_an_exported_student_keeps_its_scale_live_in_the_stock_pipeline(variant: str, tmp_path: Path) -> None:
    b = bed(variant)
    plain, x, t = b.family.net, b.noise(), torch.tensor([0.6])
    before = plain.x0(x, t, b.cond)
    family = b.family
    net = family.as_net(taking(b))
    assert apart(net.x0(x, t, b.cond), before) == 0  # the teacher, which is told no scale, is as it was
    family.save(net, tmp_path / "student", TIMES)
    opened = getattr(d, type(family.pipe).__name__).from_pretrained(tmp_path / "student", local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    back, found = Bed(type(family).load(tmp_path / "student"), b.call, b.cond), []
    assert back.family.network_of().takes_scale and not back.family.network_of().scale_is_ours
    for scale in (1.0, 4.5, 8.0):
        cond = b.cond.with_field("guidance", torch.tensor([scale]))
        found.append(latents(back.family, back.family.net, b.noise(), cond, Plan(), TIMES)[:, :, 0])
        call = b.call | {"guidance_scale": scale, "generator": torch.Generator().manual_seed(0)}
        assert apart(found[-1], opened(**call, num_inference_steps=9, return_dict=False)[0]) <= CLOSE
    assert apart(found[0], found[1]) > 1e-3 and apart(found[1], found[2]) > 1e-3


def test_a_student_told_its_scale_is_not_guided_by_the_folders_own_scheduler_either() -> None:
    b = bed("sd15")
    told = Bed(b.family, b.call, b.cond.with_field("guidance", torch.tensor([6.0])))
    taking(b)
    assert apart(told.ours(1.0), b.stock(guidance_scale=6.0)) <= CLOSE


def test_an_adapter_whose_base_learned_a_scale_too_is_no_lora_file(tmp_path: Path) -> None:
    b = bed("sd15")
    b.family.save(b.family.net, tmp_path / "plain", TIMES)
    b.family.save(b.family.as_net(taking(b)), tmp_path / "told", TIMES)
    for folder in ("plain", "told"):
        save_file({"unet.any": torch.zeros(1)}, tmp_path / folder / LORA_FILE)
        (tmp_path / f"{folder}-lora").mkdir()
    export_lora(tmp_path / "plain", tmp_path / "plain-lora")
    assert (tmp_path / "plain-lora" / LORA_FILE).is_file()
    with pytest.raises(UserError, match="guidance input does not fit into a LoRA file"):
        export_lora(tmp_path / "told", tmp_path / "told-lora")


# -- LoRA -------------------------------------------------------------------------------------------------------------


@variants
def test_an_adapter_in_a_plain_stock_pipeline_samples_as_the_student(variant: str) -> None:
    b = bed(variant)
    roles = lora_roles(b.family.net, ["student"], Lora(2, None, b.family.lora_targets))
    for n, p in enumerate(roles.modules["student"].parameters()):
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(n))
    tensors = roles.modules["student"].tensors()  # type: ignore[operator]
    tensors = {name.removeprefix("net."): value for name, value in tensors.items()}
    assert all(name.startswith("unet.") for name in tensors)
    ours = latents(b.family, roles.denoisers["student"], b.noise(), b.cond, Plan(), TIMES)[:, :, 0]
    plain = random_tiny(variant)
    plain.register_modules(scheduler=b.family.few_step_scheduler(b.family.net, TIMES))
    stock = Bed(SdFamily(plain), b.call, b.cond)
    without = stock.stock(3, guidance_scale=1.0)
    plain.load_lora_weights(tensors)
    assert apart(ours, stock.stock(3, guidance_scale=1.0)) <= CLOSE
    assert apart(ours, without) > 1e-3


# -- text and sizes of XL ---------------------------------------------------------------------------------------------


def test_xl_without_a_caption_is_zeros_or_the_empty_caption_as_its_folder_says() -> None:
    b = bed("sdxl")
    assert {*b.cond.null} == {"text", "text.pooled"}
    assert all(not value.any() for value in b.cond.null.values())
    b.family.pipe.register_to_config(force_zeros_for_empty_prompt=False)
    b = bed("sdxl", b.family.pipe)
    assert all(value.any() for value in b.cond.null.values())
    assert apart(b.ours(5.0), b.stock()) <= CLOSE


def test_a_negative_prompt_stands_for_no_caption() -> None:
    for variant in ("sd15", "sdxl"):
        b = bed(variant)
        family = type(b.family)(b.family.pipe, negative="a blue fence")
        against = Bed(family, b.call, family.text([CAPTION]))
        assert apart(against.ours(5.0), b.stock(guidance_scale=5.0, negative_prompt="a blue fence")) <= CLOSE
        assert apart(against.ours(5.0), b.stock(guidance_scale=5.0)) > 1e-3


def test_xl_is_told_the_size_of_the_clip_or_what_the_condition_says() -> None:
    b = bed("sdxl", height=72, width=40)
    assert apart(b.ours(5.0), b.stock()) <= CLOSE
    sizes = {"original_size": (512, 256), "crops_coords_top_left": (8, 16), "target_size": (128, 192)}
    ids = torch.tensor([[512.0, 256.0, 8.0, 16.0, 128.0, 192.0]])
    said = Bed(b.family, b.call, b.cond.with_field("time_ids", ids))
    assert apart(said.ours(5.0), b.stock(**sizes)) <= CLOSE
    assert apart(said.ours(5.0), b.stock()) > 1e-3


def test_a_pixel_side_of_another_vae_reaches_the_sizes() -> None:
    pipe = random_tiny("sdxl")
    vae = rebuilt(
        pipe.vae, block_out_channels=(4, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    made = d.StableDiffusionXLPipeline(**(pipe.components | {"vae": vae}))
    made.set_progress_bar_config(disable=True)
    b = bed("sdxl", made)
    assert b.shape == (4, 1, 16, 12) and apart(b.ours(5.0), b.stock()) <= CLOSE
