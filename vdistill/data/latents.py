"""Prepared latents as training data: safetensors shards under an index, each shard checked when first touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..core.checkpoint import digest
from ..core.codec import Codec
from ..core.cond import Cond
from ..core.errors import UserError
from ..core.step import Batch
from .buckets import Bucket
from .files import read_json
from .store import FORMAT, same

OPEN = 64  # shards kept open at a time


@dataclass(frozen=True)
class Clip:
    """Where a clip's latents lie (shard file, row) and what is known of it."""

    file: str
    row: int
    key: str
    caption: str


def fingerprint(codec: Codec, frames: int, bucket: Bucket, device: str = "cpu") -> list[float]:
    """Sixteen latent values of a fixed clip: tells one codec's latents from another's."""
    t, h, w = (torch.arange(n, dtype=torch.float32) for n in (frames, bucket.height, bucket.width))
    wave = torch.sin(0.7 * t)[:, None, None] + torch.sin(0.31 * h)[:, None] + torch.sin(0.17 * w)
    pixels = torch.stack([wave / 3, wave.flip(1) / 3, wave.flip(2) / 3])[None].clamp(-1, 1)
    flat = codec.encode(pixels.to(device)).float().flatten().cpu()
    return [round(float(v), 4) for v in flat[torch.linspace(0, len(flat) - 1, 16).long()]]


class LatentData:
    """What `vdistill prepare` wrote. `batch(indices)` -> Batch of latents with the conditions `text` makes of captions.

    Clips are sorted by shape, `groups` counts the clips of each; one batch takes indices of one group only (data.order
    does). fields: names of stored conditions of the first frames. codec: when given,
    compared with the one that made the latents.
    """

    def __init__(self, folder: Path | str, text: Callable[[Sequence[str]], Cond], codec: Codec | None = None) -> None:
        self.folder, self.text = Path(folder), text
        where = self.folder / "index.json"
        index = read_json(where)
        if index.get("format") != FORMAT or index.get("kind") != "latents":
            raise UserError(f"is not an index of latents (format {FORMAT})", str(where), "run `vdistill prepare`")
        if not index.get("complete"):
            raise UserError("was not finished", str(self.folder), "run the same `vdistill prepare` again")
        try:
            self.settings: dict[str, Any] = index["settings"]
            self.fields = tuple(str(name) for name in self.settings.get("fields", ()))
            self.clips, self.groups, self.shapes = _clips(index["shards"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"is damaged ({error!r})", str(where), "run `vdistill prepare` again") from error
        if not self.clips:
            raise UserError("holds no clip", str(self.folder))
        counts = Counter(c.file for c in self.clips)
        shape_of = {str(s["file"]): tuple(s["shape"]) for s in index["shards"]}
        self._expected = {file: (n, *shape_of[file]) for file, n in counts.items()}
        self._open: dict[str, Any] = {}
        self._checked: set[str] = set()
        if codec is not None:
            self._check_codec(codec)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def shape(self) -> tuple[int, ...]:
        """[C, T, H, W] of the largest group."""
        return self.shapes[max(range(len(self.groups)), key=lambda g: self.groups[g])]

    def captions(self) -> tuple[str, ...]:
        return tuple(c.caption for c in self.clips)

    def batch(self, indices: Sequence[int]) -> Batch:
        clips = [self.clips[i] for i in indices]
        x = torch.stack([self._row(c).float() for c in clips])
        cond = self.text([c.caption for c in clips])
        for name in self.fields:
            cond = cond.with_field(name, torch.stack([_floats(self._row(c, name)) for c in clips]))
        return Batch(x, cond, keys=tuple(c.key for c in clips))

    def _row(self, clip: Clip, name: str = "x") -> Tensor:
        if clip.file not in self._open:
            self._open[clip.file] = self._shard(clip.file)
            if len(self._open) > OPEN:
                self._open.pop(next(iter(self._open)))
        return self._open[clip.file][name][clip.row]  # type: ignore[no-any-return]

    def _shard(self, file: str) -> dict[str, Any]:
        """Name -> rows of an opened file."""
        path = self.folder / "latents" / file
        hint = "run the same `vdistill prepare` again: it makes the clips of this shard anew"
        if not path.is_file():
            raise UserError("shard is missing", str(path), hint)
        if file not in self._checked and digest(path) != path.stem:
            raise UserError("shard does not match its digest: damaged or edited", str(path), hint)
        self._checked.add(file)
        try:
            handle = safetensors.safe_open(path, "pt")
            rows = {name: handle.get_slice(name) for name in ("x", *self.fields)}
            found, lengths = tuple(rows["x"].get_shape()), {r.get_shape()[0] for r in rows.values()}
        except safetensors.SafetensorError as error:
            raise UserError(f"is not a file of latents ({error})", str(path), hint) from error
        if found != self._expected[file] or len(lengths) > 1:
            raise UserError(f"has shape {found}, the index says {self._expected[file]}", str(path), hint)
        return rows

    def _check_codec(self, codec: Codec) -> None:
        try:
            width, height = (int(s) for s in self.settings["buckets"][0].split("x"))
            found = fingerprint(codec, int(self.settings["frames"]), Bucket(width, height))
            fits = same(self.settings["probe"], found)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            where = str(self.folder / "index.json")
            raise UserError(f"its settings are damaged ({error!r})", where, "run `vdistill prepare` again") from error
        if not fits:
            raise UserError("its latents were made by another codec", str(self.folder), "prepare with this family")


def _clips(shards: Sequence[dict[str, Any]]) -> tuple[list[Clip], tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Clips sorted by shape, how many each shape has, and the shapes."""
    grouped: dict[tuple[int, ...], list[Clip]] = {}
    for shard in shards:
        file = str(shard["file"])
        if Path(file).name != file:
            raise ValueError(f"shard {file!r} is not beside the index")
        group = grouped.setdefault(tuple(int(n) for n in shard["shape"]), [])
        for row, clip in enumerate(shard["clips"]):
            group.append(Clip(file, row, f"{clip['source']}@{float(clip['start']):.3f}", str(clip["caption"])))
    shapes = tuple(sorted(grouped))
    return [c for s in shapes for c in grouped[s]], tuple(len(grouped[s]) for s in shapes), shapes


def _floats(value: Tensor) -> Tensor:
    """Floating-point values as float32, all others as they are."""
    return value.float() if value.is_floating_point() else value
