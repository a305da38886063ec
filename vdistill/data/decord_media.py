"""The same pictures by decord instead of PyAV: it decodes only the frames that are wanted. An optional extra."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import torch

from ..core.errors import BadMedia, UserError
from .media import Limits, Picture, decode, reason, resample, show
from .paths import open_regular


def pictures(path: Path, fps: Fraction, limits: Limits = Limits()) -> Iterator[Picture]:
    """As media.pictures, which still judges header and first frame. decord turns frames upright by itself.

    UserError without decord; BadMedia for a file that cannot be used.
    """
    try:
        import decord  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError as error:
        raise UserError("decord is not installed", "--decoder", "pip install 'vdistill[media]', or use pyav") from error
    try:
        first = next(decode(path, limits), None)
        if first is None:
            raise BadMedia("no frame could be decoded", path.name)
        aspect = show(first[1]).aspect
        with open_regular(path) as handle:
            reader = decord.VideoReader(handle, num_threads=1)
            begins = reader.get_frame_timestamp(range(len(reader)))[:, 0].tolist()
            times = [Fraction(t).limit_denominator(1_000_000) for t in begins]
            if any(b < a for a, b in zip(times, times[1:], strict=False)):
                raise BadMedia("its timestamps run backwards", path.name)
            for i in resample(((t - times[0], i) for i, t in enumerate(times)), fps):
                rgb = reader[i].asnumpy()
                if rgb.shape[-1] != 3:
                    raise BadMedia("decord does not give RGB of it", path.name, "use --decoder pyav")
                yield Picture(torch.from_numpy(rgb).permute(2, 0, 1), aspect)
    except UserError:
        raise
    except Exception as error:  # its own errors are C++ checks
        raise BadMedia(f"cannot be decoded ({reason(error)})", path.name) from error
