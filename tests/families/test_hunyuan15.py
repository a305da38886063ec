"""HunyuanVideo 1.5: two texts under one mask, no image, a guider that is part of the pipeline; exact against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import CLOSE, Case, apart, case
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from families.image_bed import told, told_alike
from torch import Tensor

from vdistill.app.generate import Plan, guided, latents
from vdistill.core.attention import full
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.families.hunyuan15 import Hunyuan15Family
from vdistill.families.random_tiny import QUOTED, random_tiny
from vdistill.families.skeleton import skeleton
from vdistill.families.stock_sampler import sample_stock

PLAIN = "a dog runs"
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> Any:
    with torch.no_grad():
        yield


def with_guider(negative: str = "", **said: Any) -> Case:
    """A pipeline with a guider of its own."""
    c = case("hunyuan15")
    c.family.pipe.register_modules(guider=ClassifierFreeGuidance(**said))
    family = Hunyuan15Family(c.family.pipe, negative)
    return Case("hunyuan15", family, c.call, c.shape, family.text([QUOTED]))


def sampled(c: Case, steps: int, cond: Cond | None = None) -> Tensor:
    """By our loop, at the scale the family says."""
    family, scale = c.family, c.family.defaults()["guidance"]
    at = lambda i, t, n: guided(family, family.net, family.scale_at(scale, t, n))  # noqa: E731
    return sample_stock(family, at, c.noise(), cond or c.cond, steps)


def seam(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, **more: Any) -> Tensor:
    return full(layer, q, k, v, rope, **more)


# -- what the network is told ------------------------------------------------------------------------------------------


def test_the_network_is_told_what_its_pipeline_tells_it() -> None:
    c = with_guider(guidance_scale=1.0)
    assert told_alike(c.family.pipe.transformer, lambda: sampled(c, 5), lambda: c.stock(5)) <= CLOSE


def test_there_is_no_image_in_any_of_its_three_places() -> None:
    c = case("hunyuan15")
    (heard, _) = told(c.family.pipe.transformer, lambda: c.family.net.x0(c.noise(), torch.tensor([0.5]), c.cond))[0]
    assert heard["hidden_states"].shape[1] == 2 * 4 + 1 and torch.equal(heard["hidden_states"][:, :4], c.noise())
    assert not heard["hidden_states"][:, 4:].any()
    assert heard["image_embeds"].shape == (1, 729, 8) and not heard["image_embeds"].any()


def test_in_half_precision_the_network_hears_the_same() -> None:
    pipe = random_tiny("hunyuan15").to(torch.bfloat16)
    pipe.register_modules(guider=ClassifierFreeGuidance(guidance_scale=1.0))
    family, like = Hunyuan15Family(pipe), case("hunyuan15")
    c = Case("hunyuan15", family, like.call, like.shape, family.text([QUOTED]))
    runs = told(pipe.transformer, lambda: sampled(c, 3)), told(pipe.transformer, lambda: c.stock(3))
    for ours, stock in zip(*runs, strict=True):
        assert ours[0].keys() == stock[0].keys()
        for name in ours[0].keys() - {"hidden_states"}:  # the loop around it is of float32
            assert torch.equal(ours[0][name], stock[0][name]), name


def test_predictions_become_estimates_and_come_back() -> None:
    c = case("hunyuan15")
    for t in (1.0, 0.5, 0.02):
        x, at = c.noise(), torch.tensor([t])
        direct = c.family.network_of()(x, at, c.cond)
        back = c.family.clock.schedule.prediction(c.family.net.x0(x, at, c.cond), x, at, "flow")
        assert apart(back, direct) <= CLOSE


def test_the_grid_is_the_schedulers() -> None:
    c = case("hunyuan15")
    c.family.set_timesteps(c.family.pipe.scheduler, 50, c.shape, torch.device("cpu"))
    assert apart(c.family.schedule.grid(50), c.family.pipe.scheduler.sigmas) <= CLOSE


# -- the guider --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ({"guidance_scale": 4.0}, 4.0),
        ({"guidance_scale": 4.0, "enabled": False}, 1.0),
        ({"guidance_scale": 3.0, "use_original_formulation": True}, 4.0),
        ({"guidance_scale": 4.0, "start": 0.3, "stop": 0.7}, 4.0),
    ],
    ids=["plain", "off", "original", "interval"],
)
def test_guidance_is_the_guiders(said: dict[str, Any], scale: float) -> None:
    c = with_guider(**said)
    assert c.family.defaults()["guidance"] == scale
    assert apart(sampled(c, 4), c.stock(4)) <= CLOSE
    acts = [c.family.scale_at(scale, float(t), 4) for t in c.family.pipe.scheduler.timesteps]
    assert acts == ([1.0, 4.0, 1.0, 1.0] if "start" in said else [scale] * 4)


def test_a_negative_prompt_takes_both_texts_and_their_masks() -> None:
    c = with_guider('blurry, "bad"', guidance_scale=4.0)
    assert apart(sampled(c, 2), c.stock(2, negative_prompt='blurry, "bad"')) <= CLOSE
    without = c.cond.drop(["text"]).fields
    assert all(torch.equal(without[name], c.cond.null[name]) for name in without)
    assert without["text.glyph_mask"].any() and not with_guider().cond.null["text.glyph_mask"].any()


@pytest.mark.parametrize("guider", [AdaptiveProjectedGuidance(), ClassifierFreeGuidance(guidance_rescale=0.7)])
def test_a_guider_that_does_more_is_one_line(guider: Any) -> None:
    pipe = case("hunyuan15").family.pipe
    pipe.register_modules(guider=guider)
    with pytest.raises(UserError, match=rf"guided by {type(guider).__name__}"):
        Hunyuan15Family(pipe)


def test_an_exported_student_runs_without_guidance_and_a_teacher_keeps_its_own(tmp_path: Path) -> None:
    c, times = case("hunyuan15"), (1.0, 0.6)
    c.family.save(c.family.net, tmp_path / "student", times)
    back = Hunyuan15Family.load(tmp_path / "student")
    ours = latents(back, back.net, c.noise(), c.cond, Plan(), times)
    assert apart(ours, Case("hunyuan15", back, c.call, c.shape, c.text).stock(50)) <= CLOSE
    assert c.family.pipe.guider.guidance_scale == 6.0 and back.defaults()["guidance"] == 1.0
    c.family.save(c.family.net, tmp_path / "teacher")
    opened = Hunyuan15Family(skeleton(tmp_path / "teacher"))  # as without its weights, for a check
    assert opened.defaults()["guidance"] == 6.0


# -- text --------------------------------------------------------------------------------------------------------------


def test_captions_in_a_batch_are_those_captions_alone() -> None:
    c = case("hunyuan15")
    x, t = torch.cat([c.noise(0), c.noise(1)]), torch.tensor([0.9, 0.3])
    both = c.family.text([QUOTED, PLAIN])
    assert both.fields["text.glyph_mask"].any(1).tolist() == [True, False]
    made = c.family.net.x0(x, t, both), c.family.net.x0(x, t, both, attend=seam)
    for i, caption in enumerate((QUOTED, PLAIN)):
        alone = c.family.net.x0(x[i : i + 1], t[i : i + 1], c.family.text([caption]))
        assert max(apart(m[i : i + 1], alone) for m in made) <= CLOSE


@pytest.mark.parametrize(("name", "mask"), [("text", "text.mask"), ("text.glyph", "text.glyph_mask")])
def test_padding_of_a_text_is_not_read_and_the_rest_is(name: str, mask: str) -> None:
    c = case("hunyuan15")
    x, t, read = c.noise(), torch.tensor([0.6]), c.text.fields[mask][..., None] > 0
    assert read.any() and not read.all()
    plain = c.family.net.x0(x, t, c.cond)
    ramp = torch.linspace(-1, 1, 16)
    padded = c.cond.with_field(name, torch.where(read, c.text.fields[name], ramp))
    assert apart(c.family.net.x0(x, t, padded), plain) <= CLOSE
    changed = c.cond.with_field(name, torch.where(read, ramp, c.text.fields[name]))
    assert apart(c.family.net.x0(x, t, changed), plain) > 1e-4


def test_a_text_longer_than_is_read_is_one_line_in_quotes_too() -> None:
    family = case("hunyuan15").family
    with pytest.raises(UserError, match=r"tokens, hunyuan15 reads 1000"):
        family.check_text(["cat " * 1500])
    long = f'a sign that says "{"x" * 300}"'
    with pytest.raises(UserError, match=r"bytes in quotes, hunyuan15 reads 256"):
        family.text([long])
    family.cut_long_text = True
    assert bool(family.text([long]).fields["text.glyph_mask"].all())


# -- the seam ----------------------------------------------------------------------------------------------------------


def test_the_seam_gives_unrotated_keys_with_all_text_first() -> None:
    c, seen = case("hunyuan15"), []
    f, tokens, t = c.cond.fields, c.family.tokens(c.shape), torch.tensor([0.7])
    read = int(f["text.mask"].sum() + f["text.glyph_mask"].sum())
    rows = 729 + f["text"].shape[1] + f["text.glyph"].shape[1]

    def attend(
        layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, mask: Tensor | None = None
    ) -> Tensor:
        turned = rope(k)
        seen.append((layer, prefix, q.shape[2]))
        assert torch.equal(turned[:, :, : prefix + 1], k[:, :, : prefix + 1])  # text, and the clip's corner
        assert not torch.equal(turned[:, :, prefix + 1 :], k[:, :, prefix + 1 :])
        assert mask is not None and mask[:, prefix:].all() and mask[:, :read].all() and not mask[:, read:prefix].any()
        return full(layer, q, k, v, rope, prefix=prefix, mask=mask)

    def alike(layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Any, *, prefix: int = 0, **more: Any) -> Tensor:
        clip = k[:, :, prefix:]  # the same content at every position: before rotation all rows are one row
        assert layer > 0 or apart(clip, clip[:, :, :1].expand_as(clip)) <= CLOSE
        return full(layer, q, k, v, rope, prefix=prefix, **more)

    assert apart(c.family.net.x0(c.noise(), t, c.cond, attend=attend), c.family.net.x0(c.noise(), t, c.cond)) <= CLOSE
    assert seen == [(layer, rows, rows + tokens) for layer in range(2)]
    c.family.net.x0(torch.ones(1, *c.shape), t, c.cond, attend=alike)


# -- the codec and the size --------------------------------------------------------------------------------------------


def test_clips_are_the_pipelines() -> None:
    c = with_guider(guidance_scale=1.0)
    size = {"num_frames": 9, "height": 32, "width": 48}
    z = c.stock(2, **size)
    assert tuple(z.shape[1:]) == c.family.codec.shape(9, 32, 48)
    pixels = (c.family.codec.decode(z).transpose(1, 2) + 1) / 2
    assert apart(pixels, c.stock(2, output_type="pt", **size)) <= CLOSE
    clip, vae = pixels.transpose(1, 2) * 2 - 1, c.family.pipe.vae
    assert apart(c.family.codec.encode(clip), vae.encode(clip).latent_dist.mode() * vae.config.scaling_factor) == 0


def test_without_a_word_the_size_is_the_pipelines() -> None:
    c = with_guider(guidance_scale=1.0)
    said = c.family.defaults()
    call = {k: v for k, v in c.call.items() if k not in ("height", "width")}
    z = Case("hunyuan15", c.family, call, c.shape, c.text).stock(1)
    assert tuple(z.shape[1:]) == c.family.codec.shape(9, int(said["height"]), int(said["width"]))
    assert (said["frames"], said["steps"]) == (121, 50)
    c.family.pipe.target_size = 640  # of the published networks for 480 lines
    assert (c.family.defaults()["height"], c.family.defaults()["width"]) == (480, 848)


def test_clips_of_a_batch_are_coded_one_by_one() -> None:
    codec = case("hunyuan15").family.codec
    pixels = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = codec.encode(pixels)
    assert torch.equal(z[1:], codec.encode(pixels[1:])) and not torch.equal(z[:1], z[1:])
    assert torch.equal(codec.decode(z)[1:], codec.decode(z[1:]))


def test_what_does_not_fit_the_codec_is_one_line() -> None:
    codec = case("hunyuan15").family.codec
    for size, words in (((10, 64, 48), r"1 \+ k \* 4"), ((9, 72, 48), "multiples of 16")):
        with pytest.raises(UserError, match=words):
            codec.shape(*size)
