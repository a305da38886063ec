"""CogVideoX: told what its pipeline tells it, growing guidance, the spare frame of 1.5, images, decoding in chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contract import CLOSE, Case, apart, case
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from vdistill.app.generate import guided
from vdistill.app.models import fit_network
from vdistill.core.attention import full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.errors import UserError
from vdistill.families.cogvideox import CogVideoXFamily
from vdistill.families.cogvideox_codec import CogCodec
from vdistill.families.random_tiny import GAIN, picture, random_tiny
from vdistill.families.random_tiny_text import fill
from vdistill.families.stock_sampler import sample_stock

VARIANTS = ("cogvideox-2b", "cogvideox-5b", "cogvideox15-5b", "cogvideox-i2v", "cogvideox15-i2v")


def cog15_i2v() -> CogVideoXImageToVideoPipeline:
    """1.5 from an image: patches of two latent frames, the network is told an offset, latents scaled the other way."""
    pipe = random_tiny("cogvideox15-5b")
    config = {k: v for k, v in pipe.transformer.config.items() if not k.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wider = CogVideoXTransformer3DModel(**config | {"in_channels": 8, "ofs_embed_dim": 16})
    found = CogVideoXImageToVideoPipeline(**pipe.components | {"transformer": fill(wider, GAIN)})
    found.set_progress_bar_config(disable=True)
    return found


def cog(variant: str) -> Case:
    if variant != "cogvideox15-i2v":
        return case(variant)
    known, family = case("cogvideox-i2v"), CogVideoXFamily(cog15_i2v())
    text = family.text(["a red cat jumps over a fence"])
    return Case(variant, family, known.call, family.codec.shape(9, 64, 48), text, known.image)


def calls(c: Case, steps: int, **other: Any) -> list[tuple[dict[str, Any], Tensor]]:
    """What the network was told, and what it answered, while the stock pipeline ran."""
    found: list[tuple[dict[str, Any], Tensor]] = []
    hook = c.family.pipe.transformer.register_forward_hook(
        lambda module, args, told, out: found.append((told, out[0])), with_kwargs=True
    )
    c.stock(steps, **other)
    hook.remove()
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_answers_as_in_its_pipeline_at_every_timestep(variant: str) -> None:
    c = cog(variant)
    net, channels = c.family.network_of(), c.shape[0]
    null, text = c.text.null["text"], c.text.fields["text"]
    seen = []
    for told, answer in calls(c, 5):
        x = told["hidden_states"].transpose(1, 2)[:, :channels]
        cond = Cond({"text": torch.cat([null, text]), **{k: v.repeat(2, 1, 1, 1, 1) for k, v in first(c).items()}})
        assert torch.equal(told["encoder_hidden_states"], cond.fields["text"])
        t = c.family.clock.time(told["timestep"])
        ours = net(x, t, cond)
        assert torch.equal(ours, answer.transpose(1, 2))
        back = net.clock.schedule.prediction(c.family.net.x0(x, t, cond), x, t, "v")
        assert apart(back, ours) <= CLOSE
        seen.append(int(told["timestep"][0]))
    assert seen == [999, 799, 599, 399, 199]  # at 999 nothing is left of the clip


def first(c: Case) -> dict[str, Tensor]:
    return {k: v for k, v in c.cond.fields.items() if k == "first"}


def test_at_the_last_timestep_the_clip_is_the_networks_word_alone() -> None:
    c = cog("cogvideox-5b")
    t = torch.ones(1)
    assert float(c.family.clock.schedule.alpha_sigma(t)[0]) == 0.0
    assert torch.equal(c.family.net.x0(c.noise(), t, c.cond), -c.family.network_of()(c.noise(), t, c.cond))


@pytest.mark.parametrize("variant", VARIANTS)
def test_guided_sampling_is_the_stock_pipelines(variant: str) -> None:
    c = cog(variant)
    assert apart(c.family.pack(c.ours(5)), c.stock(5)) <= CLOSE


@pytest.mark.parametrize("variant", ["cogvideox-2b", "cogvideox-5b"])
def test_two_clips_at_once_are_drawn_from_generators_of_their_own(variant: str) -> None:
    c = cog(variant)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 7)]
    noise = torch.cat([c.family.noise(c.shape, g) for g in generators])

    def at(step: int, timestep: float, count: int) -> Denoiser:
        return guided(c.family, c.family.net, c.scale)

    ours = sample_stock(c.family, at, noise, c.family.text(["a dog", "a cat"]), 3, generators)
    stock = c.family.pipe(
        **c.call | {"prompt": ["a dog", "a cat"], "num_inference_steps": 3},
        generator=[torch.Generator().manual_seed(seed) for seed in (0, 7)],
    ).frames
    assert apart(c.family.pack(ours), stock) <= CLOSE


@pytest.mark.parametrize("variant", ["cogvideox-2b", "cogvideox-5b"])
def test_growing_guidance_is_the_pipelines(variant: str) -> None:
    c = cog(variant)
    fixed = c.ours(5)
    c.family.dynamic_guidance = True
    assert c.family.scale_at(6.0, 0, 50) == 7.0 and c.family.scale_at(1.0, 7, 50) == 1.0
    grown = c.ours(5)
    assert apart(c.family.pack(grown), c.stock(5, use_dynamic_cfg=True)) <= CLOSE
    assert apart(grown, fixed) > 1e-3


def test_the_seam_gets_text_rows_first_and_nothing_rotated() -> None:
    c, rows = cog("cogvideox-5b"), []
    patches = c.shape[1] * c.shape[2] // 2 * c.shape[3] // 2

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, **more: Any) -> Tensor:
        rows.append((prefix, q.shape[2], k))
        assert torch.equal(rope(k)[:, :, :prefix], k[:, :, :prefix])
        assert torch.equal(rope(k)[:, :, prefix : prefix + 1], k[:, :, prefix : prefix + 1])  # position 0, 0, 0
        assert apart(rope(k).norm(dim=-1), k.norm(dim=-1)) < CLOSE and not torch.equal(rope(k), k)
        return full(layer, q, k, v, rope, prefix=prefix, **more)

    # the same content at every position: before rotation all clip rows are one row
    flat, t = torch.ones(1, *c.shape), torch.tensor([0.5])
    for x in (flat, c.noise()):
        assert apart(c.family.net.x0(x, t, c.cond, attend=attend), c.family.net.x0(x, t, c.cond)) <= CLOSE
    prefix, total, k = rows[0]
    assert prefix == c.cond.fields["text"].shape[1] and total == prefix + patches
    assert apart(k[:, :, prefix:], k[:, :, prefix : prefix + 1].expand(-1, -1, patches, -1)) < CLOSE


def test_without_rotary_positions_the_seam_has_no_rope() -> None:
    c, seen = cog("cogvideox-2b"), []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        seen.append(rope)
        return full(layer, q, k, v, rope, **more)

    c.family.net.x0(c.noise(), torch.tensor([0.5]), c.cond, attend=attend)
    assert seen == [None, None]


@torch.no_grad()
def test_a_scale_folds_into_the_first_layer_of_the_text() -> None:
    c = cog("cogvideox-5b")
    taking = c.family.network_of().with_scale_input()
    torch.nn.init.normal_(taking.guidance.outer.weight, generator=torch.Generator().manual_seed(0))
    x, t = c.noise(), torch.tensor([0.7])
    told = taking(x, t, c.cond.with_field("guidance", torch.tensor([4.0])))
    plain = taking(x, t, c.cond)
    assert apart(taking.with_fixed_scale(4.0)(x, t, c.cond), told) <= CLOSE
    assert apart(told, plain) > 1e-3


# -- the codec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_is_the_pipelines(variant: str) -> None:
    c = cog(variant)
    stock = c.stock(2, output_type="pt")  # [1, T, 3, H, W] in [0, 1]
    ours = (c.family.codec.decode(c.family.unpack(c.stock(2), c.shape)).transpose(1, 2) + 1) / 2
    assert stock.shape == ours.shape == (1, 9, 3, 64, 48)
    assert apart(ours, stock) <= CLOSE


def test_latents_of_15_have_a_spare_frame_in_front_that_is_a_copy_and_is_not_decoded() -> None:
    old, new = cog("cogvideox-5b").family, cog("cogvideox15-5b").family
    pixels = torch.rand(1, 3, 17, 32, 32) * 2 - 1
    z, plain = new.codec.encode(pixels), old.codec.encode(pixels)
    assert new.codec.shape(17, 32, 32) == z.shape[1:] == (4, 6, 4, 4) and plain.shape[1:] == (4, 5, 4, 4)
    assert torch.equal(z[:, :, 0], z[:, :, 1])
    assert torch.equal(new.codec.decode(z), new.codec.decode(torch.cat([0 * z[:, :, :1], z[:, :, 1:]], 2)))
    assert new.codec.decode(z).shape == pixels.shape
    fit_network(new, z.shape[1:], "here")


@pytest.mark.parametrize("variant", ["cogvideox-5b", "cogvideox15-5b"])
@pytest.mark.parametrize("chunks", [[3, 2, 2], [3, 4], [5, 2], [7]])
def test_decoding_in_chunks_is_decoding_the_whole(variant: str, chunks: list[int]) -> None:
    codec = cog(variant).family.codec
    z = torch.randn(2, 4, sum(chunks) + codec.spare, 4, 6, generator=torch.Generator().manual_seed(0))
    whole, stream = codec.decode(z), codec.stream()
    parts = [stream(part) for part in z.split([chunks[0] + codec.spare, *chunks[1:]], 2)]
    assert torch.equal(torch.cat(parts, 2), whole) and whole.shape[2] == 25
    assert [part.shape[2] for part in parts] == [4 * chunks[0] - 3, *(4 * n for n in chunks[1:])]


def test_parts_of_another_length_give_other_pixels_so_a_stream_waits_for_its_own() -> None:
    codec, z = cog("cogvideox-5b").family.codec, torch.randn(1, 4, 8, 4, 4)
    stream, vae = codec.stream(), codec.vae
    assert [stream(part).shape[2] for part in z.split([1, 1, 1, 3, 2], 2)] == [0, 0, 9, 8, 8]
    # an even clip gives more frames than it came from
    halves = vae.decoder(z[:, :, :5])[0], vae.decode(z[:, :, :5]).sample
    assert apart(*halves) > 1e-3
    assert vae.decode(z[:, :, :4]).sample.shape[2] == 16


@pytest.mark.parametrize(
    ("variant", "size", "said"),
    [
        ("cogvideox-5b", (13, 32, 32), "1 + k * 8; try 9"),
        ("cogvideox-5b", (0, 32, 32), "try 1"),
        ("cogvideox-5b", (9, 40, 32), "multiples of 16; try 32x32"),
        ("cogvideox15-5b", (13, 32, 32), "try 9"),
        ("cogvideox15-5b", (9, 96, 32), "up to 64x48, found 96x32"),
        ("cogvideox15-5b", (9, 32, 64), "up to 64x48, found 32x64"),
        ("cogvideox-i2v", (9, 32, 32), "clips of 64x48, found 32x32"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(variant: str, size: tuple[int, int, int], said: str) -> None:
    with pytest.raises(UserError) as found:
        cog(variant).family.codec.shape(*size)
    assert said in str(found.value) and "\n" not in str(found.value)


def test_other_sizes_than_the_trained_one_go_through_the_network() -> None:
    for variant, size in (
        ("cogvideox-2b", (17, 96, 32)),
        ("cogvideox-5b", (17, 96, 32)),
        ("cogvideox15-5b", (17, 32, 48)),
    ):
        c = cog(variant)
        sized = dict(zip(("num_frames", "height", "width"), size, strict=True))
        other = Case(variant, c.family, c.call | sized, c.family.codec.shape(*size), c.text)
        assert apart(other.family.pack(other.ours(2)), other.stock(2)) <= CLOSE


def test_a_folder_says_its_own_size() -> None:
    said = cog("cogvideox-5b").family.defaults()
    assert said == {"frames": 9, "height": 64, "width": 48, "steps": 50, "guidance": 6.0}


# -- from an image -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["cogvideox-i2v", "cogvideox15-i2v"])
def test_an_image_becomes_what_the_pipeline_makes_of_it(variant: str) -> None:
    c = cog(variant)
    told, _ = calls(c, 1)[0]
    assert torch.equal(c.cond.fields["first"].transpose(1, 2), told["hidden_states"][1:, :, c.shape[0] :])
    likeliest = c.family.from_image(c.image, c.shape)["first"]
    assert torch.equal(likeliest, c.family.from_image(c.image, c.shape)["first"])
    assert (likeliest[:, :, 1:] == 0).all() and likeliest.shape[1:] == c.shape


def test_15_scales_the_latents_of_an_image_the_other_way() -> None:
    c = cog("cogvideox15-i2v")
    assert isinstance(c.family.codec, CogCodec)
    clip = c.family.codec.encode(c.image[:, :, None])[:, :, :1]
    factor = c.family.pipe.vae.config.scaling_factor
    assert apart(c.family.from_image(c.image, c.shape)["first"][:, :, :1], clip / factor**2) <= CLOSE


def test_a_folder_that_starts_from_text_takes_no_image() -> None:
    family = cog("cogvideox-5b").family
    pixels = torch.zeros(1, 3, *picture(64, 48).size[::-1])
    with pytest.raises(UserError, match="does not start from an image"):
        family.from_image(pixels, (4, 3, 8, 6))
    assert not family.needs_image and cog("cogvideox-i2v").family.needs_image


def test_the_published_growth_of_guidance_oscillates_before_it_settles() -> None:
    """The formula compares steps with timesteps up to 1000, so it only settles below twice the number of steps."""
    family = cog("cogvideox-5b").family
    family.dynamic_guidance = True
    for timestep in (999, 499, 79, 19):
        wanted = 1 + 6 * (1 - math.cos(math.pi * ((50 - timestep) / 50) ** 5.0)) / 2
        assert family.scale_at(6.0, float(timestep), 50) == wanted
