"""What a talker's step is given, without numbers: sound, a reference, and where face and lips are."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..core.cond import Cond
from ..core.losses.mixed import QUALITY
from ..core.step import Batch
from ..families.stock import StockFamily
from ..worlds.talker.clips import MASKS
from .build_avatar import adapters_of
from .schema import Config, DataTalker
from .schema_avatar import DataTalking
from .texts import parts_of


def adapter_count(family: StockFamily) -> dict[str, int]:
    """Parameters of a family's adapters, if it has some."""
    found = adapters_of(family)
    return {} if found is None else {"adapters": sum(p.numel() for p in found.parameters())}


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
