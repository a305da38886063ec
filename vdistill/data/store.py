"""Where `prepare` keeps latents: content-addressed safetensors files that say themselves whose clips they hold.

Each finished source becomes one file at once, so a kill loses at most the source in hand; small files of one shape are
merged into shards on the way. A file is named by the digest of its bytes; index.json, written last, is what training
reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from ..core.checkpoint import digest
from ..core.errors import UserError
from .files import read_json, write_json, write_whole

FORMAT = 1
SHARD = 64 << 20  # bytes; files of at least this size are left as they are


class Mark(NamedTuple):
    """One clip: which source, the digest of that source, and its first frame's time in seconds."""

    source: str
    digest: str
    start: float


class Store:
    """A folder of latents being made. Sources must come in the same order on every run (`add` or `keep` each)."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], shard_bytes: int = SHARD) -> None:
        """UserError when the folder was made with other settings; files are scanned by `begin`."""
        self.folder, self.settings, self.shard_bytes = folder, dict(settings), shard_bytes
        self.latents = folder / "latents"
        self.marks: dict[str, list[Mark]] = {}  # file -> its clips, in order
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.home: dict[str, str] = {}  # source -> file
        self.small: dict[tuple[int, ...], list[str]] = {}  # files to merge, in the order of their sources
        self._compare()

    def _compare(self) -> None:
        if not (self.folder / "index.json").exists():
            return
        index = read_json(self.folder / "index.json")
        old = index.get("settings", {}) if index.get("kind") == "latents" else {}
        now = {k: self.settings.get(k) for k in {**self.settings, **old}}
        wrong = [f"{k} {old.get(k)} (now {v})" for k, v in now.items() if not same(old.get(k), v)]
        if wrong:
            raise UserError(
                f"was prepared with {', '.join(wrong)}", str(self.folder), "use the same settings or another --out"
            )

    def begin(self, now: Callable[[str], str | None]) -> list[str]:
        """Take stock. now: source -> its digest today, None when it is gone; asked of sources already done only.

        Returns a line on everything damaged or dropped. UserError when all sources are gone: it is another data set's.
        """
        self.latents.mkdir(parents=True, exist_ok=True)
        for left in self.latents.glob(".*.tmp"):
            left.unlink()
        news, seen, stale = [], set[Mark](), []
        files = []
        for path in sorted(self.latents.glob("*.safetensors")):
            found = _inspect(path)
            if isinstance(found, str):
                news.append(f"latents/{path.name}: {found}; its clips are made again")
                path.unlink()
            else:
                files.append((path, *found))
        known = dict.fromkeys(m.source for _, marks, _ in files for m in marks)
        wanted = {source: now(source) for source in known}
        if known and not any(wanted.values()):
            what = f"holds {len(known)} other sources and none of these"
            raise UserError(what, str(self.folder), "choose another --out")
        for path, marks, shape in sorted(files, key=lambda f: (-len(f[1]), f[0].name)):
            if seen.issuperset(marks):  # merged, then killed before the parts were removed
                path.unlink()
            elif any(wanted[m.source] != m.digest for m in marks):
                stale.append(path)
            else:
                self._note(path.name, marks, shape)
            seen.update(marks)
        write_json(self.folder / "index.json", self._index(complete=False, shards=[]))
        for path in stale:
            news.append(self._salvage(path, wanted))
        return news

    def _salvage(self, path: Path, wanted: Mapping[str, str | None]) -> str:
        """Keep the clips of sources that have not changed, each source a file of its own."""
        marks, tensors = _read(path)
        gone = sorted({m.source for m in marks if wanted[m.source] != m.digest})
        for source in dict.fromkeys(m.source for m in marks):
            rows = [i for i, m in enumerate(marks) if m.source == source]
            if source not in gone:
                self._write([marks[i] for i in rows], {k: v[rows] for k, v in tensors.items()})
        path.unlink()
        return f"dropped {', '.join(gone[:5])}{' ...' if len(gone) > 5 else ''}: changed or no longer there"

    def has(self, source: str) -> bool:
        return source in self.home

    def keep(self, source: str) -> None:
        """The source is done already."""
        self._queue(self.home[source])

    def add(self, source: str, code: str, starts: Sequence[float], tensors: Mapping[str, Tensor]) -> None:
        """Write a source's clips, "x" [N, C, T, H, W] and conditions [N, ...]; on the disk when this returns."""
        self._queue(self._write([Mark(source, code, s) for s in starts], tensors))

    def _write(self, marks: list[Mark], tensors: Mapping[str, Tensor]) -> str:
        x, whole = tensors["x"], {k: v.contiguous() for k, v in tensors.items()}
        data = save(whole, metadata={"clips": json.dumps(marks, ensure_ascii=False)})
        name = f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.safetensors"
        write_whole(self.latents / name, data)
        self._note(name, marks, tuple(x.shape[1:]))
        return name

    def _note(self, name: str, marks: list[Mark], shape: tuple[int, ...]) -> None:
        self.marks[name], self.shapes[name] = marks, shape
        self.home |= {m.source: name for m in marks}

    def _queue(self, name: str) -> None:
        queue = self.small.setdefault(self.shapes[name], [])
        if name in queue or self._bytes(name) >= self.shard_bytes:
            return
        queue.append(name)
        if sum(map(self._bytes, queue)) >= self.shard_bytes:
            self._merge(queue)

    def _bytes(self, name: str) -> int:
        return (self.latents / name).stat().st_size

    def _merge(self, queue: list[str]) -> None:
        """One file out of several; they go when it is there."""
        parts, names = [_read(self.latents / n) for n in queue], list(queue)
        queue.clear()
        if len(parts) > 1:
            joined = {k: torch.cat([tensors[k] for _, tensors in parts]) for k in parts[0][1]}
            self._write([m for marks, _ in parts for m in marks], joined)
            for name in names:
                (self.latents / name).unlink()
                del self.marks[name], self.shapes[name]

    def finish(self, captions: Mapping[str, str]) -> int:
        """Merge what is left and write the index; captions: source -> caption, in order. Returns how many clips."""
        for queue in self.small.values():
            self._merge(queue)
        place = {source: i for i, source in enumerate(captions)}
        names = sorted(self.marks, key=lambda n: (self.shapes[n], place[self.marks[n][0].source]))
        shards = [
            {
                "file": name,
                "shape": list(self.shapes[name]),
                "clips": [{**m._asdict(), "caption": captions[m.source]} for m in self.marks[name]],
            }
            for name in names
        ]
        write_json(self.folder / "index.json", self._index(complete=True, shards=shards))
        return sum(map(len, self.marks.values()))

    def _index(self, *, complete: bool, shards: list[dict[str, Any]]) -> dict[str, Any]:
        return {"format": FORMAT, "kind": "latents", "complete": complete, "settings": self.settings, "shards": shards}


def same(old: Any, new: Any) -> bool:
    """Equal; lists of numbers to two digits, because a codec's answer differs a little between devices."""
    if isinstance(new, list) and isinstance(old, list) and all(isinstance(v, float) for v in [*old, *new]):
        return len(old) == len(new) and all(abs(a - b) <= 0.05 + 0.05 * abs(b) for a, b in zip(old, new, strict=True))
    return bool(old == new)


def _read(path: Path) -> tuple[list[Mark], dict[str, Tensor]]:
    tensors = load(path.read_bytes())
    with safetensors.safe_open(path, "pt") as handle:
        marks = [Mark(*m) for m in json.loads(handle.metadata()["clips"])]
    return marks, tensors


def _inspect(path: Path) -> tuple[list[Mark], tuple[int, ...]] | str:
    """The clips and shape of a file of latents, or what is wrong with it."""
    if digest(path) != path.stem:
        return "does not match its digest"
    try:
        with safetensors.safe_open(path, "pt") as handle:
            shape = handle.get_slice("x").get_shape()
            marks = [Mark(*m) for m in json.loads(handle.metadata()["clips"])]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        return f"is not a file of latents ({error})"
    return (marks, tuple(shape[1:])) if len(marks) == shape[0] else "has clips without marks"
