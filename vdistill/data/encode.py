"""Pixels as the bytes of an mp4 or a png, in memory: what a page carries inside itself."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .media import ITU709, to_bytes


def enlarge(pixels: Tensor, scale: int) -> Tensor:
    """[3, ..., H, W] with every pixel repeated scale x scale times, so that chroma at half resolution blurs nothing."""
    return pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def encode_mp4(pixels: Tensor, fps: float | Fraction = 8, scale: int = 1, crf: int = 12) -> bytes:
    """h264 in mp4 of pixels [3, T, H, W] in [-1, 1]; an odd side grows by one repeated row or column.

    yuv420p is what every browser plays; the same pixels give the same bytes.
    """
    frames = enlarge(to_bytes(pixels.detach().cpu()), scale)
    odd = (0, frames.shape[-1] % 2, 0, frames.shape[-2] % 2, 0, 0)
    frames = F.pad(frames[None].float(), odd, mode="replicate")[0].to(torch.uint8)
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "slow", "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(100_000), options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[-1], frames.shape[-2], "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = ITU709, 1, 1, 1
        for shot in frames.permute(1, 2, 3, 0).contiguous().numpy():
            frame = av.VideoFrame.from_ndarray(shot, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=ITU709, interpolation="AREA")))
        container.mux(stream.encode())
    return sink.getvalue()


def png(pixels: Tensor, scale: int = 1) -> bytes:
    """A png of pixels [3, H, W] in [-1, 1]."""
    shot = enlarge(to_bytes(pixels.detach().cpu()), scale).permute(1, 2, 0).contiguous().numpy()
    sink = io.BytesIO()
    Image.fromarray(shot).save(sink, "PNG", optimize=True)
    return sink.getvalue()
