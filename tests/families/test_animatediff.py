"""AnimateDiff: what is special about it, exact against the stock pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers as d
import numpy as np
import pytest
import torch
from contract import CLOSE, Case, apart
from families.image_bed import rebuilt, told_alike
from torch import Tensor, nn

from vdistill.app.about import About
from vdistill.app.export import export_pipeline
from vdistill.app.generate import Plan, latents
from vdistill.core.attention import full
from vdistill.core.errors import UserError
from vdistill.core.scope import Lora, lora_roles
from vdistill.families.animatediff import AnimateDiffFamily, MotionNet
from vdistill.families.random_tiny import CALLS, random_tiny
from vdistill.families.stock_sampler import sample_stock

LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
TIMES = (1.0, 0.75, 0.4)


def clips(pipe: Any = None, **call: Any) -> Case:
    """The tiny pipeline, or `pipe` in its place. call: over the arguments of the variant's own."""
    family = AnimateDiffFamily(random_tiny("animatediff") if pipe is None else pipe)
    asked = CALLS["animatediff"] | call
    shape = family.codec.shape(asked["num_frames"], asked["height"], asked["width"])
    return Case("animatediff", family, asked, shape, family.text([asked["prompt"]]))


def unguided(c: Case) -> Tensor:
    return sample_stock(c.family, lambda step, timestep, count: c.family.net, c.noise(), c.cond, 3)


def deep() -> Any:
    """Of three levels, the last without attention to text, and motion between all of them."""
    pipe = random_tiny("animatediff")
    unet = rebuilt(
        pipe.unet, block_out_channels=(8, 16, 16), attention_head_dim=(2, 4, 4), motion_num_attention_heads=(2, 2, 4),
        down_block_types=("CrossAttnDownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion", "CrossAttnUpBlockMotion"),
    )  # fmt: skip
    pipe.register_modules(unet=unet)
    return pipe


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: random_tiny("animatediff"), deep], ids=["tiny", "deep"])
def test_the_network_is_told_what_its_pipeline_tells_it(make: Any) -> None:
    c = clips(make())
    network = c.family.pipe.unet
    assert told_alike(network, lambda: unguided(c), lambda: c.stock(3, guidance_scale=1.0)) <= CLOSE


SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "DDIM, v from zero SNR": (
        d.DDIMScheduler,
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
         "clip_sample": False},
    ),
    "Euler": (d.EulerDiscreteScheduler, {"timestep_spacing": "leading"}),
    "DPM++": (d.DPMSolverMultistepScheduler, {}),
    "LCM, which draws": (d.LCMScheduler, {}),
    "PNDM": (d.PNDMScheduler, {"skip_prk_steps": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_of_the_folder_samples_as_in_the_pipeline(name: str) -> None:
    kind, config = SCHEDULERS[name]
    pipe = deep()
    pipe.register_modules(scheduler=kind(**(LINEAR | config)))
    c = clips(pipe)
    found = c.ours(4)
    assert found.isfinite().all() and apart(found, c.stock(4)) <= CLOSE


def test_a_length_and_a_side_that_do_not_halve_are_the_pipelines() -> None:
    c = clips(num_frames=5, height=72, width=56)
    assert c.shape == (4, 5, 9, 7)
    assert apart(c.ours(3), c.stock(3)) <= CLOSE


def test_several_clips_in_a_batch_are_the_clips_one_by_one() -> None:
    c = clips()
    both = c.family.text(["a red cat jumps over a fence", "a blue dog sleeps"])
    noise, t = torch.cat([c.noise(0), c.noise(1)]), torch.tensor([0.9, 0.3])
    together = c.family.net.x0(noise, t, both)
    for i in range(2):
        alone = c.family.net.x0(noise[i : i + 1], t[i : i + 1], both.select(torch.tensor([i])))
        assert apart(together[i : i + 1], alone) <= CLOSE


def test_frames_see_each_other() -> None:
    c, t = clips(), torch.tensor([0.9])
    other = c.noise()
    other[:, :, -1] += 1
    moved = c.family.net.x0(c.noise(), t, c.cond) - c.family.net.x0(other, t, c.cond)
    assert (moved[:, :, 0].abs() > 1e-5).any()


# -- few steps, and the guidance scale as an input --------------------------------------------------------------------


def test_a_student_from_pure_noise_with_v_runs_in_its_pipeline_as_here(tmp_path: Path) -> None:
    pipe, (kind, config) = random_tiny("animatediff"), SCHEDULERS["DDIM, v from zero SNR"]
    pipe.register_modules(scheduler=kind(**(LINEAR | config)))
    c = clips(pipe)
    c.family.save(c.family.net, tmp_path / "student", TIMES)
    opened = d.AnimateDiffPipeline.from_pretrained(tmp_path / "student", local_files_only=True)
    opened.set_progress_bar_config(disable=True)
    back = clips(opened)
    assert back.family.times == TIMES and back.family.schedule.betas == "linear" and back.family.schedule.zero_snr
    ours = latents(back.family, back.family.net, c.noise(), c.cond, Plan(), TIMES)
    assert ours.isfinite().all() and apart(ours, back.stock(7, guidance_scale=1.0)) <= CLOSE


def test_a_scale_its_pipeline_would_not_tell_is_fixed_by_the_export(tmp_path: Path) -> None:
    c = clips()
    network = c.family.network_of().with_scale_input()
    assert isinstance(network, MotionNet) and network.takes_scale and network.scale_is_ours
    module = network.scale_module()
    assert isinstance(module, nn.Linear)
    nn.init.normal_(module.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    c.family.save(c.family.net, tmp_path / "run", TIMES)
    found = []
    for scale in (3.0, 8.0):
        told = c.cond.with_field("guidance", torch.tensor([scale]))
        want = latents(c.family, c.family.net, c.noise(), told, Plan(), TIMES)
        export_pipeline(tmp_path / "run", tmp_path / f"{scale}", About(method="lcm"), scale, "float32")
        opened = d.AnimateDiffPipeline.from_pretrained(tmp_path / f"{scale}", local_files_only=True)
        opened.set_progress_bar_config(disable=True)
        assert opened.unet.config.time_cond_proj_dim is None
        found.append(clips(opened).stock(3, guidance_scale=1.0))
        assert apart(found[-1], want) <= CLOSE
    assert apart(found[0], found[1]) > 1e-3


def test_an_adapter_reaches_the_motion_modules_in_a_plain_stock_pipeline() -> None:
    c = clips()
    roles = lora_roles(c.family.net, ["student"], Lora(2, None, c.family.lora_targets))
    for n, p in enumerate(roles.modules["student"].parameters()):
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(n))
    tensors = roles.modules["student"].tensors()  # type: ignore[operator]
    tensors = {name.removeprefix("net."): value for name, value in tensors.items()}
    assert all(name.startswith("unet.") for name in tensors) and any("motion_modules" in name for name in tensors)
    ours = latents(c.family, roles.denoisers["student"], c.noise(), c.cond, Plan(), TIMES)
    plain = random_tiny("animatediff")
    plain.register_modules(scheduler=c.family.few_step_scheduler(c.family.net, TIMES))
    stock = clips(plain)
    without = stock.stock(3, guidance_scale=1.0)
    plain.load_lora_weights(tensors)
    assert apart(ours, stock.stock(3, guidance_scale=1.0)) <= CLOSE
    assert apart(ours, without) > 1e-3


# -- inside, and the VAE ----------------------------------------------------------------------------------------------


def test_features_are_of_the_whole_clip_frame_after_frame() -> None:
    c = clips(deep())
    network, t = c.family.network_of(), torch.tensor([0.5])
    x = torch.cat([c.noise(0), c.noise(1)])
    both = c.family.text(["a red cat jumps over a fence", "a blue dog sleeps"])
    layers = list(range(7))
    found = c.family.net.taps(x, t, both, layers)
    assert [network.width(layer) for layer in layers] == [8, 16, 16, 16, 16, 16, 8]
    frames = [12, 4, 4, 4, 12, 48, 48]  # positions of one frame of 8 x 6 at each level
    sides = [tuple(f.shape) for f in found]
    assert [s[2] for s in sides] == [network.width(layer) for layer in layers]
    assert [s[1] for s in sides] == [4 * n for n in frames] and all(s[0] == 2 for s in sides)
    alone = c.family.net.taps(x[1:], t, both.select(torch.tensor([1])), layers)
    assert all(apart(f[1:], a) <= CLOSE for f, a in zip(found, alone, strict=True))


def test_the_seam_sees_the_attention_inside_frames() -> None:
    c, seen, t = clips(), [], torch.tensor([0.5])

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        seen.append((layer, len(q), q.shape[2], rope))
        return full(layer, q, k, v, rope, **more)

    assert apart(c.family.net.x0(c.noise(), t, c.cond, attend=attend), c.family.net.x0(c.noise(), t, c.cond)) <= CLOSE
    assert seen == [(layer, 4, 12, None) for layer in range(4)]


def test_pixels_are_the_pipelines() -> None:
    c = clips()
    ours = (c.family.codec.decode(c.ours(3)) + 1) / 2
    stock = torch.as_tensor(np.asarray(c.stock(3, output_type="pt")))  # [B, T, 3, H, W]
    assert apart(ours.transpose(1, 2), stock) <= CLOSE
    z = c.family.codec.encode(2 * ours - 1)
    frame = c.family.pipe.vae.encode(2 * ours[:, :, 2] - 1).latent_dist.mode() * 0.18215
    assert apart(z[:, :, 2], frame) <= CLOSE


def test_a_clip_of_more_frames_than_motion_has_positions_is_one_line() -> None:
    c = clips(num_frames=32)
    assert c.family.net.x0(c.noise(), torch.tensor([0.9]), c.cond).isfinite().all()
    with pytest.raises(UserError, match="33 frames, the motion modules know 32 positions"):
        c.family.codec.shape(33, 64, 64)
