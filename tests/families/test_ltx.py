"""LTX-Video: told what its pipeline tells it, a time for every token, images, the decoder that is told a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import CLOSE, Case, apart, case
from diffusers import AutoencoderKLLTXVideo, LTXImageToVideoPipeline
from torch import Tensor

from vdistill.app.generate import Plan, guided, latents
from vdistill.core.attention import full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.errors import UserError
from vdistill.families.clock import mu_for
from vdistill.families.ltx import LtxFamily, packed
from vdistill.families.random_tiny import picture, random_tiny
from vdistill.families.random_tiny_text import fill
from vdistill.families.stock_sampler import sample_stock


def ltx() -> Case:
    """Latents whose means and deviations are those of nothing in particular."""
    c = case("ltx")
    vae = c.family.pipe.vae
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 2.0, 8))
    return Case("ltx", LtxFamily(c.family.pipe), c.call, c.shape, c.text)


def from_image() -> Case:
    c = ltx()
    pipe = LTXImageToVideoPipeline(**c.family.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    image = picture(c.call["height"], c.call["width"])
    pixels = pipe.video_processor.preprocess(image)
    return Case("ltx-i2v", LtxFamily(pipe), c.call | {"image": image}, c.shape, c.text, pixels)


def calls(c: Case, steps: int, **other: Any) -> list[tuple[dict[str, Any], Tensor]]:
    """What the network was told, and what it answered, while the stock pipeline ran."""
    found: list[tuple[dict[str, Any], Tensor]] = []
    hook = c.family.pipe.transformer.register_forward_hook(
        lambda module, args, told, out: found.append((told, out[0])), with_kwargs=True
    )
    c.stock(steps, **other)
    hook.remove()
    return found


def doubled(c: Case) -> Cond:
    """The conditions of a guided call: without the text, and with it."""
    fields = {k: torch.cat([c.cond.null.get(k, v), v]) for k, v in c.cond.fields.items()}
    return Cond(fields)


@torch.no_grad()
@pytest.mark.parametrize("make", [ltx, from_image])
def test_the_network_answers_as_in_its_pipeline_at_every_timestep(make: Any) -> None:
    c = make()
    net, cond = c.family.network_of(), doubled(c)
    found = calls(c, 5)
    for told, answer in found:
        assert torch.equal(told["encoder_hidden_states"], cond.fields["text"])
        assert torch.equal(told["encoder_attention_mask"], cond.fields["text.mask"])
        x = told["hidden_states"].transpose(1, 2).unflatten(2, c.shape[1:])
        t = c.family.clock.time(told["timestep"].reshape(2, -1).amax(1))
        ours = net(x, t, cond)
        assert apart(packed(ours), answer) <= 1e-6
        back = net.clock.schedule.prediction(c.family.net.x0(x, t, cond), x, t, "flow")
        assert apart(back, ours) <= CLOSE
    assert len(found) == 5 and float(found[0][0]["timestep"].max()) == 1000.0
    assert apart(found[-1][0]["timestep"].max(), torch.tensor(100.0)) <= CLOSE  # where the schedule is told to end


def test_guided_sampling_is_the_stock_pipelines() -> None:
    c = ltx()
    assert apart(c.family.pack(c.ours(5)), c.stock(5)) <= CLOSE


def test_the_scheduler_is_shifted_by_the_number_of_tokens() -> None:
    c = ltx()
    config, scheduler = c.family.pipe.scheduler.config, c.family.pipe.scheduler
    assert mu_for(config, 1024) == pytest.approx(0.95) and mu_for(config, 4096) == pytest.approx(2.05)
    for shape in (c.shape, (8, 21, 16, 22)):
        c.family.set_timesteps(scheduler, 4, shape, torch.device("cpu"))
        k, u = torch.tensor(mu_for(config, shape[1] * shape[2] * shape[3])).exp(), torch.tensor([1, 0.75, 0.5, 0.25])
        grid = k * u / (1 + (k - 1) * u)
        wanted = 1 - (1 - grid) * 0.9 / (1 - grid[-1])  # stretched to end at 0.1
        assert apart(scheduler.sigmas[:-1], wanted) <= CLOSE
        c.family.shift_for(shape)
        assert c.family.schedule.shift == pytest.approx(float(k))


@torch.no_grad()
def test_one_time_for_all_frames_is_the_same_said_frame_by_frame() -> None:
    c = ltx()
    net, x = c.family.network_of(), c.noise()
    t = torch.tensor([0.6])
    assert apart(net(x, t[:, None].expand(1, c.shape[1]), c.cond), net(x, t, c.cond)) <= CLOSE
    varied = torch.linspace(0.2, 0.9, c.shape[1])[None]
    stock = c.family.pipe.transformer(
        packed(x), c.text.fields["text"], (1000 * varied).repeat_interleave(c.shape[2] * c.shape[3], 1),
        c.text.fields["text.mask"], *c.shape[1:], rope_interpolation_scale=(8 / 25, 32, 32), return_dict=False,
    )[0]  # fmt: skip
    assert apart(packed(net(x, varied, c.cond)), stock) <= CLOSE
    assert apart(stock, packed(net(x, t, c.cond))) > 1e-3


def test_padding_of_the_text_is_not_read() -> None:
    c = ltx()
    mask = c.text.fields["text.mask"]
    assert mask.any() and not mask.all()
    text = torch.where(mask[..., None], c.text.fields["text"], 9.0)
    x, t = c.noise(), torch.tensor([0.6])
    assert torch.equal(c.family.net.x0(x, t, c.cond.with_field("text", text)), c.family.net.x0(x, t, c.cond))
    dropped = c.cond.drop(["text"])
    assert torch.equal(dropped.fields["text.mask"], c.text.null["text.mask"]) and not torch.equal(
        dropped.fields["text.mask"], mask
    )


def test_the_frame_rate_is_the_pipelines_argument() -> None:
    c = ltx()
    usual = c.ours(3)
    c.family.frame_rate = 8.0
    assert c.family.frame_rate == c.family.network_of().with_scale_input().frame_rate == 8.0
    slower = c.ours(3)
    assert apart(c.family.pack(slower), c.stock(3, frame_rate=8)) <= CLOSE
    assert apart(slower, usual) > 1e-3
    with pytest.raises(UserError, match=r"frame_rate: must be above 0, found 0"):
        c.family.frame_rate = 0.0


@torch.no_grad()
def test_the_seam_gets_nothing_rotated() -> None:
    c, found = ltx(), []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        found.append((k, more))
        assert apart(rope(k).norm(dim=-1), k.norm(dim=-1)) < CLOSE and not torch.equal(rope(k), k)
        return full(layer, q, k, v, rope, **more)

    # the same content at every position: before rotation all rows are one row
    flat, t = torch.ones(1, *c.shape), torch.tensor([0.5])
    for x in (flat, c.noise()):
        assert apart(c.family.net.x0(x, t, c.cond, attend=attend), c.family.net.x0(x, t, c.cond)) <= CLOSE
    k, more = found[0]
    assert k.shape[2] == c.shape[1] * c.shape[2] * c.shape[3] and more == {}
    assert apart(k, k[:, :, :1].expand_as(k)) < CLOSE


# -- from an image -----------------------------------------------------------------------------------------------------


def test_guided_sampling_from_an_image_is_the_stock_pipelines() -> None:
    c = from_image()
    ours = c.ours(5)
    assert apart(packed(ours), c.stock(5)) <= CLOSE
    assert torch.equal(ours[:, :, :1], c.cond.fields["first"])
    assert apart(ours, ltx().ours(5)) > 1e-3


def test_two_clips_from_images_are_drawn_from_generators_of_their_own() -> None:
    c, seeds = from_image(), (0, 7)
    begun = [c.begun(seed) for seed in seeds]
    text = c.family.text(["a dog", "a cat"])
    cond = text.with_field("first", torch.cat([cond.fields["first"] for _, cond, _ in begun]))

    def at(step: int, timestep: float, count: int) -> Denoiser:
        return guided(c.family, c.family.net, c.scale)

    ours = sample_stock(c.family, at, torch.cat([noise for noise, _, _ in begun]), cond, 3)
    call = c.call | {"prompt": ["a dog", "a cat"], "image": [c.call["image"]] * 2, "num_inference_steps": 3}
    stock = c.family.pipe(**call, generator=[torch.Generator().manual_seed(seed) for seed in seeds]).frames
    assert apart(packed(ours), stock) <= CLOSE


@torch.no_grad()
def test_a_student_from_an_image_samples_the_same_in_its_stock_pipeline(tmp_path: Any) -> None:
    c, times = from_image(), (1.0, 0.75, 0.4)
    c.family.save(c.family.net, tmp_path / "student", times)
    back = LtxFamily.load(tmp_path / "student")
    noise, cond, _ = c.begun()
    ours = latents(back, back.net, noise, cond, Plan(), times)
    stock = Case(c.variant, back, c.call, c.shape, c.text).stock(7, guidance_scale=1.0)
    assert back.needs_image and apart(packed(ours), stock) <= CLOSE


def test_an_image_becomes_the_latents_of_a_clip_of_one_frame() -> None:
    c = from_image()
    found = c.family.from_image(c.image, c.shape)["first"]
    assert torch.equal(found, c.family.codec.encode(c.image[:, :, None]))
    with pytest.raises(UserError, match="does not start from an image"):
        ltx().family.from_image(c.image, c.shape)


# -- the codec ---------------------------------------------------------------------------------------------------------


def with_vae(**config: Any) -> Case:
    """The same with another VAE: one whose decoder is told a time, or draws noise inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        vae = AutoencoderKLLTXVideo(
            latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
            layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, **config,
        )  # fmt: skip
        vae = fill(vae)
        for name, value in vae.named_parameters():
            if "per_channel_scale" in name:  # how loud the noise inside is: 0 at birth
                torch.nn.init.constant_(value, 0.1)
    pipe = random_tiny("ltx")
    pipe.register_modules(vae=vae)
    c = case("ltx")
    return Case("ltx", LtxFamily(pipe), c.call, c.shape, c.text)


def decoded(c: Case, **how: Any) -> tuple[Tensor, Tensor]:
    """(ours, the stock pipeline's) pixels [1, T, 3, H, W] in [0, 1] of the latents it made in two steps."""
    z = c.family.unpack(c.stock(2), c.shape)
    return (c.family.codec.decode(z).transpose(1, 2) + 1) / 2, c.stock(2, output_type="pt", **how)


@pytest.mark.parametrize("make", [ltx, lambda: with_vae(timestep_conditioning=True)])
def test_decoding_is_the_pipelines(make: Any) -> None:
    ours, stock = decoded(make())
    assert ours.shape == (1, 17, 3, 96, 64) and apart(ours, stock) <= CLOSE


def test_decoding_at_a_time_is_the_pipelines() -> None:
    c = with_vae(timestep_conditioning=True)
    early, _ = decoded(c)
    c.family.codec.decode_timestep, c.family.codec.decode_noise = 0.05, 0.0
    ours, stock = decoded(c, decode_timestep=0.05, decode_noise_scale=0.0)
    assert apart(ours, stock) <= CLOSE and apart(ours, early) > 1e-4


def test_noise_in_the_latents_is_a_function_of_the_clip() -> None:
    c = with_vae(timestep_conditioning=True)
    codec, z = c.family.codec, torch.randn(2, 8, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    codec.decode_timestep, codec.decode_noise = 0.05, 0.0
    plain = codec.decode(z)
    codec.decode_noise = None  # as much as the time
    noisy = codec.decode(z)
    assert apart(noisy, plain) > 1e-3
    assert apart(torch.cat([codec.decode(z[1:]), codec.decode(z[:1])]), noisy.flip(0)) <= CLOSE


def test_a_decoder_that_draws_gives_the_same_again_and_leaves_all_other_draws_alone() -> None:
    c = with_vae(decoder_inject_noise=(True,) * 5)
    codec, z = c.family.codec, torch.randn(1, 8, 2, 2, 2)
    before = torch.random.get_rng_state()
    once = codec.decode(z)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.equal(codec.decode(z), once)
    torch.manual_seed(0)
    scale, shift = codec._pair(z)
    drawn = [codec.vae.decode(z / scale + shift).sample.clamp(-1, 1) for _ in range(2)]
    assert torch.equal(drawn[0], once) and not torch.equal(drawn[1], once)


def test_latents_have_the_means_and_deviations_of_the_folder() -> None:
    c = ltx()
    vae, pixels = c.family.pipe.vae, torch.rand(1, 3, 9, 64, 64) * 2 - 1
    z = c.family.codec.encode(pixels)
    raw = vae.encode(pixels).latent_dist.mode()
    assert apart(z, c.family.pipe._normalize_latents(raw, vae.latents_mean, vae.latents_std)) <= CLOSE
    assert z.shape[1:] == c.family.codec.shape(9, 64, 64) == (8, 2, 2, 2)


@pytest.mark.parametrize(
    ("size", "said"),
    [((10, 64, 64), "1 + k * 8; try 9"), ((9, 48, 64), "multiples of 32; try 32x64"), ((9, 64, 20), "try 64x32")],
)
def test_sizes_that_do_not_fit_are_one_line(size: tuple[int, int, int], said: str) -> None:
    with pytest.raises(UserError) as found:
        ltx().family.codec.shape(*size)
    assert said in str(found.value) and "\n" not in str(found.value)
