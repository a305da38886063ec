"""HunyuanVideo: told what its pipeline tells it, a scale as an input or none at all, text behind a template and a mask;
exact against the stock pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import CLOSE, Case, apart, case
from families.image_bed import rebuilt, told, told_alike
from torch import Tensor

from vdistill.app.generate import Plan, guided, latents
from vdistill.core.attention import full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided, Told
from vdistill.families.hunyuan import HunyuanFamily, HunyuanNet
from vdistill.families.random_tiny import random_tiny
from vdistill.families.stock_sampler import sample_stock

READ = {"max_sequence_length": 256}  # the pipeline's default, which the tiny call shortens
LONG, SHORT = "a red cat jumps over a fence", "a dog"


def deaf() -> Case:
    """A network that is told no scale."""
    c = case("hunyuan")
    c.family.pipe.register_modules(transformer=rebuilt(c.family.pipe.transformer, guidance_embeds=False))
    return Case("hunyuan", HunyuanFamily(c.family.pipe), c.call, c.shape, c.text)


def sampled(c: Case, net: Denoiser, cond: Cond, steps: int = 5) -> Tensor:
    return sample_stock(c.family, lambda *_: net, c.noise(), cond, steps)


# -- what the network is told ------------------------------------------------------------------------------------------


def test_the_network_is_told_what_its_pipeline_tells_it() -> None:
    c = case("hunyuan")
    assert told_alike(c.family.pipe.transformer, lambda: c.ours(5), lambda: c.stock(5, **READ)) <= CLOSE


def test_in_half_precision_it_hears_the_same_but_for_times_that_the_pipeline_rounds() -> None:
    pipe = random_tiny("hunyuan").to(torch.bfloat16)
    family, like = HunyuanFamily(pipe), case("hunyuan")
    c = Case("hunyuan", family, like.call, like.shape, family.text([LONG]))
    runs = told(pipe.transformer, lambda: c.ours(3)), told(pipe.transformer, lambda: c.stock(3, **READ))
    for ours, stock in zip(*runs, strict=True):
        assert ours[0].keys() == stock[0].keys()
        for name in ours[0].keys() - {"hidden_states"}:  # the loop around it is of float32
            assert torch.equal(ours[0][name].to(stock[0][name].dtype), stock[0][name]), name


def test_predictions_become_estimates_and_come_back() -> None:
    c = case("hunyuan")
    for t in (1.0, 0.9, 0.5, 0.02):
        x, at = c.noise(), torch.tensor([t])
        direct = c.family.network_of()(x, at, c.cond)
        back = c.family.clock.schedule.prediction(c.family.net.x0(x, at, c.cond), x, at, "flow")
        assert apart(back, direct) <= CLOSE


def test_the_grid_is_the_schedulers() -> None:
    c = case("hunyuan")
    for steps in (5, 50):
        c.family.set_timesteps(c.family.pipe.scheduler, steps, c.shape, torch.device("cpu"))
        assert apart(c.family.schedule.grid(steps), c.family.pipe.scheduler.sigmas) <= CLOSE


# -- guidance ----------------------------------------------------------------------------------------------------------


def test_the_scale_is_an_input_and_the_pipelines_default_is_heard_when_nobody_says_one() -> None:
    c = case("hunyuan")
    x, t, network = c.noise(), torch.tensor([0.8]), c.family.network_of()
    assert c.family.guided_by == "guidance" and c.family.defaults()["guidance"] == 6.0
    plain = c.family.net.x0(x, t, c.cond)
    assert torch.equal(plain, Told(c.family.net, 6.0).x0(x, t, c.cond))
    assert apart(plain, Told(c.family.net, 2.0).x0(x, t, c.cond)) > 1e-4
    assert apart(sampled(c, Told(c.family.net, 2.0), c.cond), c.stock(5, guidance_scale=2.0)) <= CLOSE
    assert network.takes_scale and network.with_scale_input() is network and network.with_fixed_scale(2.0) is network


def test_a_told_scale_and_true_guidance_go_together() -> None:
    like = case("hunyuan")
    family = HunyuanFamily(like.family.pipe, "blurry")
    c = Case("hunyuan", family, like.call, like.shape, family.text([LONG]))
    cond = c.cond.with_field("guidance", torch.tensor([2.0]))
    ours = sampled(c, Guided(family.net, cfg(4.0, "text")), cond)
    stock = c.stock(5, guidance_scale=2.0, true_cfg_scale=4.0, negative_prompt="blurry")
    assert apart(ours, stock) <= CLOSE
    assert apart(ours, c.stock(5, guidance_scale=2.0)) > 1e-2


def test_a_network_that_hears_no_scale_is_guided_by_two_passes_when_asked() -> None:
    c = deaf()
    assert c.family.guided_by == "text" and not c.family.network_of().takes_scale
    assert c.family.defaults()["guidance"] == 1.0
    assert apart(sampled(c, guided(c.family, c.family.net, 1.0), c.cond), c.stock(5)) <= CLOSE
    two = sampled(c, guided(c.family, c.family.net, 3.0), c.cond)
    assert apart(two, c.stock(5, true_cfg_scale=3.0, negative_prompt="")) <= CLOSE
    assert apart(two, c.stock(5)) > 1e-2


def test_it_can_learn_a_scale_and_forget_it_into_its_weights() -> None:
    c = deaf()
    x, t, cond = c.noise(), torch.tensor([0.8]), c.cond.with_field("guidance", torch.tensor([4.0]))
    before = c.family.net.x0(x, t, cond)
    taking = c.family.network_of().with_scale_input()
    assert isinstance(taking, HunyuanNet) and taking.takes_scale and taking.guidance is not None
    assert torch.equal(c.family.as_net(taking).x0(x, t, cond), before)
    torch.nn.init.normal_(taking.guidance.outer.weight, generator=torch.Generator().manual_seed(0))
    moved = c.family.as_net(taking).x0(x, t, cond)
    assert apart(moved, before) > 1e-3
    assert apart(c.family.as_net(taking.with_fixed_scale(4.0)).x0(x, t, c.cond), moved) <= CLOSE


def test_an_exported_student_still_hears_the_scale(tmp_path: Path) -> None:
    c, times = case("hunyuan"), (1.0, 0.75, 0.4)
    c.family.save(c.family.net, tmp_path, times)
    back = HunyuanFamily.load(tmp_path)
    opened = Case("hunyuan", back, c.call, c.shape, c.text)
    ours = [latents(back, guided(back, back.net, s), c.noise(), c.cond, Plan(), times) for s in (2.0, 6.0)]
    for scale, made in zip((2.0, 6.0), ours, strict=True):
        assert apart(made, opened.stock(50, guidance_scale=scale)) <= CLOSE
    assert apart(*ours) > 1e-3


# -- text --------------------------------------------------------------------------------------------------------------


def test_text_stands_behind_a_template_that_is_cut_off() -> None:
    c = case("hunyuan")
    limit = c.family.text_length
    for caption in (LONG, SHORT):
        fields = c.family.text([caption]).fields
        words = len(c.family.pipe.tokenizer(caption).input_ids)  # a beginning that was cut, an end that was not
        assert fields["text"].shape[:2] == fields["text.mask"].shape == (1, limit)
        assert int(fields["text.mask"].sum()) == words
    pooled = [c.family.text([caption]).fields["text.pooled"] for caption in (LONG, SHORT)]
    assert pooled[0].shape == (1, 16) and apart(*pooled) > 1e-3


def test_a_caption_in_a_batch_is_that_caption_alone() -> None:
    c = case("hunyuan")
    x, t = torch.cat([c.noise(0), c.noise(1)]), torch.tensor([0.9, 0.3])
    both = c.family.text([LONG, SHORT])
    assert not torch.equal(both.fields["text.mask"][0], both.fields["text.mask"][1])

    def seam(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
        return full(layer, q, k, v, rope, **more)

    for attend in (full, seam):
        made = c.family.net.x0(x, t, both, attend=attend)
        for i, caption in enumerate((LONG, SHORT)):
            alone = c.family.net.x0(x[i : i + 1], t[i : i + 1], c.family.text([caption]))
            assert apart(made[i : i + 1], alone) <= CLOSE


def test_padding_of_the_text_is_not_read() -> None:
    c = case("hunyuan")
    mask, x, t = c.text.fields["text.mask"], c.noise(), torch.tensor([0.6])
    assert mask.any() and not mask.all()
    other = torch.where(mask[..., None] > 0, c.text.fields["text"], 9.0)
    assert apart(c.family.net.x0(x, t, c.cond.with_field("text", other)), c.family.net.x0(x, t, c.cond)) <= CLOSE
    read = torch.where(mask[..., None] > 0, 9.0, c.text.fields["text"])
    assert apart(c.family.net.x0(x, t, c.cond.with_field("text", read)), c.family.net.x0(x, t, c.cond)) > 1e-3


def test_a_caption_longer_than_is_read_is_one_line() -> None:
    family = case("hunyuan").family
    with pytest.raises(UserError, match=r"tokens, hunyuan reads \d+"):
        family.text(["cat " * 600])
    family.cut_long_text = True
    assert bool(family.text(["cat " * 600]).fields["text.mask"].all())


# -- the seam ----------------------------------------------------------------------------------------------------------


def test_the_seam_gives_unrotated_keys_with_all_text_first() -> None:
    c, seen = case("hunyuan"), []
    text, tokens = c.cond.fields["text"].shape[1], c.family.tokens(c.shape)
    t = torch.tensor([0.7])

    def attend(
        layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        turned = rope(k)
        seen.append((layer, prefix, q.shape[2]))
        assert torch.equal(turned[:, :, : prefix + 1], k[:, :, : prefix + 1])  # text, and the clip's corner
        assert not torch.equal(turned[:, :, prefix + 1 :], k[:, :, prefix + 1 :])
        assert mask is not None and torch.equal(mask[:, :prefix], c.cond.fields["text.mask"] > 0)
        assert mask[:, prefix:].all()
        return full(layer, q, k, v, rope, prefix=prefix, mask=mask)

    def alike(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, **more: Any) -> Tensor:
        rows = k[:, :, prefix:]  # the same content at every position: before rotation all rows are one row
        assert layer > 0 or apart(rows, rows[:, :, :1].expand_as(rows)) <= CLOSE
        return full(layer, q, k, v, rope, prefix=prefix, **more)

    assert apart(c.family.net.x0(c.noise(), t, c.cond, attend=attend), c.family.net.x0(c.noise(), t, c.cond)) <= CLOSE
    assert seen == [(layer, text, text + tokens) for layer in range(4)]
    c.family.net.x0(torch.ones(1, *c.shape), t, c.cond, attend=alike)


def test_taps_are_rows_of_the_clip_in_order_of_execution() -> None:
    c = case("hunyuan")
    network = c.family.network_of()
    kinds = [type(block).__name__ for block in network.blocks()]
    assert kinds == ["HunyuanVideoTransformerBlock"] * 2 + ["HunyuanVideoSingleTransformerBlock"] * 2
    for features in c.family.net.taps(c.noise(), torch.tensor([0.5]), c.cond, range(4)):
        assert features.shape == (1, c.family.tokens(c.shape), 32)


# -- the codec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [9, 25])  # 25: the VAE's own tiles along time
def test_clips_are_the_pipelines(frames: int) -> None:
    c = case("hunyuan")
    size = {"num_frames": frames, "height": 16, "width": 32}
    z = c.stock(2, **size)
    assert tuple(z.shape[1:]) == c.family.codec.shape(frames, 16, 32)
    pixels = (c.family.codec.decode(z).transpose(1, 2) + 1) / 2
    assert apart(pixels, c.stock(2, output_type="pt", **size)) <= CLOSE
    codes = c.family.codec.encode(pixels.transpose(1, 2) * 2 - 1)
    vae = c.family.pipe.vae
    assert apart(codes, vae.encode(pixels.transpose(1, 2) * 2 - 1).latent_dist.mode() * vae.config.scaling_factor) == 0


def test_what_does_not_fit_the_codec_is_one_line() -> None:
    codec = case("hunyuan").family.codec
    for size, words in (
        ((10, 64, 48), r"1 \+ k \* 4"),
        ((9, 72, 48), "multiples of 16"),
        ((9, 64, 40), "multiples of 16"),
    ):
        with pytest.raises(UserError, match=words):
            codec.shape(*size)
