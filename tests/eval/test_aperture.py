"""Aperture: the share of a region that has the colour of the inside of a mouth, one face at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.eval.aperture import INNER, aperture, crosstalk, lower_face, mouth_shape

SKIN = (0.9, 0.7, 0.6)


def face(rows: Tensor, left: int = 24, right: int = 40, size: int = 64) -> Tensor:
    """[1, 3, T, H, W]: skin with a dark mouth of rows[t] rows around row 45."""
    x = torch.tensor(SKIN).view(1, 3, 1, 1, 1).expand(1, 3, len(rows), size, size).clone()
    for t, n in enumerate(rows.tolist()):
        x[0, :, t, 45 - n // 2 : 45 - n // 2 + n, left:right] = torch.tensor(INNER)[:, None, None]
    return 2 * x - 1


def test_aperture_is_the_area_of_the_mouth() -> None:
    rows = torch.tensor([0, 2, 6, 4])
    assert torch.allclose(aperture(face(rows))[0], rows * 16 / 64**2, atol=1e-6)


def test_what_is_outside_the_region_does_not_count() -> None:
    x = face(torch.tensor([4, 4]))
    x[..., :20, :] = 2 * torch.tensor(INNER).view(3, 1, 1, 1) - 1
    assert torch.allclose(aperture(x), aperture(face(torch.tensor([4, 4]))))
    assert torch.equal(aperture(x, torch.zeros(1, 1, 64, 64)), torch.zeros(1, 2))
    assert lower_face(64, 64).sum() < 0.15 * 64**2


def test_a_wider_mouth_is_wider_and_a_rounder_one_rounder() -> None:
    narrow = mouth_shape(face(torch.tensor([4]), 28, 36))[0, 0]
    wide = mouth_shape(face(torch.tensor([4]), 24, 40))[0, 0]
    assert torch.allclose(wide[1] / narrow[1], torch.tensor(2.0), rtol=0.02)
    assert narrow[2] > 1.9 * wide[2]


def two(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.cat([face(left), face(right)], -1)
    region = torch.zeros(1, 1, 64, 128)
    region[..., :64] = 1
    return x, region, 1 - region


def test_a_silent_face_beside_a_speaking_one_has_no_crosstalk() -> None:
    speaking, silent = torch.tensor([0, 4, 2, 6, 0, 4]), torch.tensor([2] * 6)
    x, left, right = two(speaking, silent)
    assert crosstalk(x, silent=right, active=left) < 1e-8
    assert crosstalk(x, silent=left, active=right) > 1e6


def test_swapped_faces_swap_their_energies() -> None:
    a, b = torch.tensor([0, 4, 2, 6, 0, 4]), torch.tensor([2, 3, 2, 2, 3, 2])
    x, left, right = two(a, b)
    y, _, _ = two(b, a)
    assert torch.allclose(crosstalk(x, right, left), crosstalk(y, left, right))
    assert 0.01 < float(crosstalk(x, right, left)) < 0.1


def test_a_region_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"region of \[32, 32\] on frames of \[64, 64\]"):
        aperture(face(torch.tensor([1])), torch.ones(1, 1, 32, 32))
    with pytest.raises(UserError, match="expected"):
        aperture(torch.zeros(1, 1, 2, 8, 8))
