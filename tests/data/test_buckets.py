"""Sizes, the choice among them, and a fit that neither squeezes nor aliases."""

from __future__ import annotations

import pytest
import torch

from vdistill.core.errors import UserError
from vdistill.data.buckets import Bucket, choose, fit, parse


def test_sizes_are_width_times_height() -> None:
    assert parse("832x480, 480X832,832x480") == (Bucket(832, 480), Bucket(480, 832))
    for wrong in ("", "32", "32x", "0x32", "-1x32", "32x32x32", "٣x٣", "99999x2"):
        with pytest.raises(UserError, match="WIDTHxHEIGHT"):
            parse(wrong)


def test_the_nearest_aspect_wins_and_the_larger_of_equals() -> None:
    buckets = parse("32x32,64x32,32x64,64x64")
    assert choose(buckets, 1.9) == Bucket(64, 32)
    assert choose(buckets, 1 / 1.9) == Bucket(32, 64)
    assert choose(buckets, 1.05) == Bucket(64, 64)


def test_a_picture_of_the_buckets_size_is_untouched() -> None:
    picture = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    assert torch.equal(fit(picture, 1.0, Bucket(48, 32)), picture)


def test_the_crop_is_the_centre_in_either_direction() -> None:
    picture = torch.zeros(3, 32, 48, dtype=torch.uint8)
    picture[:, :, 8:40] = 200
    assert (fit(picture, 1.0, Bucket(32, 32)) == 200).all()
    assert (fit(picture.transpose(1, 2), 1.0, Bucket(32, 32)) == 200).all()


def test_pixel_aspect_is_squared_away() -> None:
    picture = torch.zeros(3, 32, 48, dtype=torch.uint8)  # pixels twice as wide: shown as 96 x 32
    picture[:, :, 16:32] = 200  # the middle third, shown as 32 x 32
    assert (fit(picture, 2.0, Bucket(64, 64)) == 200).all()


def test_shrinking_averages_instead_of_picking() -> None:
    dots = torch.zeros(3, 64, 64, dtype=torch.uint8)
    dots[:, 1::8, 1::8] = 255  # between the places that picking would look at
    assert (fit(dots, 1.0, Bucket(8, 8))[:, 1:-1, 1:-1].int() - 255 // 64).abs().max() <= 1
