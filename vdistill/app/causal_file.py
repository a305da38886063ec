"""causal.json in a model folder: how a student that makes a clip block by block was trained to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..causal.layout import Layout, Places
from ..core.errors import UserError
from .convert import CAUSAL_FILE
from .schema_causal import Causal


@dataclass(frozen=True)
class Saved:
    """Counts are latent frames, times noise levels in (0, 1], descending.

    block, window, sink, rope: see `causal.layout.Layout`; first_block: size of the first, if another; times: steps of a
    block, None where any number is taken; first: of the first block, if others; commit: how blocks are remembered, by a
    pass at noise `commit_sigma` ("clean"), or anew for every block from the last ones ("recompute"); rolling: blocks
    denoised jointly; shift, preset: of a public checkpoint.
    """

    block: int = 3
    window: int | None = None
    sink: int = 0
    rope: Places = "absolute"
    first_block: int | None = None
    times: tuple[float, ...] | None = None
    first: tuple[float, ...] | None = None
    commit: str = "clean"
    commit_sigma: float = 0.0
    rolling: int = 1
    shift: float | None = None
    preset: str | None = None

    def layout(self, unit: int = 1) -> Layout:
        """In positions of a network that takes `unit` latent frames for one."""
        return Layout(self.block, self.first_block, self.window, self.sink, self.rope).over(unit)

    def write(self, folder: Path) -> None:
        """Put it into a model folder."""
        (folder / CAUSAL_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")


def saved(causal: Causal, times: tuple[float, ...] | None) -> Saved:
    """What a trained student's folder says."""
    rolling = len(times) if times and causal.rolling else 1
    return Saved(
        causal.block, causal.window, causal.sink, causal.places, causal.first, times, causal.first_times, "clean",
        causal.level, rolling,
    )  # fmt: skip


def of_json(found: Mapping[str, Any]) -> Saved:
    """From plain values; lists are tuples."""
    pairs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Saved(**pairs)


def read_causal(folder: Path) -> Saved | None:
    """What a folder says, None for a student that sees the whole clip. UserError for a damaged file."""
    path = folder / CAUSAL_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        known = {f.name for f in fields(Saved)}
        if unknown := found.keys() - known:
            raise ValueError(f"unknown key {min(unknown)!r}")
        spec = of_json(found)
        spec.layout()
        return spec
    except (ValueError, TypeError, AttributeError, UserError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"is damaged ({first})", str(path), "remove it, or copy the folder again") from error
