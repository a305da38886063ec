"""Who speaks: a face as a vector of 31 numbers, a voice, and a manner of moving."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.rng import Rng

COLOURS = ("skin", "hair", "eye", "shirt", "background", "lip")  # RGB in [0, 1] each
GEOMETRY = {  # name -> range, in frame widths where it is a length
    "face_width": (0.25, 0.32),  # half axes of the face
    "face_height": (0.34, 0.40),
    "jaw": (0.0, 1.0),  # how much the chin is narrower than the brow
    "eye_gap": (0.105, 0.14),  # from the middle to an eye
    "eye_size": (0.034, 0.048),
    "mouth_width": (0.095, 0.13),
    "lips": (0.016, 0.028),  # thickness of a lip
    "brow": (0.010, 0.022),
    "nose": (0.75, 1.35),
    "hair_height": (0.03, 0.11),
    "hair_length": (0.0, 0.3),
    "glasses": (0.0, 1.0),  # opacity: none or all
    "beard": (0.0, 1.0),
}
SIZE = 3 * len(COLOURS) + len(GEOMETRY)
SKINS = ((0.97, 0.83, 0.74), (0.90, 0.70, 0.56), (0.76, 0.55, 0.41), (0.55, 0.37, 0.26), (0.38, 0.25, 0.18))
HAIRS = (
    (0.09, 0.07, 0.07),
    (0.28, 0.17, 0.10),
    (0.50, 0.32, 0.16),
    (0.85, 0.68, 0.38),
    (0.62, 0.24, 0.12),
    (0.72, 0.72, 0.72),
    (0.20, 0.22, 0.45),
    (0.55, 0.20, 0.40),
)
EYES = ((0.16, 0.09, 0.05), (0.35, 0.22, 0.10), (0.15, 0.35, 0.60), (0.18, 0.42, 0.26), (0.32, 0.36, 0.40))


NAMES = {  # what colours are called
    "black": (0.08, 0.07, 0.08),
    "grey": (0.6, 0.6, 0.6),
    "white": (0.93, 0.93, 0.93),
    "brown": (0.38, 0.24, 0.14),
    "blond": (0.85, 0.68, 0.38),
    "red": (0.75, 0.22, 0.15),
    "orange": (0.9, 0.55, 0.2),
    "yellow": (0.9, 0.85, 0.3),
    "green": (0.35, 0.7, 0.3),
    "blue": (0.25, 0.4, 0.8),
    "purple": (0.5, 0.25, 0.6),
    "pink": (0.9, 0.6, 0.75),
    "turquoise": (0.4, 0.8, 0.8),
}


@dataclass(frozen=True)
class Person:
    """face: [31], colours as RGB in [0, 1], then GEOMETRY in units of its ranges; voice: see `speech`; gain and spread
    of the mouth: see `visemes.mouth`; liveliness: how far the head moves, about 1."""

    face: Tensor
    voice: str
    gain: float = 1.0
    spread: float = 1.0
    liveliness: float = 1.0


def colours(face: Tensor) -> dict[str, Tensor]:
    """Faces [N, 31] -> RGB in [0, 1] by name, each [N, 3, 1, 1]."""
    return {name: face[:, 3 * i : 3 * i + 3, None, None] for i, name in enumerate(COLOURS)}


def geometry(face: Tensor) -> dict[str, Tensor]:
    """Faces [N, 31] -> lengths in frame widths and opacities by name, each [N, 1, 1, 1]."""
    first = 3 * len(COLOURS)
    return {
        name: (low + (high - low) * face[:, first + i])[:, None, None, None]
        for i, (name, (low, high)) in enumerate(GEOMETRY.items())
    }


def describe(face: Tensor) -> str:
    """A face [31] in words: "a person with brown hair, a beard and glasses before a blue wall"."""
    parts = ["long " * (float(_number(face, "hair_length")) > 0.1) + f"{colour_name(face, 'hair')} hair"]
    parts += ["a beard"] * (float(_number(face, "beard")) > 0.5) + ["glasses"] * (float(_number(face, "glasses")) > 0.5)
    said = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]
    return f"a person with {said} before a {colour_name(face, 'background')} wall"


def _number(face: Tensor, name: str) -> Tensor:
    return face[3 * len(COLOURS) + list(GEOMETRY).index(name)]


def colour_name(face: Tensor, part: str) -> str:
    """What a colour of a face [31] is called: the nearest of NAMES."""
    first = 3 * COLOURS.index(part)
    away = (torch.tensor(list(NAMES.values())) - face[first : first + 3].detach().cpu()).square().sum(1)
    return list(NAMES)[int(away.argmin())]


def face(rng: Rng) -> Tensor:
    """A face nobody chose, [31] in [0, 1]."""
    skin = _between(SKINS, rng, "skin") + rng.normal("skin/tint", (3,)) * 0.015
    hair = _pick(HAIRS, rng, "hair") * rng.uniform("hair/shade", (), 0.7, 1.2).float()
    eye = _pick(EYES, rng, "eye") * rng.uniform("eye/shade", (), 0.8, 1.2).float()
    shirt, wall = rng.uniform("shirt", (3,), 0.1, 0.9).float(), rng.uniform("background", (3,), 0.3, 0.95).float()
    lip = skin * torch.tensor([0.88, 0.52, 0.55]) + rng.uniform("lip", (3,), -0.04, 0.08).float() * torch.tensor(
        [1.5, 0.5, 0.8]
    )
    numbers = rng.uniform("geometry", (len(GEOMETRY),)).float()
    names = list(GEOMETRY)
    numbers[names.index("hair_length")] *= (rng.uniform("long", ()) < 0.45).float()
    numbers[names.index("glasses")] = (rng.uniform("glasses", ()) < 0.22).float()
    numbers[names.index("beard")] = (rng.uniform("beard", ()) < 0.2).float()
    return torch.cat([skin, hair, eye, shirt, wall, lip, numbers]).clamp(0, 1)


def _pick(table: tuple[tuple[float, ...], ...], rng: Rng, name: str) -> Tensor:
    return torch.tensor(table[rng.integer(name, len(table))])


def _between(table: tuple[tuple[float, ...], ...], rng: Rng, name: str) -> Tensor:
    """Somewhere on the line through the table."""
    place = float(rng.uniform(name, ())) * (len(table) - 1)
    low = int(place)
    a, b = torch.tensor(table[low]), torch.tensor(table[min(low + 1, len(table) - 1)])
    return a + (b - a) * (place - low)


def person(rng: Rng, voices: tuple[str, ...]) -> Person:
    """A face, one of the voices, and a manner."""
    gain, spread, lively = rng.uniform("manner", (3,)).tolist()
    voice = voices[rng.integer("voice", len(voices))]
    return Person(face(rng), voice, 0.85 + 0.25 * gain, 0.8 + 0.4 * spread, 0.5 + lively)
