"""Clips longer than a model was made for: refused in a line unless a way is named, and then as long as asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import tiny_family

from vdistill.app.about import About
from vdistill.app.cli import main
from vdistill.app.generate import Plan, generate
from vdistill.app.long import Long, of_length
from vdistill.app.models import random_model
from vdistill.core.errors import UserError

OWN, SIZE = 5, (16, 16)
CAPTIONS = ["a red square moves left", "a blue circle rests"]
PLAN = Plan(steps=3, guidance=2.0, seed=7)


@pytest.mark.parametrize("long", ["error", "direct", "windows", "extend"])
def test_a_clip_of_the_models_own_length_is_made_as_ever(long: Long) -> None:
    family = tiny_family()
    made = of_length(family, CAPTIONS, PLAN, OWN, SIZE, OWN, long)
    truth = generate(family, CAPTIONS, PLAN, OWN, SIZE)
    assert torch.equal(made.pixels, truth.pixels) and made.passes == truth.passes == 6


def test_windows_cost_as_many_passes_as_there_are_and_none_is_the_whole() -> None:
    family = tiny_family()  # 2 latents of 5 frames; of 17 frames there are 5, in windows at 0, 1, 2, 3
    made = of_length(family, CAPTIONS, PLAN, 17, SIZE, OWN, "windows", whole=1.0)
    assert made.pixels.shape == (2, 3, 17, *SIZE) and made.passes == 4 * 3 * 2
    assert of_length(family, CAPTIONS, PLAN, 17, SIZE, OWN, "windows").passes == (1 + 4 * 2) * 2  # t = 1 at once
    assert not torch.equal(made.pixels, of_length(family, CAPTIONS, PLAN, 17, SIZE, OWN, "direct").pixels)
    alone = of_length(family, CAPTIONS[:1], PLAN, 17, SIZE, OWN, "windows", whole=1.0)
    assert (alone.pixels - made.pixels[:1]).abs().max() < 1e-5


def test_an_extension_begins_with_the_clip_of_the_models_own_length() -> None:
    family = tiny_family()
    made = of_length(family, CAPTIONS, PLAN, 12, SIZE, OWN, "extend")  # 5 + 4 + 4 frames, cut
    assert made.pixels.shape == (2, 3, 12, *SIZE) and made.passes == 3 * 6
    assert torch.equal(made.pixels[:, :, :5], generate(family, CAPTIONS, PLAN, OWN, SIZE).pixels)
    longer = of_length(family, CAPTIONS, PLAN, 13, SIZE, OWN, "extend")
    assert torch.equal(longer.pixels[:, :, :12], made.pixels)
    assert (longer.pixels[:, :, 5:9] - longer.pixels[:, :, 9:]).abs().max() > 1e-3


def test_a_model_that_starts_from_an_image_goes_on_from_its_last_frame() -> None:
    family = random_model("wan-i2v", "wan", 0, torch.float32, "")
    size, picture = (32, 32), torch.rand(1, 3, 32, 32) * 2 - 1
    plan = Plan(steps=2, solver="own")
    made = of_length(family, CAPTIONS, plan, 9, size, OWN, "extend", picture).pixels
    begun = generate(family, CAPTIONS, plan, OWN, size, first=picture).pixels
    assert torch.equal(made[:, :, :5], begun)
    for i in range(2):  # each clip goes on from a picture of its own
        told = Plan(steps=2, solver="own", seed=(1 << 32) + i)
        again = generate(family, CAPTIONS[i : i + 1], told, OWN, size, first=begun[i : i + 1, :, -1]).pixels
        assert (made[i : i + 1, :, 5:9] - again[:, :, 1:]).abs().max() < 1e-4
    with pytest.raises(UserError, match="--long extend"):
        of_length(family, CAPTIONS, plan, 9, size, OWN, "windows", picture)


def test_what_is_too_long_is_one_line_that_names_the_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = tiny_family()
    family.save(family.net, tmp_path / "teacher")
    About(frames=5, height=16, width=16, steps=2).write(tmp_path / "teacher")
    words = ["sample", str(tmp_path / "teacher"), "--prompt", "a", "--out", str(tmp_path / "clips"), "--frames", "9"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "clips of 5 frames, found 9" in line and "--long windows" in line and "--long extend" in line
    assert not [*(tmp_path / "clips").glob("*.mp4")]
    assert main([*words, "--long", "windows"]) == 0
    assert (tmp_path / "clips" / "000.mp4").is_file()
