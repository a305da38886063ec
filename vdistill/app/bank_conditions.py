"""What the trajectories of a bank are asked for: captions, and first images where a teacher starts from one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..core.cond import Cond
from ..core.errors import UserError
from ..core.rng import Rng
from ..data.loader import Feed, open_data
from ..data.order import index as shuffled
from ..families.analytic import Classes
from ..families.analytic_family import CLASSES, AnalyticFamily
from ..families.stock import StockFamily
from .build_data import source_of
from .build_family import AnyFamily, captions_of, world_of
from .models import clip_shape, fit_network
from .schema import Config, DataLatents, DataMedia, DataPrompts, DataShapes
from .schema_family import FamilyAnalytic

Asked = Callable[[Sequence[int]], tuple[Cond, tuple[str, ...]]]
"""Indices -> their condition, and the captions it was made from (none for a law without captions)."""


def asks(config: Config, family: AnyFamily, seed: int) -> tuple[Asked, tuple[int, ...], Any]:
    """(index -> condition, shape of a sample, what bank.json says of it), a function of the seed and the index alone.

    The shapes world makes new captions; a list of them is passed through shuffled, all of it before any comes again.
    UserError where a teacher starts from an image and the data have none.
    """
    if isinstance(family, AnalyticFamily):
        return labels(family, seed), family.teacher.shape, family.target
    if isinstance(config.data, DataShapes):
        return world(config, config.data, family, seed)
    return with_images(config, family, seed) if family.needs_image else listed(config, family, seed)


def labels(family: AnalyticFamily, seed: int) -> Asked:
    """Labels, where the law has them."""
    teacher = family.teacher

    def asked(indices: Sequence[int]) -> tuple[Cond, tuple[str, ...]]:
        if not isinstance(teacher, Classes):
            return Cond(), ()
        return teacher.cond(torch.tensor([Rng(seed, i, turn="bank").integer("label", CLASSES) for i in indices])), ()

    return asked


def world(config: Config, d: DataShapes, family: StockFamily, seed: int) -> tuple[Asked, tuple[int, ...], Any]:
    """Scenes of the shapes world, each drawn anew."""
    assert not isinstance(config.family, FamilyAnalytic)
    shapes, shape = world_of(d), clip_shape(family, *config.family.clip)

    def asked(indices: Sequence[int]) -> tuple[Cond, tuple[str, ...]]:
        scenes = [Rng(seed, i, turn="bank").integer("caption", 2**31) for i in indices]
        texts = tuple(shapes.caption(scene) for scene in scenes)
        cond = family.text(texts)
        if family.needs_image:
            first = torch.stack([shapes.clip(scene, frames=1)[:, 0] for scene in scenes])
            for name, value in family.from_image(first.to(family.device), shape).items():
                cond = cond.with_field(name, value.cpu())
        return cond, texts

    return asked, shape, {"world": asdict(shapes)}


def listed(config: Config, family: StockFamily, seed: int) -> tuple[Asked, tuple[int, ...], Any]:
    """The captions of the data, whatever they belong to."""
    assert not isinstance(config.family, FamilyAnalytic)
    d, lines = config.data, tuple(captions_of(config.data))
    if isinstance(d, DataLatents | DataPrompts) and not Path(d.path).is_file():
        shape = tuple(open_data(d.path, lambda _: Cond()).shape)
        fit_network(family, shape, d.path)
    else:
        shape = clip_shape(family, *config.family.clip)
    if not lines:
        raise UserError("holds no caption", str(getattr(d, "path", "data")))

    def asked(indices: Sequence[int]) -> tuple[Cond, tuple[str, ...]]:
        texts = tuple(lines[turn(seed, i, len(lines))] for i in indices)
        return family.text(texts), texts

    return asked, shape, f"{len(lines)} captions {code(lines)}"


def with_images(config: Config, family: StockFamily, seed: int) -> tuple[Asked, tuple[int, ...], Any]:
    """The captions and first images of the data's clips, those of the commonest shape."""
    if not isinstance(config.data, DataLatents | DataMedia):
        what = f"{family.name} of this folder starts from an image, {config.data.name} has none"
        raise UserError(what, "data.name", "shapes, latents or media have")
    source = source_of(config, family, config.data, 1)
    assert isinstance(source, Feed)
    data = source.data
    largest = max(range(len(data.groups)), key=lambda g: data.groups[g])
    first, count = sum(data.groups[:largest]), data.groups[largest]
    texts, shape = data.captions()[first : first + count], tuple(data.shape)
    fit_network(family, shape, config.data.path)

    def asked(indices: Sequence[int]) -> tuple[Cond, tuple[str, ...]]:
        places = [turn(seed, i, count) for i in indices]
        return data.batch([first + place for place in places]).cond, tuple(texts[place] for place in places)

    if not asked([0])[0].fields.keys() - family.text(texts[:1]).fields.keys():
        raise UserError("has no first images", config.data.path, "run `vdistill prepare` with this family")
    return asked, shape, f"{count} clips {code(texts)}"


def turn(seed: int, i: int, count: int) -> int:
    """Which of `count` things trajectory i gets."""
    return shuffled(seed, i, 0, 1, count)[0]


def code(lines: Sequence[str]) -> str:
    """Tells one list from another."""
    return hashlib.blake2b("\0".join(lines).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
