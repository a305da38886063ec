"""Faces from numbers: ellipses over one another, edges smooth by their distance, all frames at once, differentiable.

Lengths are in frame widths, x right and y down from the middle of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import identity as who

CHUNK = 16  # frames drawn at once: a map of 64 x 64 x 16 floats stays in the cache
MIDDLE = 0.03  # height of the face's middle
EYES, BROWS, NOSE, MOUTH = -0.055, -0.135, 0.065, 0.195  # heights of the features
OPEN = 0.068  # half height of a mouth that is wide open
JAW = 0.035  # how far the chin goes down with it
INSIDE, TEETH, TONGUE, FRAME = (0.20, 0.04, 0.05), (0.95, 0.94, 0.90), (0.78, 0.36, 0.38), (0.07, 0.07, 0.08)
WHITE = (0.93, 0.92, 0.90)


@dataclass(frozen=True)
class Drawn:
    """frames [N, 3, S, S] in [-1, 1]; masks [N, S, S] in [0, 1]: skin of the face, lips with what is between them, and
    the whole person; box [N, 4] of the face in pixels: left, top, right, bottom."""

    frames: Tensor
    face: Tensor
    lip: Tensor
    person: Tensor
    box: Tensor


@dataclass(frozen=True)
class Grid:
    """Where pixels lie in the head's own frame, x, y [N, 1, h, w]; pixel [N, 1, 1, 1]: the width of one there."""

    x: Tensor
    y: Tensor
    pixel: Tensor

    def cut(self, rows: slice, columns: slice) -> Grid:
        return Grid(self.x[..., rows, columns], self.y[..., rows, columns], self.pixel)


def grid(pose: Tensor, size: int) -> Grid:
    """The head's frame for poses [N, 4] (x, y, roll, scale)."""
    steps = (torch.arange(size, device=pose.device, dtype=pose.dtype) + 0.5) / size - 0.5
    tx, ty, roll, scale = (v[:, None, None, None] for v in pose.unbind(1))
    dx, dy = steps[None, :] - tx, steps[:, None] - ty
    cos, sin = torch.cos(roll) / scale, torch.sin(roll) / scale
    return Grid(cos * dx + sin * dy, cos * dy - sin * dx, 1 / (size * scale))


Number = Tensor | float


def distance(u: Tensor, v: Tensor, rx: Number, ry: Number) -> Tensor:
    """Signed distance to an ellipse to first order, (f - 1) / |grad f| with f = |(u / rx, v / ry)|; inside is negative.

    The cheaper (f - 1) min(rx, ry) is wrong by rx / ry: a mouth almost shut becomes a hairline across the face.
    """
    a, b = (u / rx).square(), (v / ry).square()
    square = a + b + 1e-8
    return (square - square.sqrt()) * (a / rx**2 + b / ry**2 + 1e-6).rsqrt()


def cover(d: Tensor, pixel: Tensor, thin: Number = 1.0) -> Tensor:
    """How much of each pixel lies within an outline at signed distance d; thin: half the thickness of a thin thing."""
    inside = (0.5 - d / pixel).clamp(0, 1)
    return inside if isinstance(thin, float) and thin >= 1 else inside * (2 * thin / pixel).clamp(max=1)


def ellipse(g: Grid, cx: Number, cy: Number, rx: Number, ry: Number) -> Tensor:
    """Coverage [N, 1, h, w] of an ellipse, right for one thinner than a pixel too."""
    return cover(distance(g.x - cx, g.y - cy, rx, ry), g.pixel, ry)


def over(image: Tensor, alpha: Tensor, colour: Tensor) -> Tensor:
    """Paint."""
    return image + alpha * (colour - image)


def rgb(colour: tuple[float, float, float], like: Tensor) -> Tensor:
    return like.new_tensor(colour)[None, :, None, None]


def render(face: Tensor, mouth: Tensor, blink: Tensor, pose: Tensor, size: int) -> Drawn:
    """Draw N frames: face [31] or [N, 31] (`identity`), mouth [N, 6] (`visemes`), blink [N] in [0, 1], pose [N, 4]."""
    faces = face.expand(len(mouth), -1) if face.ndim == 1 else face
    parts = [
        _render(faces[i : i + CHUNK], mouth[i : i + CHUNK], blink[i : i + CHUNK], pose[i : i + CHUNK], size)
        for i in range(0, len(mouth), CHUNK)
    ]
    names = ("frames", "face", "lip", "person", "box")
    return Drawn(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _render(face: Tensor, mouth: Tensor, blink: Tensor, pose: Tensor, size: int) -> Drawn:
    ink, form = who.colours(face), who.geometry(face)
    opening = mouth[:, 0, None, None, None]
    g = grid(pose, size)
    body = grid(pose * pose.new_tensor([0.5, 0.3, 0, 0]) + pose.new_tensor([0, 0, 0, 1]), size)
    skull = _skull(g, form, opening)
    image, person = _behind(g, body, ink, form, size)
    skin = cover(skull, g.pixel)
    image, person = over(image, skin, _surface(g, ink, form)), person + skin * (1 - person)
    for draw, box in ((_eyes, (0.26, EYES - 0.13, EYES + 0.09)), (_nose, (0.08, NOSE - 0.09, NOSE + 0.06))):
        rows, columns = _window(pose, size, *box)
        image = _put(
            image, draw(image[..., rows, columns].clone(), g.cut(rows, columns), ink, form, blink), rows, columns
        )
    rows, columns = _window(pose, size, 0.2, MOUTH - 0.07, MOUTH + 0.21)
    inner, lip = _mouth(image[..., rows, columns].clone(), g.cut(rows, columns), ink, form, mouth)
    image, lips = _put(image, inner, rows, columns), torch.zeros_like(skin)
    lips[..., rows, columns] = lip
    return Drawn(image.clamp(0, 1) * 2 - 1, skin[:, 0], lips[:, 0], person[:, 0], _box(form, opening, pose, size))


def _window(pose: Tensor, size: int, half: float, top: float, bottom: float) -> tuple[slice, slice]:
    """Rows and columns that hold [-half, half] x [top, bottom] of the head's frame in every pose."""
    tx, ty, roll, scale = pose.detach().unbind(1)
    low, high = [], []
    for x in (-half, half):
        for y in (top, bottom):
            px = tx + scale * (torch.cos(roll) * x - torch.sin(roll) * y)
            py = ty + scale * (torch.sin(roll) * x + torch.cos(roll) * y)
            corner = (torch.stack([px, py]) + 0.5) * size
            low.append(corner.amin(1))
            high.append(corner.amax(1))
    x0, y0 = torch.stack(low).amin(0).floor().clamp(0, size - 1).int().tolist()
    x1, y1 = torch.stack(high).amax(0).ceil().clamp(1, size).int().tolist()
    return slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1))


def _put(image: Tensor, part: Tensor, rows: slice, columns: slice) -> Tensor:
    """The image with a part of it replaced."""
    image = image.clone() if image.requires_grad else image
    image[..., rows, columns] = part
    return image


def _chin(form: dict[str, Tensor], opening: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half height of the face: the chin goes down, the brow stays."""
    down = JAW * opening
    return MIDDLE + down / 2, form["face_height"] + down / 2


def _skull(g: Grid, form: dict[str, Tensor], opening: Tensor) -> Tensor:
    """Signed distance to the outline of the face, narrower below."""
    middle, height = _chin(form, opening)
    v = g.y - middle
    return distance(g.x * (1 + 0.9 * form["jaw"] * v.clamp(min=0)), v, form["face_width"], height)


def _behind(g: Grid, body: Grid, ink: dict[str, Tensor], form: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Wall, hair at the back, neck, shirt and ears: image [N, 3, S, S] and who is before the wall [N, 1, S, S]."""
    rise, long, width = form["hair_height"], form["hair_length"], form["face_width"]
    fade = torch.linspace(1.06, 0.94, size, device=g.x.device, dtype=g.x.dtype)[:, None]
    image = (ink["background"] * fade).expand(-1, -1, -1, size)
    high = form["face_height"] + rise / 2 + long / 2
    layers = [
        (ellipse(g, 0.0, MIDDLE - rise / 2 + long / 2, width + 0.012 + 0.3 * rise, high), ink["hair"]),
        (ellipse(g, 0.0, 0.40, width * 0.5, 0.14), ink["skin"] * 0.80),
        (ellipse(body, 0.0, 0.66, 0.43, 0.25), ink["shirt"]),
        (ellipse(body, 0.0, 0.40, width * 0.42, 0.055), ink["skin"] * 0.76),
        (ellipse(g, -width, 0.01, 0.03, 0.055), ink["skin"] * 0.90),
        (ellipse(g, width, 0.01, 0.03, 0.055), ink["skin"] * 0.86),
    ]
    person = torch.zeros_like(g.x)
    for alpha, colour in layers:
        image, person = over(image, alpha, colour), person + alpha * (1 - person)
    return image, person


def _surface(g: Grid, ink: dict[str, Tensor], form: dict[str, Tensor]) -> Tensor:
    """What colour the head has where it is: skin in the light, hair above the brow, beard around the chin."""
    width, height = form["face_width"], form["face_height"]
    skin = ink["skin"] * (1.04 - 0.9 * g.x.square() - 0.12 * g.x - 0.10 * g.y)
    brow = distance(g.x, g.y - (MIDDLE + 0.14), width * 1.04, height * 1.06)
    cheeks = distance(g.x, g.y - (MIDDLE - 0.06), width * 0.95, height * 0.80)
    skin = over(skin, cover(torch.maximum(-cheeks, -g.y), g.pixel) * 0.75 * form["beard"], ink["hair"])
    return over(skin, cover(torch.maximum(-brow, g.y), g.pixel), ink["hair"])


def _eyes(image: Tensor, g: Grid, ink: dict[str, Tensor], form: dict[str, Tensor], blink: Tensor) -> Tensor:
    gap, eye, shut = form["eye_gap"], form["eye_size"], blink[:, None, None, None]
    g = Grid(g.x.abs() - gap, g.y - EYES, g.pixel)  # both eyes at once: faces are symmetric
    high = eye * 0.74 * (1 - shut) + 0.004
    lid = distance(g.x, g.y - 0.35 * eye * shut, eye * 1.42, high)
    image = over(image, ellipse(g, 0.0, -0.004, eye * 1.6, high + 0.007), ink["skin"] * 0.55)
    image = over(image, cover(lid, g.pixel, high) * (1 - shut), rgb(WHITE, image))
    for size, colour in ((0.72, ink["eye"]), (0.34, ink["eye"] * 0.25)):
        iris = torch.maximum(distance(g.x, g.y, eye * size, eye * size), lid)
        image = over(image, cover(iris, g.pixel) * (1 - shut), colour)
    brow = ellipse(g, 0.0, BROWS - EYES + 0.012 * shut + 4 * g.x.square(), eye * 1.75, form["brow"] * 0.75)
    image = over(image, brow, ink["hair"] * 0.75)
    rim = distance(g.x, g.y, eye * 2.05, eye * 1.7).abs() - 0.007
    bridge = torch.maximum((g.y + 0.01).abs() - 0.006, g.x + eye * 2)
    return over(image, cover(torch.minimum(rim, bridge), g.pixel) * form["glasses"], rgb(FRAME, image))


def _nose(image: Tensor, g: Grid, ink: dict[str, Tensor], form: dict[str, Tensor], _: Tensor) -> Tensor:
    size = form["nose"]
    image = over(image, ellipse(g, 0.004, NOSE - 0.03, 0.014 * size, 0.055) * 0.5, ink["skin"] * 0.86)
    image = over(image, ellipse(g, 0.0, NOSE + 0.012, 0.031 * size, 0.021 * size), ink["skin"] * 0.84)
    nostrils = Grid(g.x.abs() - 0.015 * size, g.y, g.pixel)
    return over(image, ellipse(nostrils, 0.0, NOSE + 0.020, 0.008 * size, 0.006 * size), ink["skin"] * 0.45)


def _mouth(
    image: Tensor, g: Grid, ink: dict[str, Tensor], form: dict[str, Tensor], mouth: Tensor
) -> tuple[Tensor, Tensor]:
    """The part of the image with the mouth, and the coverage of lips and all between them."""
    opening, wide, rounded, teeth, tongue, press = (v[:, None, None, None] for v in mouth.unbind(1))
    width = form["mouth_width"] * (0.68 + 0.62 * wide - 0.26 * rounded)
    high = OPEN * opening
    lip = form["lips"] * (1 - 0.55 * press) * (1 + 0.35 * rounded)
    g = Grid(g.x, g.y - (MOUTH + 0.75 * high), g.pixel)
    whole = ellipse(g, 0.0, 0.0, width + 0.3 * lip, high + lip)
    image = over(image, whole, ink["lip"])
    upper = cover(torch.maximum(distance(g.x, g.y, width + 0.3 * lip, high + lip), g.y + high * 0.5), g.pixel)
    image = over(image, upper * 0.6, ink["lip"] * 0.82)
    inner = distance(g.x, g.y, width * 0.9, high + 0.003)
    gap = cover(inner, g.pixel, high + 0.003)
    image = over(image, gap, rgb(INSIDE, image))
    image = over(image, gap * cover(g.y + 0.45 * high, g.pixel) * teeth, rgb(TEETH, image))
    low = ellipse(g, 0.0, 0.65 * high, width * 0.62, 0.5 * high + 1e-4)
    return over(image, torch.minimum(gap, low) * tongue, rgb(TONGUE, image)), whole


def _box(form: dict[str, Tensor], opening: Tensor, pose: Tensor, size: int) -> Tensor:
    """The upright box around the outline of the face, in pixels."""
    middle, height = (v[:, 0, 0, 0] for v in _chin(form, opening))
    width = form["face_width"][:, 0, 0, 0]
    tx, ty, roll, scale = pose.unbind(1)
    cos, sin = torch.cos(roll), torch.sin(roll)
    x, y = tx - scale * sin * middle, ty + scale * cos * middle
    half_x = scale * torch.hypot(width * cos, height * sin)
    half_y = scale * torch.hypot(width * sin, height * cos)
    return (torch.stack([x - half_x, y - half_y, x + half_x, y + half_y], 1) + 0.5) * size
