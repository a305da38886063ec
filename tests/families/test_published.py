"""Published teachers without their weights: as many parameters as they are known to have, told what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from vdistill.app.catalog import FAMILIES, PIPELINES, find
from vdistill.app.models import clip_shape
from vdistill.core.errors import UserError
from vdistill.families.hollow import conditions, emptied, folder_pipe, hollow, published_pipe, text_tokens, weightless
from vdistill.families.published import PUBLISHED, published, shape_of_folder
from vdistill.families.published_encoders import BIG_CLIP, BYT5, CLIP, CLIP_VISION, LLAMA, QWEN, T5, UMT5, Encoder
from vdistill.families.random_tiny import TINY_CALLS, random_tiny

MILLIONS = {  # of the networks, as their authors, their model cards or the sizes of their files say
    "wan2.1-1.3b": 1419.0, "wan2.1-14b": 14288.5, "wan2.1-i2v-14b": 16394.9, "wan2.2-ti2v-5b": 4999.8,
    "wan2.2-a14b": 2 * 14288.5, "cogvideox-2b": 1693.8, "cogvideox-5b": 5570.3, "cogvideox-1.5-5b": 5570.7,
    "hunyuanvideo": 12821.0, "hunyuanvideo-1.5": 8326.6, "ltx-video-2b": 1923.4, "animatediff": 859.5 + 453.2,
    "sd15": 859.5, "sdxl": 2567.5, "sd3-medium": 2028.3, "flux-dev": 11901.4, "pixart-alpha-xl-2-1024": 611.3,
    "pixart-sigma": 610.9,
    "dit-xl-2-256": 675.1 + 27 * (1001 + 257 + 1153) * 1152 / 1e6,  # stock: every block embeds time and class anew
}  # fmt: skip


def millions(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_has_as_many_parameters_as_it_is_known_to_have(name: str) -> None:
    p = PUBLISHED[name]
    pipe = published_pipe(p)
    parts = [getattr(pipe, part) for part in p.networks]
    assert all(value.is_meta for part in parts for value in part.parameters())
    assert millions(*parts) == pytest.approx(MILLIONS[name], abs=0.5)
    family = find(FAMILIES, p.family)(pipe)
    assert PIPELINES[type(pipe).__name__] == p.family
    defaults = family.defaults()
    shape = clip_shape(family, *(int(defaults[key]) for key in ("frames", "height", "width")))
    assert len(conditions(family, shape, p.length)) >= 1


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (T5, 4762.3), (UMT5, 5680.9), (BYT5, 219.3), (CLIP, 123.06), (BIG_CLIP, 694.7), (CLIP_VISION, 630.8),
        (LLAMA, 8030.3 - 525.1), (QWEN, 7615.6 - 545.0),
    ],
)  # fmt: skip
def test_an_encoder_has_as_many_parameters_as_it_is_known_to_have(encoder: Encoder, size: float) -> None:
    assert millions(encoder.build()) == pytest.approx(size, abs=0.5)


@pytest.mark.parametrize("variant", TINY_CALLS)
def test_conditions_have_the_shapes_that_the_encoders_make(variant: str) -> None:
    pipe = random_tiny(variant)
    family = find(FAMILIES, PIPELINES[type(pipe).__name__])(pipe)
    call = TINY_CALLS[variant]
    shape = clip_shape(family, call.frames or 1, call.height or 64, call.width or 64)
    told = {name: tuple(value.shape[1:]) for name, value in family.text(["1"]).fields.items()}
    if family.needs_image:
        picture = torch.zeros(1, 3, call.height or 64, call.width or 64)
        told |= {name: tuple(value.shape[1:]) for name, value in family.from_image(picture, shape).items()}
    assert {k: v for k, v in conditions(family, shape, text_tokens(family)).items() if k != "image"} == {
        k: v
        for k, v in told.items()
        if k != "image"  # how many tokens a tiny vision model makes is its own affair
    }


def test_a_folder_opens_by_its_configs_alone(tmp_path: Path) -> None:
    pipe = random_tiny("wan")
    pipe.save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    found = folder_pipe(tmp_path)
    for part in ("transformer", "text_encoder", "vae"):
        ours, theirs = getattr(found, part), getattr(pipe, part)
        assert {k: v.shape for k, v in ours.named_parameters()} == {k: v.shape for k, v in theirs.named_parameters()}
        assert all(value.is_meta for value in ours.parameters())
    (tmp_path / "text_encoder" / "config.json").write_text("{")
    with pytest.raises(UserError, match="does not open as a UMT5EncoderModel"):
        folder_pipe(tmp_path)


def test_emptied_modules_keep_what_they_share_and_their_types() -> None:
    pipe = random_tiny("wan")
    family = find(FAMILIES, "wan")(pipe)
    layer = nn.Linear(2, 2)
    twin = nn.Module()
    twin.register_parameter("weight", layer.weight)
    weightless(family, torch.bfloat16)
    kinds = {name: p.dtype for name, p in pipe.transformer.named_parameters()}
    assert kinds["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert kinds["scale_shift_table"] == torch.float32  # from_pretrained keeps it so
    assert {p.dtype for p in pipe.text_encoder.parameters()} == {torch.bfloat16}
    with hollow():
        emptied([layer, twin, family.net])
        assert layer.weight is twin.weight
        assert layer(torch.ones(3, 2)).shape == (3, 2)
        assert isinstance(layer.weight, FakeTensor)


def test_a_folder_is_known_by_the_name_it_is_published_under() -> None:
    assert shape_of_folder("models/Wan2.1-T2V-1.3B-Diffusers") == "wan2.1-1.3b"
    assert shape_of_folder("models--THUDM--CogVideoX-2b") == "cogvideox-2b"
    assert shape_of_folder("models/mine") is None
    with pytest.raises(UserError, match="there are wan2.1-1.3b, "):
        published("wan3")
