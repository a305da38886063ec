"""The renderer: areas, thin things, batches, gradients, masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vdistill.core.rng import Rng
from vdistill.worlds.talker.face import Grid, ellipse, grid, render
from vdistill.worlds.talker.identity import SIZE, describe, face
from vdistill.worlds.talker.visemes import VISEMES

AT_REST = torch.tensor([[0.0, 0.0, 0.0, 1.0]])


def states(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Any mouths, blinks and poses."""
    rng = Rng(seed)
    pose = torch.tensor([0.03, 0.03, 0.1, 0.05]) * rng.normal("pose", (count, 4)).clamp(-2, 2) + AT_REST
    return rng.uniform("mouth", (count, 6)).float(), rng.uniform("blink", (count,)).float(), pose


@pytest.mark.parametrize(("rx", "ry"), [(0.3, 0.2), (0.1, 0.1), (0.25, 0.02), (0.2, 0.003), (0.2, 0.0005)])
def test_an_ellipse_covers_its_area_even_if_thinner_than_a_pixel(rx: float, ry: float) -> None:
    flat = grid(AT_REST, 64)
    areas = [float(ellipse(flat, 0.0, y / 640, torch.tensor(rx), torch.tensor(ry)).sum()) for y in range(10)]
    assert sum(areas) / 10 / 64**2 == pytest.approx(math.pi * rx * ry, rel=0.03 if ry >= 0.02 else 0.45)


def test_a_mouth_almost_shut_draws_no_line_across_the_face() -> None:
    rest = torch.tensor([VISEMES["sil"]]).repeat(2, 1)
    rest[1, 0] = 1e-3
    frames = render(face(Rng(0)), rest, torch.zeros(2), AT_REST.repeat(2, 1), 128).frames
    changed = (frames[0] - frames[1]).abs().amax(0) > 0.02
    assert float((frames[0] - frames[1]).abs().max()) < 0.05
    assert not changed[:, :32].any() and not changed[:, 96:].any()


def test_frames_do_not_depend_on_their_neighbours() -> None:
    mouth, blink, pose = states(20)
    together = render(face(Rng(1)), mouth, blink, pose, 48)
    for i in (0, 7, 19):
        alone = render(face(Rng(1)), mouth[i : i + 1], blink[i : i + 1], pose[i : i + 1], 48)
        for name in ("frames", "face", "lip", "person", "box"):
            assert torch.allclose(getattr(alone, name)[0], getattr(together, name)[i], atol=1e-5), name


def test_one_face_for_all_frames_is_that_face_in_every_frame() -> None:
    mouth, blink, pose = states(3)
    one = face(Rng(1))
    assert torch.equal(
        render(one, mouth, blink, pose, 32).frames, render(one.repeat(3, 1), mouth, blink, pose, 32).frames
    )


def test_size_changes_sharpness_only() -> None:
    mouth, blink, pose = states(4)
    small, large = (render(face(Rng(2)), mouth, blink, pose, size) for size in (32, 128))
    shrunk = torch.nn.functional.avg_pool2d(large.frames, 4)
    assert float((shrunk - small.frames).abs().mean()) < 0.02
    assert torch.allclose(small.box * 4, large.box, atol=1e-3)


def test_masks_lie_within_each_other_and_within_the_box() -> None:
    drawn = render(face(Rng(3)), *states(12), 64)
    assert drawn.frames.abs().max() <= 1 and drawn.frames.shape == (12, 3, 64, 64)
    solid = [mask > 0.99 for mask in (drawn.lip, drawn.face, drawn.person)]
    assert all(bool((inner <= outer).all()) for inner, outer in zip(solid, solid[1:], strict=False))
    for mask, (x0, y0, x1, y1) in zip(drawn.face, drawn.box.tolist(), strict=True):
        rows, columns = (mask > 0.5).any(1).nonzero(), (mask > 0.5).any(0).nonzero()
        assert rows.min() + 1.5 >= y0 and rows.max() - 0.5 <= y1 and abs(float(rows.max()) + 1 - y1) < 3
        assert columns.min() + 1.5 >= x0 and columns.max() - 0.5 <= x1 and abs(float(columns.min()) - x0) < 3


def test_a_wider_mouth_has_a_larger_mask_and_hides_more_face() -> None:
    mouth = torch.tensor([VISEMES["sil"], VISEMES["aa"]])
    drawn = render(face(Rng(4)), mouth, torch.zeros(2), AT_REST.repeat(2, 1), 64)
    assert float(drawn.lip[1].sum()) > 1.5 * float(drawn.lip[0].sum())
    assert float(drawn.box[1, 3]) > float(drawn.box[0, 3]) + 1 and float(drawn.box[1, 1]) == float(drawn.box[0, 1])


def test_the_gradient_of_every_number_of_a_face_is_that_of_finite_differences() -> None:
    mouth, blink, pose = (v.double() for v in states(2, seed=5))
    start = (0.2 + 0.6 * face(Rng(5))).double()
    weights = Rng(6).normal("w", (2, 3, 32, 32)).double()

    def value(x: Tensor) -> Tensor:
        return (render(x, mouth, blink * 0.5, pose, 32).frames * weights).sum()

    x = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(x), x)
    step = 1e-6
    for i in range(SIZE):
        moved = torch.zeros(SIZE).double()
        moved[i] = step
        numeric = float(value(start + moved) - value(start - moved)) / (2 * step)
        assert float(slope[i]) == pytest.approx(numeric, rel=2e-2, abs=2e-2), i


def test_an_identity_is_found_again_from_its_pictures() -> None:
    mouth, blink, pose = states(2, seed=7)
    truth, blink = face(Rng(8)), blink * 0
    target = render(truth, mouth, blink, pose, 32).frames
    guess = (truth + 0.12 * Rng(9).normal("off", (SIZE,))).clamp(0.02, 0.98).requires_grad_()
    before = float((guess - truth).detach().square().mean().sqrt())
    for k in range(25):
        (slope,) = torch.autograd.grad((render(guess, mouth, blink, pose, 32).frames - target).square().mean(), guess)
        guess = (guess - 0.06 * 0.85**k * slope.sign()).detach().requires_grad_()
    after = (guess - truth).detach()
    assert float(after.square().mean().sqrt()) < 0.6 * before and float(after[:18].abs().mean()) < 0.03


def test_people_differ_and_are_described() -> None:
    faces = [face(Rng(i)) for i in range(40)]
    assert all(f.shape == (SIZE,) and 0 <= f.min() and f.max() <= 1 for f in faces)
    assert min(float((a - b).norm()) for i, a in enumerate(faces) for b in faces[:i]) > 0.5
    words = [describe(f) for f in faces]
    assert any("glasses" in w for w in words) and any("a beard" in w for w in words) and len(set(words)) > 25


def test_the_grid_turns_clockwise_and_scales() -> None:
    g: Grid = grid(torch.tensor([[0.1, 0.0, math.pi / 2, 2.0]]), 2)
    # the pixel at (0.25, 0.25) is (0.15, 0.25) from the head's middle: a quarter turn back and half as far
    assert float(g.x[0, 0, 1, 1]) == pytest.approx(0.125, abs=1e-6)
    assert float(g.y[0, 0, 1, 1]) == pytest.approx(-0.075, abs=1e-6)
