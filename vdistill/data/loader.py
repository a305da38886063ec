"""From a folder of prepared data to the engine's source: (step, global micro-batch) -> Batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..core.codec import Codec
from ..core.cond import Cond
from ..core.errors import UserError
from ..core.step import Batch
from .files import read_json
from .latents import LatentData
from .order import Order
from .prompts import PromptData

Text = Callable[[Sequence[str]], Cond]


class Data(Protocol):
    """Samples by number. groups: how many of each shape, in order; shape: [C, T, H, W] of the commonest."""

    @property
    def groups(self) -> tuple[int, ...]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def captions(self) -> tuple[str, ...]: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...


@dataclass(frozen=True)
class Feed:
    """The engine's source over `data`. micro: micro-batches of a step over all ranks (cadence.micro * world size)."""

    data: Data
    batch: int
    micro: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.micro < 1:
            raise UserError(f"batch {self.batch}, micro {self.micro}: both must be at least 1", "data")

    def __call__(self, step: int, micro: int) -> Batch:
        order = Order(self.data.groups, self.batch, self.micro, self.seed)
        return self.data.batch(order.index(step, micro))


class RememberedText:
    """A text encoder that keeps what it said, up to `limit` bytes; least used goes first.

    Captions are encoded one by one: an encoder's last bits depend on what else is in its batch, and a resumed run,
    whose memory is empty, must see the same numbers as an uninterrupted one.
    """

    def __init__(self, text: Text, limit: int = 2 << 30) -> None:
        self.text, self.limit, self.size = text, limit, 0
        self._known: OrderedDict[str, Cond] = OrderedDict()

    def __call__(self, captions: Sequence[str]) -> Cond:
        return Cond.cat([self._one(c) for c in captions])

    def _one(self, caption: str) -> Cond:
        if caption in self._known:
            self._known.move_to_end(caption)
            return self._known[caption]
        cond = self.text([caption])
        self._known[caption] = cond
        self.size += _bytes(cond)
        while self.size > self.limit and len(self._known) > 1:
            self.size -= _bytes(self._known.popitem(last=False)[1])
        return cond


def _bytes(cond: Cond) -> int:
    return sum(v.numel() * v.element_size() for part in (cond.fields, cond.along) for v in part.values())


def open_data(folder: Path | str, text: Text, codec: Codec | None = None) -> LatentData | PromptData:
    """What `vdistill prepare` wrote, latents or prompts. codec: checked against the one that made the latents."""
    remembered = RememberedText(text)
    index = read_json(Path(folder) / "index.json")
    if index.get("kind") != "prompts":
        return LatentData(folder, remembered, codec)
    try:
        return PromptData([str(p) for p in index["prompts"]], tuple(int(n) for n in index["shape"]), remembered)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"is damaged ({error!r})", str(Path(folder) / "index.json"), "prepare it again") from error
