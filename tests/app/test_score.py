"""One dictionary of measurements: perfect on true clips, worse on worse ones."""

import pytest
import torch

from vdistill.app.score import diversity, score
from vdistill.core.errors import UserError
from vdistill.worlds.judge import features
from vdistill.worlds.shapes import Shapes

RIGHT = ("accuracy", "colour", "shape", "motion", "count", "seen")


def clips(count: int, frames: int = 17, seed: int = 0, split: str = "test") -> tuple[torch.Tensor, list[str]]:
    world = Shapes(frames=frames, split=split, seed=seed)
    return torch.stack([world.clip(i) for i in range(count)]), [world.caption(i) for i in range(count)]


def test_true_clips_score_full_marks() -> None:
    pixels, captions = clips(16)
    found = score(pixels, captions, pixels)
    assert [found[key] for key in RIGHT] == [1.0] * 6
    assert found["frechet"] < 1e-9 and found["pulse"] < 0.01
    assert set(found) == {*RIGHT, "frechet", "motion_energy", "stability", "flicker", "jitter", "pulse"}


def test_truth_may_be_clips_or_their_features() -> None:
    (pixels, captions), (truth, _) = clips(8), clips(12, seed=1)
    assert score(pixels, captions, truth) == score(pixels, captions, features(truth))


def test_worse_clips_score_worse() -> None:
    pixels, captions = clips(16)
    noisy = pixels + 0.4 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    good, bad = score(pixels, captions, pixels), score(noisy, captions, pixels)
    assert bad["accuracy"] < 0.1 and bad["frechet"] > 1
    assert bad["flicker"] > 3 * good["flicker"] and bad["stability"] < good["stability"]


def test_images_are_scored_without_time() -> None:
    found = score(*clips(8, frames=1))
    assert set(found) == set(RIGHT) and found["accuracy"] == 1


def test_variety_counts_what_is_shown_if_it_fits_the_caption() -> None:
    pixels, _ = clips(12, split="all")
    world = Shapes(split="all")
    tuples = [world.things(i)[0] for i in range(12)]
    assert diversity({"a shape": pixels})["distinct"] == len(set(tuples))
    same = diversity({"a shape": pixels[:1].expand(12, -1, -1, -1, -1)})
    assert same == {"distinct": 1, "entropy": 0, "effective": 1, "recognised": 1}
    red = [t for t in tuples if t.colour == "red"]
    found = diversity({"a red shape": pixels})
    assert found["distinct"] == len(set(red)) and found["recognised"] == len(red) / 12
    assert diversity({"a shape": torch.zeros_like(pixels)})["distinct"] == 0


def test_missing_captions_are_named() -> None:
    with pytest.raises(UserError, match="8 clips and 7 captions"):
        score(clips(8)[0], clips(7)[1])
    with pytest.raises(UserError, match="no captions"):
        diversity({})
