"""The judge of streams reads every moment of a true clip right, and nothing else."""

from __future__ import annotations

import pytest
import torch

from vdistill.worlds.endless import WINDOW, accuracy_at, bounced, endless, same
from vdistill.worlds.judge import judge
from vdistill.worlds.shapes import Shapes


@pytest.fixture(scope="module")
def world() -> tuple[torch.Tensor, list[str]]:
    shapes = Shapes(97, 32, (1,), open=0.0, split="test", seed=1)
    return torch.stack([shapes.clip(i) for i in range(48)]), [shapes.caption(i) for i in range(48)]


@pytest.mark.parametrize("start", [0, 7, 16, 29, 48, 61, 80])
def test_true_clips_are_right_at_any_moment(world: tuple[torch.Tensor, list[str]], start: int) -> None:
    found = accuracy_at(*world, start)
    assert found["all"] >= 0.97
    assert found["colour"] == found["count"] == 1


def test_captions_of_other_clips_are_wrong(world: tuple[torch.Tensor, list[str]]) -> None:
    clips, captions = world
    found = accuracy_at(clips, captions[1:] + captions[:1], 16)
    assert found["all"] < 0.15 and found["motion"] < 0.5


def test_frames_in_another_order_are_no_motion(world: tuple[torch.Tensor, list[str]]) -> None:
    clips, captions = world
    movers = [i for i, text in enumerate(captions) if "moves" in text]
    order = torch.randperm(WINDOW, generator=torch.Generator().manual_seed(0))
    mixed = clips[movers][:, :, 20 : 20 + WINDOW][:, :, order]
    assert accuracy_at(mixed, [captions[i] for i in movers], 0)["motion"] < 0.15


def test_a_path_that_turns_back_once_is_found_exactly() -> None:
    t = torch.arange(17.0)
    speed, stray = bounced(4 + 0.7 * (t - 5.25).abs())
    assert speed == pytest.approx(0.7, abs=1e-5) and stray < 1e-5
    assert bounced(2 - 0.3 * t)[0] == pytest.approx(0.3, abs=1e-5)
    zigzag = torch.tensor([0.0, 2.0] * 8)
    assert bounced(zigzag)[1] > 0.8


def test_left_and_right_are_one_motion_and_no_other() -> None:
    assert same("a red square moves right while a cross moves down") == "a red square moves left while a cross moves up"
    shapes = Shapes(33, 32, open=0.0)
    index = next(i for i in range(200) if "moves right" in shapes.caption(i))
    clip = shapes.clip(index)[None]
    assert [t.motion for t in endless(judge(clip[:, :, 16:])[0]).things] == ["moves left"]
