"""DiT: classes by name or number, guidance without the class, one size; exact against the stock pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contract import CLOSE, apart
from diffusers import DPMSolverMultistepScheduler
from families.image_bed import Bed, bed, told_alike
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.families.dit import DitFamily
from vdistill.families.random_tiny import random_tiny


def pictures(b: Bed, scale: float) -> Tensor:
    """[1, 3, H, W] in [0, 1]: all this pipeline gives."""
    return (b.family.codec.decode(b.family.unpack(b.ours(scale), b.shape))[:, :, 0] + 1) / 2


def test_the_network_is_told_what_its_pipeline_tells_it() -> None:
    b = bed("dit", caption="1")
    network = b.family.pipe.transformer
    assert told_alike(network, lambda: b.ours(1.0), lambda: b.stock(guidance_scale=1.0)) <= CLOSE


def test_latents_under_guidance_are_the_pipelines_in_every_channel() -> None:
    b, seen = bed("dit", caption="2"), []
    decode = b.family.pipe.vae.decode
    b.family.pipe.vae.decode = lambda z, **more: (seen.append(z), decode(z, **more))[1]
    b.stock(class_labels=[2])
    del b.family.pipe.vae.decode
    want = seen[0] * b.family.pipe.vae.config.scaling_factor
    ours = b.ours(4.0)
    assert apart(ours, want) <= CLOSE
    assert all(apart(b.ours(1.0)[:, i], want[:, i]) > 1e-3 for i in range(4))


def test_another_solver_samples_as_in_the_pipeline() -> None:
    pipe = random_tiny("dit")
    pipe.register_modules(scheduler=DPMSolverMultistepScheduler.from_config(pipe.scheduler.config))
    b = bed("dit", pipe, caption="1")
    assert apart(pictures(b, 4.0), b.stock()) <= CLOSE


def test_a_class_goes_by_any_of_its_names_or_by_its_number() -> None:
    family = bed("dit", caption="1").family
    for caption in ("goldfish", " Goldfish ", "1"):
        assert family.text([caption]).fields["label"].tolist() == [1]
    assert family.text(["white shark", "Tinca tinca", "999"]).fields["label"].tolist() == [2, 0, 999]


def test_no_class_is_the_number_behind_the_last() -> None:
    b = bed("dit", caption="1")
    assert b.cond.drop(["label"]).fields["label"].tolist() == [1000]
    dropped = b.family.text(["0", "1"]).drop_where("label", torch.tensor([True, False]))
    assert dropped.fields["label"].tolist() == [1000, 1]


@pytest.mark.parametrize("caption", ["1000", "great shark", "a red cat", "-1", ""])
def test_what_is_no_class_is_said_in_one_line_with_names_near_it(caption: str) -> None:
    with pytest.raises(UserError, match="is no class") as error:
        bed("dit", caption=caption)
    assert "a number below 1000" in str(error.value) and "\n" not in str(error.value)
    near = "great white shark" if caption == "great shark" else "Tinca tinca, goldfish"
    assert f"a name such as {near}" in str(error.value)


def test_it_makes_pictures_of_one_size() -> None:
    codec = bed("dit", caption="1").family.codec
    assert codec.shape(1, 64, 64) == (4, 1, 8, 8)
    for size in ((128, 128), (64, 128), (32, 32)):
        with pytest.raises(UserError, match="64x64 only"):
            codec.shape(1, *size)


def test_there_is_no_place_for_a_scale() -> None:
    network = bed("dit", caption="1").family.network_of()
    assert not network.can_take_scale
    with pytest.raises(UserError, match="no place for a guidance scale"):
        network.with_scale_input()


def test_a_folder_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    family = bed("dit", caption="1").family
    family.save(family.net, tmp_path)
    back = DitFamily.load(tmp_path)
    assert isinstance(back, DitFamily) and back.number("great white shark") == 2
