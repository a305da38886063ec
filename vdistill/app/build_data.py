"""From the data section of a config to the engine's source of batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.engine import Source
from ..core.errors import UserError
from ..data.bank import BankData
from ..data.buckets import Bucket, parse
from ..data.clips import Plan
from ..data.loader import Feed, RememberedText, open_data
from ..data.manifest import scan
from ..data.media import Limits, rate
from ..data.mix import Mixed
from ..data.on_the_fly import MediaData
from ..data.prompts import PromptData, read_prompts
from ..families.analytic_family import AnalyticFamily, AnalyticSource
from ..families.stock import StockFamily
from ..worlds.source import ShapesSource
from .build_avatar import conditions_of, talker_source
from .build_family import AnyFamily, world_of
from .schema import Config, Data, DataBank, DataLatents, DataMedia, DataMix, DataPrompts, DataShapes
from .schema_avatar import DataTalker, DataTalking
from .schema_family import FamilyAnalytic
from .talking_source import talking_data


def make_source(config: Config, family: AnyFamily, world: int = 1) -> Source:
    """Where batches come from."""
    d, micro = config.data, config.train.micro * world
    if isinstance(d, DataBank):
        return Feed(BankData(d.path), config.train.batch, micro, config.seed)
    if isinstance(family, AnalyticFamily):
        return AnalyticSource(family, config.train.batch, config.seed)
    if isinstance(d, DataMix):
        weights = d.weights or (1.0,) * len(d.parts)
        return Mixed([source_of(config, family, part, micro) for part in d.parts], weights, micro, config.seed)
    return source_of(config, family, d, micro)


def source_of(config: Config, family: StockFamily, d: Data, micro: int) -> Source:
    """Where the batches of one kind of data come from. micro: micro-batches of a step over all processes."""
    train = config.train
    if isinstance(d, DataShapes):
        first = family.from_image if family.needs_image else None
        return ShapesSource(world_of(d), family.codec, family.text, train.batch, micro, d.images, config.seed, first)
    if isinstance(d, DataTalker):
        return talker_source(family, d, train.batch, config.seed)
    if isinstance(d, DataTalking):
        assert not isinstance(config.family, FamilyAnalytic)
        heard, text = conditions_of(family), RememberedText(family.text)
        own = talking_data(d, config.family.clip, family.codec, heard, text, config.seed)
        return Feed(own, train.batch, micro, config.seed)
    if isinstance(d, DataPrompts) and Path(d.path).is_file():
        assert not isinstance(config.family, FamilyAnalytic)
        refuse_without_images(family, d.path)
        shape = family.codec.shape(*config.family.clip)
        data = PromptData(read_prompts(Path(d.path)), shape, RememberedText(family.text))
        return Feed(data, train.batch, micro, config.seed)
    if isinstance(d, DataMedia):
        return Feed(media_data(config, family, d), train.batch, micro, config.seed)
    assert isinstance(d, DataLatents | DataPrompts)
    stored = open_data(d.path, family.text, family.codec)
    refuse_without_images(family, d.path, getattr(stored, "fields", ()))
    return Feed(stored, train.batch, micro, config.seed)


def refuse_without_images(family: StockFamily, path: str, fields: Sequence[str] = ()) -> None:
    """UserError where a teacher starts from an image and the data has no conditions of one, or the other way round."""
    if family.needs_image and not fields:
        hint = "prepare its clips with this family, or say data: {name: media}"
        raise UserError(f"{family.name} of this folder starts from an image; this data has none", path, hint)
    if fields and not family.needs_image:
        what = f"was prepared for a teacher that starts from an image ({', '.join(fields)})"
        raise UserError(what, path, "prepare with this family")


def media_data(config: Config, family: StockFamily, d: DataMedia) -> MediaData:
    """The user's own files, encoded on the way."""
    assert not isinstance(config.family, FamilyAnalytic)
    frames, height, width = config.family.clip
    buckets = parse(",".join(d.buckets)) if d.buckets else (Bucket(width, height),)
    for bucket in buckets:
        family.codec.shape(frames, bucket.height, bucket.width)
    plan = Plan(
        family.codec, frames, rate(d.fps), d.stride or frames, buckets, Limits(d.max_seconds, d.max_pixels),
        device=str(family.device), image_fields=family.from_image if family.needs_image else None,
    )  # fmt: skip
    listing = scan(Path(d.path), images=d.images, caption=d.caption)
    if not listing.items and listing.prompts:
        raise UserError("holds prompts and no clip", d.path, "say data: {name: prompts}")
    return MediaData(listing, plan, RememberedText(family.text), d.limit_bad)
