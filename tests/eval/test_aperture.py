"""Aperture: the share of a region that has the colour of the inside of a mouth, one face at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.eval.aperture import INNER, aperture, crosstalk, lower_face, mouth_shape, side_by_side

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


SPEAKING, SILENT = torch.tensor([0, 4, 2, 6, 0, 4]), torch.tensor([2] * 6)
LEFT_SPEAKS = torch.tensor([[[1.0] * 6, [0.0] * 6]])


def two(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([face(left), face(right)], -1)


def test_a_silent_face_beside_a_speaking_one_has_no_crosstalk() -> None:
    x, regions = two(SPEAKING, SILENT), side_by_side(64, 128)
    assert crosstalk(x, regions, LEFT_SPEAKS, rim=0) < 1e-8
    assert crosstalk(x, regions, LEFT_SPEAKS.flip(1), rim=0) > 1e6
    assert torch.equal(regions[0, 0, 0, :, :64], lower_face(64, 64)[0, 0])


def test_swapped_faces_swap_their_energies() -> None:
    murmurs, regions = torch.tensor([2, 3, 2, 2, 3, 2]), side_by_side(64, 128)
    found = crosstalk(two(SPEAKING, murmurs), regions, LEFT_SPEAKS, rim=0)
    assert torch.allclose(found, crosstalk(two(murmurs, SPEAKING), regions, LEFT_SPEAKS.flip(1), rim=0))
    ratio = murmurs.float().var(correction=0) / SPEAKING.float().var(correction=0)
    assert torch.allclose(found, ratio[None], rtol=1e-3)


def test_who_takes_turns_is_silent_between_them_and_the_changes_do_not_count() -> None:
    still = torch.full((12,), 2)
    first = torch.cat([SPEAKING, SPEAKING, still])
    turns = torch.tensor([[[1.0] * 12 + [0.0] * 12, [0.0] * 12 + [1.0] * 12]])
    regions = side_by_side(64, 128)
    assert crosstalk(two(first, first.flip(0)), regions, turns) < 1e-8
    early = first.clone()
    early[12:14] = 5  # closes two frames after its turn
    assert crosstalk(two(early, first.flip(0)), regions, turns) < 1e-8
    assert crosstalk(two(early, first.flip(0)), regions, turns, rim=0) > 0.1


def test_a_clip_without_a_silent_face_has_no_crosstalk_to_measure() -> None:
    with pytest.raises(UserError, match="nobody is silent"):
        crosstalk(two(SPEAKING, SPEAKING), side_by_side(64, 128), torch.ones(1, 2, 6))


def test_a_region_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"region of \[32, 32\] on frames of \[64, 64\]"):
        aperture(face(torch.tensor([1])), torch.ones(1, 1, 32, 32))
    with pytest.raises(UserError, match="expected"):
        aperture(torch.zeros(1, 1, 2, 8, 8))
