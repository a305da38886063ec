"""What goes wrong with pictures: faults (clip, rng) -> (clip, what was done). The truth follows the frames shown."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from typing import cast

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...core.rng import Rng
from .clips import Clip
from .speech import FPS


def drops(clip: Clip, rng: Rng) -> tuple[Clip, list[int]]:
    """A frame is lost and the one before is shown instead, or it comes twice and later ones wait. -> frames shown."""
    count = clip.frames.shape[1]
    event = rng.uniform("drops", (count,))
    shown: list[int] = []
    source = 0
    for t in range(count):
        lost, twice = float(event[t]) < 0.12, float(event[t]) > 0.96
        shown.append(shown[-1] if shown and lost else source)
        source = source if twice else min(source + 1, count - 1)
    return at(clip, torch.tensor(shown)), shown


def at(clip: Clip, shown: Tensor) -> Clip:
    """The clip with frame shown[t] at t; the sound stays."""
    return replace(
        clip,
        frames=clip.frames[:, shown],
        mouth=clip.mouth[shown],
        blink=clip.blink[shown],
        pose=clip.pose[shown],
        masks={name: mask[shown] for name, mask in clip.masks.items()},
        box=clip.box[shown],
    )


def crop(clip: Clip, rng: Rng) -> tuple[Clip, list[list[float]]]:
    """The cut-out of the face trembles. -> (right, down) of each frame in pixels."""
    size = clip.frames.shape[-1]
    reach = size * float(rng.uniform("crop/reach", (), 0.01, 0.035))
    moves = rng.uniform("crop", (clip.frames.shape[1], 2), -reach, reach).float()
    unit = torch.eye(2).expand(len(moves), 2, 2)
    theta = torch.cat([unit, -2 * moves[:, :, None] / size], 2)
    masks = torch.stack(list(clip.masks.values()), 1)  # [T, 3, H, W]
    layers = torch.cat([clip.frames.transpose(0, 1), masks], 1)
    grid = functional.affine_grid(theta, list(layers.shape), align_corners=False)
    layers = functional.grid_sample(layers, grid, padding_mode="border", align_corners=False)
    pose = clip.pose + functional.pad(moves / size, (0, 2))
    moved = replace(
        clip,
        frames=layers[:, :3].transpose(0, 1),
        masks=dict(zip(clip.masks, layers[:, 3:].unbind(1), strict=True)),
        box=clip.box + moves.repeat(1, 2),
        pose=pose,
    )
    return moved, moves.tolist()


def occluder(clip: Clip, rng: Rng) -> tuple[Clip, dict[str, object]]:
    """Something round passes before the lower face. -> its colour, radius in pixels and first and last frame."""
    count, size = clip.frames.shape[1], clip.frames.shape[-1]
    radius = size * float(rng.uniform("occluder/radius", (), 0.08, 0.16))
    first = rng.integer("occluder/first", max(count // 2, 1))
    last = min(first + 4 + rng.integer("occluder/length", count), count - 1)
    colour = rng.uniform("occluder/colour", (3,), -0.9, 0.9).float()
    low, high = clip.box[:, :2], clip.box[:, 2:]
    goal = low + (high - low) * torch.tensor([0.5, 0.78])
    sway = torch.linspace(-1, 1, count)[:, None] * size * rng.uniform("occluder/sway", (2,), -0.2, 0.2).float()
    centre = goal + sway  # [T, 2]
    steps = torch.arange(size) + 0.5
    away = torch.hypot(steps - centre[:, :1, None], steps[:, None] - centre[:, 1:, None])  # [T, S, S]
    alpha = (radius + 0.5 - away).clamp(0, 1)
    alpha[:first], alpha[last + 1 :] = 0, 0
    frames = clip.frames + alpha * (colour[:, None, None, None] - clip.frames)
    masks = {name: mask * (1 - alpha) for name, mask in clip.masks.items()}
    record = {"colour": colour.tolist(), "radius": radius, "first": first, "last": last}
    return replace(clip, frames=frames, masks=masks), record


def exposure(clip: Clip, rng: Rng) -> tuple[Clip, list[float]]:
    """Light flickers. -> the gain of each frame."""
    depth = float(rng.uniform("exposure/depth", (), 0.05, 0.2))
    gain = 1 + depth * rng.uniform("exposure", (clip.frames.shape[1],), -1, 1).float()
    frames = ((clip.frames + 1) * gain[:, None, None] - 1).clamp(-1, 1)
    return replace(clip, frames=frames), gain.tolist()


def blur(clip: Clip, rng: Rng) -> tuple[Clip, float]:
    """Out of focus. -> standard deviation in pixels at 64 px."""
    sigma = float(rng.uniform("blur", (), 0.5, 1.4))
    reach = sigma * clip.frames.shape[-1] / 64
    half = int(3 * reach) + 1
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1) / reach) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    frames = functional.pad(clip.frames.transpose(0, 1), (half, half, half, half), mode="replicate")
    frames = functional.conv2d(frames, kernel, groups=3)
    frames = functional.conv2d(frames, kernel.transpose(2, 3), groups=3)
    return replace(clip, frames=frames.transpose(0, 1)), sigma


def noise(clip: Clip, rng: Rng) -> tuple[Clip, float]:
    """A poor sensor. -> standard deviation, of pixels in [-1, 1]."""
    sigma = float(rng.uniform("noise/sigma", (), 0.04, 0.16))
    frames = clip.frames + sigma * rng.normal("noise", clip.frames.shape)
    return replace(clip, frames=frames.clamp(-1, 1)), sigma


def rescale(clip: Clip, rng: Rng) -> tuple[Clip, float]:
    """Too small once, and enlarged again. -> the share of its size it had, a half to a quarter."""
    size = clip.frames.shape[-1]
    small = round(size * float(rng.uniform("rescale", (), 0.25, 0.5)))
    frames = clip.frames.transpose(0, 1)
    frames = functional.interpolate(frames, (small, small), mode="area")
    frames = functional.interpolate(frames, (size, size), mode="bilinear", align_corners=False)
    return replace(clip, frames=frames.transpose(0, 1)), small / size


def codec(clip: Clip, rng: Rng) -> tuple[Clip, str]:
    """Compressed too much. -> "x264 crf 35" to 45, or "jpeg q 10" to 40."""
    pictures = to_bytes(clip.frames)
    if rng.integer("codec", 2):
        crf = 35 + rng.integer("codec/crf", 11)
        pictures, said = _x264(pictures, crf), f"x264 crf {crf}"
    else:
        quality = 10 + rng.integer("codec/quality", 31)
        pictures, said = np.stack([_jpeg(each, quality) for each in pictures]), f"jpeg q {quality}"
    return replace(clip, frames=from_bytes(pictures)), said


def to_bytes(frames: Tensor) -> np.ndarray:
    """[3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3]."""
    return ((frames + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).contiguous().numpy()


def from_bytes(pictures: np.ndarray) -> Tensor:
    """uint8 [T, H, W, 3] -> [3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(3, 0, 1, 2).float() / 127.5 - 1


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


def _x264(pictures: np.ndarray, crf: int) -> np.ndarray:
    """Through the codec and back; sides are even."""
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        stream = cast(av.VideoStream, container.add_stream("libx264", rate=Fraction(FPS), options=options))
        stream.width, stream.height, stream.pix_fmt = pictures.shape[2], pictures.shape[1], "yuv420p"
        for each in [*map(av.VideoFrame.from_ndarray, pictures), None]:
            container.mux(stream.encode(each))
    file.seek(0)
    with av.open(file, mode="r") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
