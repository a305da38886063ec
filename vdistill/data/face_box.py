"""Boxes around faces: what may be one, and the crop of the model's shape around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..core.errors import BadMedia
from .buckets import Bucket, fit

Box = tuple[float, float, float, float]
SMALLEST = 16  # pixels, a face's shorter side


def check_box(box: Sequence[float], width: int, height: int) -> None:
    """BadMedia unless it lies in the picture and holds at least 16 x 16 pixels."""
    x0, y0, x1, y1 = box
    said = f"bbox [{x0:g}, {y0:g}, {x1:g}, {y1:g}]"
    hint = "it is [x0, y0, x1, y1] in pixels, right and down from the upper left"
    if not all(np.isfinite(box)):
        raise BadMedia(f"{said} is not finite", hint=hint)
    if x1 <= x0 or y1 <= y0:
        raise BadMedia(f"{said} is empty", hint=hint)
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise BadMedia(f"{said} leaves the picture of {width}x{height}", hint=hint)
    if min(x1 - x0, y1 - y0) < SMALLEST:
        raise BadMedia(f"{said} is smaller than {SMALLEST} pixels", hint="a face needs more")


def read_track(path: Path, frames: int) -> np.ndarray:
    """One box for each of the file's frames, float64 [frames, 4], out of .npy or the "bbox" of .npz. BadMedia else."""
    track = read_arrays(path, ("bbox",))["bbox"]
    if track.shape != (frames, 4):
        raise BadMedia(f"a track of {[*track.shape]} for {frames} frames", path.name, "one [x0, y0, x1, y1] a frame")
    return track.astype(np.float64)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Numbers out of .npz, under those of the names that are there; a .npy is the first name's. BadMedia else."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            arrays = {names[0]: found}
        else:
            with found:
                arrays = {name: found[name] for name in names if name in found.files}
    except Exception as error:  # zip, header and type errors alike
        raise BadMedia(f"is not a readable .npy or .npz ({type(error).__name__})", path.name) from error
    if not arrays:
        raise BadMedia(f"holds none of {', '.join(names)}", path.name)
    if any(a.dtype.kind not in "biuf" for a in arrays.values()):
        raise BadMedia("does not hold numbers", path.name)
    return arrays


def around(boxes: Sequence[Sequence[float]], width: int, height: int, shape: Bucket, grow: float) -> tuple[int, ...]:
    """(left, top, right, bottom) in whole pixels: the crop of `shape`'s aspect around all boxes, `grow` times as large,
    moved into the picture, and smaller where it does not fit."""
    corners = np.asarray(boxes, np.float64)
    x0, y0 = corners[:, :2].min(0)
    x1, y1 = corners[:, 2:].max(0)
    aspect = shape.width / shape.height
    h = max(y1 - y0, (x1 - x0) / aspect) * grow
    h = min(h, height, width / aspect)
    w = h * aspect
    left = min(max((x0 + x1 - w) / 2, 0), width - w)
    top = min(max((y0 + y1 - h) / 2, 0), height - h)
    return round(left), round(top), max(round(left) + 1, round(left + w)), max(round(top) + 1, round(top + h))


def cropped(picture: Tensor, crop: tuple[int, ...] | None, aspect: float, shape: Bucket) -> Tensor:
    """uint8 [C, H, W] -> uint8 [C, height, width] of what lies in the crop (None: the middle of all)."""
    if crop is None:
        return fit(picture, aspect, shape)
    left, top, right, bottom = crop
    return fit(picture[:, top:bottom, left:right], aspect, shape)
