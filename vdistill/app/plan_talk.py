"""What a talker's step is given, without numbers: sound, a reference, and where face and lips are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..avatar.conditions import of_several
from ..core.cond import Cond
from ..core.losses.mixed import QUALITY
from ..core.step import Batch
from ..families.stock import StockFamily
from ..worlds.talker.clips import MASKS
from .build_avatar import adapters_of, conditions_of
from .schema import Config, DataTalker
from .schema_avatar import DataTalking
from .texts import parts_of


def adapter_count(family: StockFamily) -> dict[str, int]:
    """Parameters of a family's adapters, if it has some."""
    found = adapters_of(family)
    return {} if found is None else {"adapters": sum(p.numel() for p in found.parameters())}


def batches(config: Config, family: StockFamily, batch: Batch) -> Iterator[tuple[float, Batch]]:
    """(share, batch with what adapters read): of one person, and of two in a picture twice as wide; inside `hollow`.
    UserError where two are shown to a model that does not hear."""
    share = of_two(config)
    if share < 1:
        yield 1 - share, talking(config, family, batch)
    if share:
        conditions_of(family)
        yield share, several(talking(config, family, replace(batch, x=torch.cat([batch.x, batch.x], -1))))


def of_two(config: Config) -> float:
    """Share of the batches that show two people."""
    parts = parts_of(config)
    weights = getattr(config.data, "weights", ()) or [1.0] * len(parts)
    shares = [part.duo if isinstance(part, DataTalker) else 0.0 for part in parts]
    return sum(w * share for w, share in zip(weights, shares, strict=True)) / sum(weights)


def several(batch: Batch) -> Batch:
    """A batch of one person, with a sound and a mask for each of two."""
    n, _, length, high, wide = batch.x.shape
    sound = batch.cond.along["audio"]
    heard = sound[:, :, None].expand(-1, -1, 2, *sound.shape[2:])
    where = torch.ones(n, length, 2, high, wide)
    return replace(batch, cond=of_several(batch.cond, heard, where[..., 0, 0], where))


def talking(config: Config, family: StockFamily, batch: Batch) -> Batch:
    """The batch with what adapters read; call it inside `hollow`."""
    found = adapters_of(family)
    if found is None:
        return batch
    n, channels, length, high, wide = batch.x.shape
    size, cond = found.size, batch.cond
    fields, along = dict(cond.fields), dict(cond.along)
    null = dict(cond.null)
    if size.features:
        along |= {"audio": torch.zeros(n, length, size.slots, size.features), "audio.on": torch.ones(n, length)}
        null |= {"audio": torch.zeros(1, 1, 1, 1), "audio.on": torch.zeros(1, 1)}
    if size.ref:
        fields |= {"ref": torch.zeros(n, channels, high, wide), "ref.on": torch.ones(n)}
        null |= {"ref": torch.zeros(1, 1, 1, 1), "ref.on": torch.zeros(1)}
    regions = {}
    parts = parts_of(config)
    if any(isinstance(part, DataTalker | DataTalking) for part in parts):
        regions = {name: torch.zeros(n, 1, length, high, wide) for name in MASKS}
    if any(isinstance(part, DataTalker) and part.mq for part in parts):
        fields[QUALITY] = torch.ones(n)
    return replace(batch, cond=Cond(fields, along, null), regions=regions)
