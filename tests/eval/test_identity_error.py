"""Identity error: nothing for the person itself, more for every step away; blind to the moment and to noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.eval.identity_error import Faces, fit, identity_error, of_clips, probed, shares

TYPICAL = torch.tensor([0.5, 0.5, 0.5, 0.6, 0.5, 0.4, 0.25, 0.30, 0.0, 0.0])
SPREAD = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.04, 0.04, 0.03, 0.03])
PLAN = ((16, 6), (32, 5))


def draw(row: Tensor, size: int) -> Tensor:
    """An ellipse on a wall: rgb of the wall, rgb of the ellipse, its half axes, its place (the moment)."""
    steps = (torch.arange(size) + 0.5) / size - 0.5
    rx, ry, cx, cy = row[:, 6:, None, None].unbind(1)
    far = (((steps - cx) / rx).square() + ((steps[:, None] - cy) / ry).square()).sqrt()
    inside = (0.5 - (far - 1) * size * 0.25).clamp(0, 1)[:, None]
    wall, face = row[:, :3, None, None], row[:, 3:6, None, None]
    return 2 * (wall + inside * (face - wall)) - 1


def faces() -> Faces:
    person = {"wall": (0, 1, 2), "face": (3, 4, 5), "shape": (6, 7)}
    return Faces(draw, TYPICAL, SPREAD, person, torch.tensor([[0, 1, 2], [3, 4, 5]]))


def people(count: int) -> Tensor:
    return TYPICAL + SPREAD * Rng(1).normal("people", (count, 10)).clamp(-1.5, 1.5)


def clips(rows: Tensor, frames: int = 4) -> Tensor:
    """Each person at as many places as frames, [B, 3, T, S, S]."""
    each = rows[:, None].repeat(1, frames, 1)
    each[..., 8:] = 0.02 * Rng(2).normal("place", (len(rows), frames, 2))
    return draw(each.flatten(0, 1), 32).unflatten(0, (len(rows), frames)).transpose(1, 2)


def test_the_true_person_has_no_error_wherever_the_head_is() -> None:
    truth = people(6)
    found = of_clips(faces(), clips(truth), truth, 4, PLAN)
    assert found.total.max() < 0.05
    assert set(found.parts) == {"wall", "face", "shape"}


def test_a_parameter_one_spread_away_in_the_truth_costs_exactly_its_share() -> None:
    rows = people(1).repeat(3, 1)[None]
    other = rows[:, 0].clone()
    other[:, 6] += SPREAD[6]
    found = identity_error(faces(), rows, other)
    assert torch.allclose(found.total, torch.tensor([1 / 8**0.5]), atol=1e-5)
    assert torch.allclose(found.parts["shape"], torch.tensor([0.5**0.5]), atol=1e-5)
    other[:, 8] += 1  # of the moment
    assert torch.allclose(identity_error(faces(), rows, other).total, found.total)


def test_the_error_grows_with_the_disturbance() -> None:
    truth, way = people(4), Rng(7).normal("way", (4, 10))
    errors = [
        float(of_clips(faces(), clips(truth + amount * SPREAD * way), truth, 2, PLAN).total.mean())
        for amount in (0.0, 0.15, 0.3, 0.6)
    ]
    assert errors == sorted(errors) and errors[0] < 0.05 and errors[3] > 0.4


def test_noise_and_a_stain_change_little() -> None:
    truth = people(4)
    x = clips(truth)
    x = x + 0.1 * Rng(3).normal("noise", x.shape)
    x[..., 12:20, 20:28] = -1  # least squares without weights would be 1.3 away
    assert of_clips(faces(), x, truth, 4, PLAN).total.max() < 0.1


def test_colours_are_probed_exactly_where_they_are_alone() -> None:
    truth = people(3)
    shown = draw(truth, 32)
    share = shares(faces(), truth, shown)
    assert torch.allclose(share.sum(1), torch.ones(3, 3, 32, 32), atol=1e-4)
    colours = probed(shown, share, torch.zeros(3, 2, 3))
    assert torch.allclose(colours, truth[:, :6].unflatten(1, (2, 3)).clamp(0, 1), atol=1e-4)
    kept = probed(shown, torch.zeros_like(share), torch.full((3, 2, 3), 0.25))
    assert torch.equal(kept, torch.full((3, 2, 3), 0.25))


def test_frames_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="expected square frames"):
        fit(faces(), torch.zeros(2, 3, 32, 16))
    with pytest.raises(UserError, match="rows"):
        identity_error(faces(), torch.zeros(2, 1, 10), torch.zeros(3, 10))
