"""Judges of decoded frames: which frames they are shown, with what features, and who gets a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from contract import REGISTERED, case
from methods.bed import RF
from torch import Tensor, nn
from toys import shapes_source, tiny_family

from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.times import Grid
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.augment import AUGMENTS
from vdistill.discriminators.heads import CrossHeads, TokenHeads
from vdistill.discriminators.penalties import Slope
from vdistill.discriminators.perceptual import RandomFeatures
from vdistill.discriminators.pictures import Pictures, of_images
from vdistill.families.image_features import FolderFeatures, open_image_features, quarters

NOW, NONE = torch.zeros(2), Cond()


def first_colour(images: Tensor) -> Sequence[Tensor]:
    """Each picture by its upper left corner, [N, 1, 3]."""
    return [images[:, :, 0, 0][:, None]]


def counted(length: int = 9) -> Tensor:
    """Two clips whose frames show their number, the second's plus 100."""
    number = torch.arange(float(length)) + torch.tensor([0.0, 100.0])[:, None]
    return number.view(2, 1, length, 1, 1).expand(2, 3, length, 8, 8).clone()


def test_it_is_shown_so_many_frames_of_each_clip_in_order_and_others_each_time() -> None:
    look = Pictures(lambda x: x, first_colour, 3)
    assert look(counted(), NOW, NONE)[0][..., 0].tolist() == [[1, 4, 7], [101, 104, 107]]
    seen = set()
    for i in range(40):
        drawn = look.drawn(Rng(i))
        (found,) = drawn(counted(), NOW, NONE)
        assert torch.equal(found, drawn(counted(), NOW, NONE)[0])  # real and generated alike
        numbers = found[..., 0] % 100
        assert (numbers.diff(dim=1) >= 0).all() and (found[0] < 9).all() and (found[1] >= 100).all()
        seen |= {int(n) for n in numbers.flatten()}
    assert seen == {*range(9)}


def test_where_latent_frames_decode_alone_only_those_are_decoded() -> None:
    asked: list[int] = []

    def decode(x: Tensor) -> Tensor:
        asked.append(x.shape[2])
        return x * 2

    one, two = (Pictures(decode, first_colour, 2, apart).drawn(Rng(3)) for apart in (False, True))
    assert torch.equal(one(counted(), NOW, NONE)[0], two(counted(), NOW, NONE)[0]) and asked == [9, 2]


@pytest.mark.parametrize("variant", ["wan", "cogvideox15-5b", "hunyuan", "ltx", "animatediff", "sd15"])
def test_every_codec_decodes_with_a_gradient_as_it_decodes_without(variant: str) -> None:
    codec, x = case(variant).family.codec, case(variant).noise().requires_grad_()
    pixels = codec.unclipped(x)
    assert torch.equal(pixels.detach().clamp(-1, 1), codec.decode(x.detach())) and variant in REGISTERED
    (slope,) = torch.autograd.grad(pixels.square().mean(), x)
    assert slope.isfinite().all() and (slope != 0).any()


def test_the_latents_get_the_gradient_of_the_frames_and_the_judge_learns() -> None:
    family = tiny_family()
    batch = shapes_source(family)(0, 0)
    torch.manual_seed(0)
    look = Pictures(family.codec.unclipped, of_images(RandomFeatures(3, 8, coarse=2)), 2, augment=AUGMENTS["flip"])
    term = Adversarial(look, RF, TokenHeads([8, 16, 32], 8), 1.0, 1.0, "hinge", Grid((0.0,)))
    x = (batch.x + 0.2).requires_grad_()
    (slope,) = torch.autograd.grad(term.student(x, batch, Rng(0)).total, x)
    assert slope.isfinite().all() and (slope != 0).any()
    assert term.watch(batch.x, batch, Rng(0)).parts["logit_gap"] == 0  # the same frames, changed alike, without noise
    term.watch(x, batch, Rng(0)).total.backward()
    assert x.grad is None and all(p.grad is not None for p in term.module.parameters())


# -- the user's own image features ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random DINOv2 in a folder."""
    from transformers import Dinov2Config, Dinov2Model

    place = tmp_path_factory.mktemp("images") / "dino"
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(place)
    (place / "preprocessor_config.json").write_text(
        '{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "crop_size": {"height": 14, "width": 14}}'
    )
    return place


def test_a_folders_features_are_those_of_the_model_on_images_prepared_as_it_wants(dino: Path) -> None:
    from transformers import Dinov2Model

    features = open_image_features(str(dino), (1, 3))
    images = torch.rand(2, 3, 14, 14) * 2 - 1
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    hidden = Dinov2Model.from_pretrained(dino).eval()(((images + 1) / 2 - mean) / std, output_hidden_states=True)
    want = [hidden.hidden_states[2], hidden.hidden_states[4]]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(features(images), want, strict=True))
    assert [f.shape for f in features(torch.rand(2, 3, 20, 30))] == [(2, 5, 16)] * 2  # any size
    images.requires_grad_()
    assert (torch.autograd.grad(features(images)[1].square().sum(), images)[0] != 0).any()
    assert isinstance(features, FolderFeatures) and not any(p.requires_grad for p in features.model.parameters())
    assert open_image_features(str(dino)).layers == (0, 1, 2, 3) and quarters(12) == (2, 5, 8, 11)  # type: ignore[union-attr]


@pytest.mark.parametrize("head", [TokenHeads, CrossHeads])
def test_the_exact_slope_goes_through_decoder_image_model_and_head(head: type[nn.Module], dino: Path) -> None:
    family = tiny_family()
    batch = shapes_source(family)(0, 0)
    torch.manual_seed(0)
    judge = head([16], 8)
    look = Pictures(family.codec.unclipped, open_image_features(str(dino), (1,)), 1)
    term = Adversarial(look, RF, judge, 1.0, 1.0, "ns", Grid((0.0,)), penalties=(Slope(2.0),))
    level = next(term._levels(batch.x, batch.cond, Rng(0)))
    x = batch.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(level.ask(x).logits.mean(1).sum(), x)
    want = slope.square().flatten(1).sum(1)
    cost = Slope(2.0)(level, level.ask(batch.x), Rng(0))
    assert torch.allclose(cost, want, rtol=1e-4) and (want > 0).all()
    term.watch(batch.x + 0.1, batch, Rng(0)).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in judge.parameters())


class Script(nn.Module):
    """Two outputs of two shapes."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.mean([2, 3]), x[:, :, ::2, ::2] * 2]


def test_a_torchscript_file_says_features_of_any_shape(tmp_path: Path) -> None:
    torch.jit.script(Script()).save(str(tmp_path / "script.pt"))  # type: ignore[no-untyped-call]
    images = torch.rand(2, 3, 4, 6)
    pooled, places = open_image_features(str(tmp_path / "script.pt"))(images)
    assert torch.equal(pooled, images.mean([2, 3])[:, None])
    assert torch.equal(places, 2 * images[:, :, ::2, ::2].flatten(2).transpose(1, 2))
    (alone,) = open_image_features(str(tmp_path / "script.pt"), [1])(images)
    assert torch.equal(alone, places)
    with pytest.raises(UserError, match=r"layers \[2\], the images' model has outputs 0\.\.1"):
        open_image_features(str(tmp_path / "script.pt"), [2])(images)


def test_what_is_no_image_model_is_said_in_one_line(dino: Path, tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path / "words")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text((dino / "config.json").read_text())
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    for path, layers, said in (
        (tmp_path / "words", (), "holds BertConfig, which is no image transformer"),
        (tmp_path / "pickled", (), "holds no weights as safetensors"),
        (dino, (4,), r"layers \[4\], the images' model has layers 0\.\.3"),
    ):
        with pytest.raises(UserError, match=said) as found:
            open_image_features(str(path), layers)
        assert "\n" not in str(found.value)
