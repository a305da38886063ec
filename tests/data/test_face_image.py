"""The picture of a face that is to talk: what is taken, and what is said of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vdistill.core.errors import BadMedia
from vdistill.data.buckets import Bucket
from vdistill.data.face_box import around, check_box
from vdistill.data.face_image import read_face

SHAPE = Bucket(64, 64)


def save(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    """Red grows to the right, green down."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    planes = [x % 256, y % 256, 0 * x, 0 * x + 255]
    Image.fromarray(np.stack(planes[: len(mode)], -1).astype(np.uint8), mode).save(path)
    return path


def test_a_picture_of_the_models_shape_comes_as_it_is(tmp_path: Path) -> None:
    face = read_face(save(tmp_path / "a.png", 64, 64), SHAPE)
    assert face.remarks == () and face.crop is None
    assert torch.equal(face.pixels[0], torch.arange(64, dtype=torch.uint8).expand(64, 64))


def test_a_box_is_cut_with_room_around_it_and_inside_the_picture(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 200, 160)
    assert read_face(path, SHAPE, (60, 40, 124, 104), grow=1.0).crop == (60, 40, 124, 104)
    assert read_face(path, SHAPE, (60, 40, 124, 104), grow=1.5).crop == (44, 24, 140, 120)
    assert read_face(path, SHAPE, (0, 0, 80, 80), grow=1.5).crop == (0, 0, 120, 120)
    assert read_face(path, SHAPE, (40, 0, 200, 160), grow=1.5).crop == (40, 0, 200, 160)
    exact = read_face(path, SHAPE, (60, 40, 124, 104), grow=1.0).pixels
    assert int(exact[0, 0, 0]) == 60 and int(exact[1, 0, 0]) == 40


def test_boxes_of_a_moving_face_are_cut_as_one() -> None:
    assert around([(10, 10, 20, 20), (20, 12, 30, 22)], 100, 100, SHAPE, 1.0) == (10, 6, 30, 26)
    assert around([(10, 10, 20, 20)], 100, 100, Bucket(32, 64), 1.0) == (10, 5, 20, 25)


def bad(path: Path, box: tuple[float, ...] | None = None, **how: object) -> str:
    with pytest.raises(BadMedia) as caught:
        read_face(path, SHAPE, box, **how)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_transparency_is_laid_on_white_and_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 64, 64, "RGBA")
    assert read_face(path, SHAPE).remarks == ()  # nothing is to be seen through
    image = Image.open(path)
    image.putalpha(Image.fromarray(np.repeat(np.uint8([0, 255]), 32)[None].repeat(64, 0)))
    image.save(path)
    face = read_face(path, SHAPE)
    assert face.remarks == ("50% of it is transparent and was laid on white",)
    assert int(face.pixels[:, :, :32].min()) == 255 and int(face.pixels[0, 0, 40]) == 40


def test_an_animated_picture_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert "is animated (2 pictures); give a single one" in bad(tmp_path / "a.gif")


def test_a_picture_of_another_shape_needs_a_box(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 200, 160)
    assert "is 200x160, the model 64x64, and nothing says where the face is; give its box" in bad(path)
    assert read_face(save(tmp_path / "b.png", 130, 130), SHAPE).remarks == ()


def test_a_small_face_is_enlarged_with_a_remark_up_to_four_times(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 32, 32)
    assert "is enlarged to 64x64" in read_face(path, SHAPE).remarks[0]
    with pytest.raises(BadMedia, match="32x32 pixels, the model 256x256"):
        read_face(path, Bucket(256, 256))


def test_boxes_that_are_none_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 200, 160)
    assert "leaves the picture of 200x160" in bad(path, (100, 20, 210, 120))
    assert "leaves the picture" in bad(path, (-1, 20, 110, 120))
    assert "is empty" in bad(path, (100, 20, 100, 120))
    assert "is empty" in bad(path, (100, 20, 50, 120))
    assert "is not finite" in bad(path, (0, 0, float("nan"), 100))
    assert "is smaller than 16 pixels" in bad(path, (0, 0, 8, 100))
    check_box((0, 0, 200, 160), 200, 160)


def test_several_faces_need_masks(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 64, 64)
    assert "shows 2 faces and no mask says who speaks" in bad(path, faces=2)
    assert read_face(path, SHAPE, faces=2, masks=True).remarks == ()


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    assert "no such file" in bad(tmp_path / "none.png")
    (tmp_path / "text.png").write_bytes(b"words")
    assert "is not a readable image" in bad(tmp_path / "text.png")
    half = save(tmp_path / "half.png", 640, 640).read_bytes()
    (tmp_path / "half.png").write_bytes(half[: len(half) // 2])
    assert "is not a readable image" in bad(tmp_path / "half.png")
