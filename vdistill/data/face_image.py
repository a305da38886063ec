"""The picture of a face that is to talk: one image, opaque, large enough, cut around the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.errors import BadMedia, UserError
from .buckets import Bucket
from .face_box import around, check_box, cropped
from .media import Limits, bound, reason
from .paths import open_regular

ASPECT = 0.02  # difference from the model's shape up to which a whole picture is the face's
STRETCH = 4  # times a crop may be enlarged


@dataclass(frozen=True)
class FaceImage:
    """pixels: uint8 [3, height, width] of the model; crop: (left, top, right, bottom) of it in the file's picture;
    remarks: what was done about it, for people."""

    pixels: Tensor
    crop: tuple[int, ...] | None
    remarks: tuple[str, ...] = ()


def read_face(
    path: Path | str,
    shape: Bucket,
    box: Sequence[float] | None = None,
    *,
    grow: float = 1.4,
    faces: int = 1,
    masks: bool = False,
    limits: Limits = Limits(),
) -> FaceImage:
    """shape: of the model; box: of the face, [x0, y0, x1, y1] in pixels, needed where the picture has another aspect;
    grow: crop over box; faces: how many are in it; masks: whether masks tell them apart.

    BadMedia, in one line: no file, no image, animated, too large, a face too small, a bad box or none where one is
    needed, several faces without masks. Transparency is laid on white, with a remark.
    """
    path = Path(path)
    if faces > 1 and not masks:
        raise BadMedia(f"shows {faces} faces and no mask says who speaks", path.name, "give a mask for each")
    try:
        if not path.is_file():
            raise BadMedia("no such file", str(path))
        with open_regular(path) as handle, Image.open(handle) as image:
            bound(image.width, image.height, limits, path)
            if (count := getattr(image, "n_frames", 1)) > 1:
                raise BadMedia(f"is animated ({count} pictures)", path.name, "give a single one")
            picture, remarks = _opaque(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Exception as error:  # hostile files raise what they like
        raise BadMedia(f"is not a readable image ({reason(error)})", path.name) from error
    return _fitted(picture, remarks, path, shape, box, grow)


def _opaque(image: Image.Image) -> tuple[Tensor, list[str]]:
    """uint8 [3, H, W], and a remark when something was to be seen through."""
    if not image.has_transparency_data:
        return _tensor(image.convert("RGB")), []
    clear = image.convert("RGBA")
    share = float((np.asarray(clear)[..., 3] < 255).mean())
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    return _tensor(white.convert("RGB")), [f"{share:.0%} of it is transparent and was laid on white"] if share else []


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _fitted(
    picture: Tensor, remarks: list[str], path: Path, shape: Bucket, box: Sequence[float] | None, grow: float
) -> FaceImage:
    height, width = picture.shape[-2:]
    crop = None
    if box is not None:
        try:
            check_box(box, width, height)
        except BadMedia as error:
            raise BadMedia(error.what, path.name, error.hint) from error
        crop = around([box], width, height, shape, grow)
    elif abs(width * shape.height / (height * shape.width) - 1) > ASPECT:
        what = f"is {width}x{height}, the model {shape}, and nothing says where the face is"
        raise BadMedia(what, path.name, "give its box, [x0, y0, x1, y1] in pixels, or cut the picture")
    found = (crop[2] - crop[0], crop[3] - crop[1]) if crop else (width, height)
    if STRETCH * found[0] < shape.width:
        raise BadMedia(f"the face has {found[0]}x{found[1]} pixels, the model {shape}", path.name, "give a larger one")
    if found[0] < shape.width:
        remarks = [*remarks, f"the face has {found[0]}x{found[1]} pixels and is enlarged to {shape}"]
    return FaceImage(cropped(picture, crop, 1.0, shape), crop, tuple(remarks))
