"""A bank of trajectories on disk: states of many samples at fixed times, with their conditions, in safetensors shards.

A shard is written aside, flushed and renamed; then index.json, likewise. So a kill at any moment leaves a whole bank of
the shards before it, and a writer opened again goes on behind them. Reading maps the files into memory.

Several writers share a bank by parts: folders "part-*" inside it, each a bank of its own whose shards bear the numbers
they have in the whole. Reading takes the shards of all parts in the order of their numbers.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import digest, io_error
from .cond import Cond
from .errors import UserError
from .rng import Rng

INDEX, FORMAT = "index.json", 1
SHARD = re.compile(r"shard-\d{5,9}\.safetensors")
AGAIN = "delete the bank and make it again"
REPAIR = "delete that file and run the command that made the bank again"
TEXTS = "texts"  # key in the metadata of a shard


@dataclass(frozen=True)
class Shard:
    """One file of the bank: its name, how many trajectories, bytes, digest; folder: where it lies."""

    file: str
    count: int
    size: int
    digest: str
    folder: Path = Path()

    @property
    def path(self) -> Path:
        return self.folder / self.file

    @property
    def number(self) -> int:
        """Its place in the whole bank."""
        return int(re.sub(r"\D", "", self.file))

    @property
    def damage(self) -> str:
        """What is wrong with its size, or an empty string."""
        size = self.path.stat().st_size if self.path.is_file() else None
        return "" if size == self.size else "is missing" if size is None else f"has {size} bytes, expected {self.size}"


def part(folder: Path, number: int) -> Path:
    """Where writer `number` of several keeps its shards of the bank in `folder`."""
    return folder / f"part-{number:05d}"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _settle(path: Path, scratch: Path) -> None:
    """Flush a file written aside, put it in its place, and make the rename last."""
    _flush(scratch)
    scratch.replace(path)
    _flush(path.parent)


def _keyed(states: Tensor, cond: Cond) -> dict[str, Tensor]:
    groups = {"fields": cond.fields, "along": cond.along, "null": cond.null}
    named = {f"{group}/{name}": v for group, values in groups.items() for name, v in values.items()}
    return {k: v.detach().cpu().contiguous() for k, v in {"states": states, **named}.items()}


def _index(folder: Path) -> tuple[tuple[float, ...], tuple[Shard, ...]]:
    """(times, shards) of a bank. UserError for an index that is missing, broken, or names files it should not."""
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_text())
        times = tuple(float(t) for t in found["times"])
        shards = tuple(Shard(str(f), int(n), int(size), str(code), folder) for f, n, size, code in found["shards"])
        known = found["format"] == FORMAT
    except OSError as error:
        raise UserError(f"not a trajectory bank: no readable {INDEX}", str(folder)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError("the index of the bank is damaged", str(folder / INDEX), AGAIN) from error
    if not known:
        raise UserError(f"the bank has format {found['format']!r}, this version reads {FORMAT}", str(folder / INDEX))
    odd = [shard.file for shard in shards if not SHARD.fullmatch(shard.file) or shard.count < 1]
    if odd or not times:
        raise UserError(f"the index of the bank is damaged {odd[:1]}", str(folder / INDEX), AGAIN)
    return times, shards


def written(folder: Path) -> tuple[tuple[float, ...], dict[int, Shard]]:
    """(times, number -> shard) of a bank and its parts so far; () where nothing is written yet.

    Of several copies of a shard the whole one with most trajectories counts. UserError for a damaged index.
    """
    times: tuple[float, ...] = ()
    best: dict[int, Shard] = {}
    for place in (folder, *sorted(folder.glob("part-*"))):
        if not (place / INDEX).exists():
            continue
        found, shards = _index(place)
        if times and found != times:
            raise UserError(f"has times {list(found)}, another part {list(times)}", str(place), AGAIN)
        times = found
        for shard in shards:
            known = best.get(shard.number)
            if known is None or (not shard.damage, shard.count) > (not known.damage, known.count):
                best[shard.number] = shard
    return times, dict(sorted(best.items()))


class BankWriter:
    """Appends trajectories to a bank. times: of the states, descending in [0, 1]; (1, 0) makes a bank of pairs.

    `count` says how many are there already, so a writer killed half way goes on where it stopped. UserError for times
    that do not descend or are not those of the bank in `folder`.
    """

    def __init__(self, folder: Path, times: Sequence[float]) -> None:
        self.folder, self.times = folder, tuple(float(t) for t in times)
        if len(self.times) < 2 or any(a <= b for a, b in pairwise((*self.times, -1e-9))) or self.times[0] > 1:
            raise UserError(f"bank times must be two or more descending in [0, 1], found {list(self.times)}", "bank")
        self.shards: tuple[Shard, ...] = ()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".tmp-*"):
            leftover.unlink()
        if (folder / INDEX).exists():
            times_there, self.shards = _index(folder)
            if times_there != self.times:
                raise UserError(
                    f"the bank has times {list(times_there)}, asked for {list(self.times)}", str(folder), AGAIN
                )

    @property
    def count(self) -> int:
        return sum(shard.count for shard in self.shards)

    def add(self, states: Tensor, cond: Cond, number: int | None = None, texts: Sequence[str] = ()) -> None:
        """Write one shard. states: [n, K, C, T, ...], K = number of times; cond: of those n; number: its place in the
        whole bank, the next one when left out, and a shard that had it is replaced; texts: what each was made from.

        OSError (disk full) passes through and leaves the bank as it was, but for a shard to be replaced.
        """
        if states.ndim < 3 or states.shape[1] != len(self.times) or not len(states):
            raise ValueError(f"states must be [n, {len(self.times)}, ...], found {tuple(states.shape)}")
        if number is None:
            number = 1 + max((shard.number for shard in self.shards), default=-1)
        others = tuple(shard for shard in self.shards if shard.number != number)
        if others != self.shards:
            self._publish(others)
        path = self.folder / f"shard-{number:05d}.safetensors"
        scratch = self.folder / f".tmp-{path.name}"
        try:
            save_file(_keyed(states, cond), scratch, {TEXTS: json.dumps([*texts])} if texts else None)
            shard = Shard(path.name, len(states), scratch.stat().st_size, digest(scratch), self.folder)
            _settle(path, scratch)
            self._publish((*self.shards, shard))
        except safetensors.SafetensorError as error:  # its I/O errors are not OSErrors
            raise io_error(error, path) from error
        finally:
            scratch.unlink(missing_ok=True)

    def _publish(self, shards: tuple[Shard, ...]) -> None:
        rows = [[s.file, s.count, s.size, s.digest] for s in shards]
        scratch = self.folder / f".tmp-{INDEX}"
        try:
            scratch.write_text(json.dumps({"format": FORMAT, "times": list(self.times), "shards": rows}, indent=1))
            _settle(self.folder / INDEX, scratch)
        finally:
            scratch.unlink(missing_ok=True)
        self.shards = shards


@dataclass(frozen=True)
class Bank:
    """A bank opened for reading. Sizes are checked at opening, each shard's digest when it is first read."""

    folder: Path
    times: tuple[float, ...]
    shards: tuple[Shard, ...]
    _ends: tuple[int, ...] = ()
    _checked: set[Path] = field(default_factory=set, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Bank:
        """UserError, naming the file, for a bank that is missing, empty or not whole."""
        times, found = written(folder)
        if not times:
            raise UserError(f"not a trajectory bank: no {INDEX}", str(folder), "make one with `vdistill bank`")
        shards = tuple(found.values())
        if not shards:
            raise UserError("the bank is empty", str(folder), "write trajectories to it first")
        for shard in shards:
            if shard.damage:
                raise UserError(f"shard {shard.damage}", str(shard.path), REPAIR)
        return cls(folder, times, shards, tuple(accumulate(shard.count for shard in shards)))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Cond]:
        """(states [n, K, C, T, ...], cond) of the given trajectories, in their order, on the CPU.

        UserError, naming the shard, when its content is not what was written.
        """
        rows: list[dict[str, Tensor]] = [{} for _ in indices]
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"trajectory {index} of {len(self)}")
            places.setdefault(bisect_right(self._ends, index), []).append(place)
        null: Mapping[str, Tensor] = {}
        for number, wanted in places.items():
            shard = self.shards[number]
            first = self._ends[number] - shard.count
            with safe_open(self._sound(shard), "pt") as file:
                names = [str(name) for name in file.keys()]  # noqa: SIM118
                null = {n.removeprefix("null/"): file.get_tensor(n) for n in names if n.startswith("null/")}
                for name in names:
                    if name.startswith("null/"):
                        continue
                    view = file.get_slice(name)
                    for place in wanted:
                        rows[place][name] = view[indices[place] - first]
        whole = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

        def group(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): v for name, v in whole.items() if name.startswith(prefix)}

        return whole["states"], Cond(group("fields/"), group("along/"), null)

    def draw(self, rng: Rng, n: int, name: str = "bank") -> tuple[Tensor, Cond]:
        """n trajectories, drawn with replacement by the named draw."""
        return self.read([int(i) for i in rng.integers(name, (n,), len(self))])

    def texts(self) -> tuple[str, ...]:
        """What every trajectory was made from, in order; empty where that was not written."""
        found: list[str] = []
        for shard in self.shards:
            with safe_open(shard.path, "pt") as file:
                found += json.loads((file.metadata() or {}).get(TEXTS, "[]"))
        return tuple(found) if len(found) == len(self) else ()

    def _sound(self, shard: Shard) -> Path:
        path = shard.path
        if path not in self._checked:
            try:
                sound = digest(path) == shard.digest
            except OSError as error:
                raise UserError(f"shard cannot be read ({error.strerror})", str(path), AGAIN) from error
            if not sound:
                raise UserError("shard does not match its digest", str(path), REPAIR)
            self._checked.add(path)
        return path
