"""Text embeddings on disk: what a family's encoders say of every caption, made once, so that training needs no encoder.

Safetensors files, each named by the digest of its bytes, hold "<digest of the caption>.<name>" -> [1, ...] for each
caption; index.json, written last, says which caption lies where and with what all was made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from ..core.checkpoint import digest
from ..core.cond import Cond
from ..core.errors import UserError
from .files import read_json, write_json, write_whole
from .store import same

FOLDER, FORMAT, KIND = "text", 1, "text"
SHARD = 64 << 20  # bytes of embeddings in a file, at least; a kill loses at most so much work
NULL = "null"  # stands where a caption's digest does
OPEN = 64  # files kept open at a time
AGAIN = "run the same `vdistill prepare --text` again"
Parts = Mapping[str, Tensor]


def code(caption: str | None) -> str:
    """The digest of a caption; None is no caption."""
    return NULL if caption is None else hashlib.blake2b(caption.encode(), digest_size=16).hexdigest()


def fingerprint(text: Callable[[Sequence[str]], Cond]) -> list[float]:
    """Sixteen values of one caption's first condition, in units of their deviation: tells encoders apart."""
    flat = next(iter(text(["0"]).fields.values())).flatten().double()  # "0" is a class of those that know classes only
    found = flat[torch.linspace(0, len(flat) - 1, 16).long()]
    return [round(float(v), 4) for v in found / flat.std(correction=0).clamp_min(1e-6)]


class TextWriter:
    """A folder of embeddings being made; what is there already and whole stays."""

    def __init__(self, data: Path, settings: Mapping[str, Any], shard_bytes: int = SHARD) -> None:
        """data: the prepared folder, whose subfolder is written. UserError when it was made with other settings."""
        self.folder, self.settings, self.shard_bytes = data / FOLDER, dict(settings), shard_bytes
        self.dtype: torch.dtype = getattr(torch, self.settings["dtype"])
        self.home: dict[str, list[str]] = {}  # file -> captions, as digests
        self.news: list[str] = []
        self._held: dict[str, Parts] = {}
        self._compare()
        self._take_stock()

    def _compare(self) -> None:
        if not (self.folder / "index.json").exists():
            return
        old = read_json(self.folder / "index.json").get("settings")
        old = old if isinstance(old, dict) else {}
        wrong = [f"{k} {old.get(k)} (now {v})" for k, v in self.settings.items() if not same(old.get(k), v)]
        if wrong:
            hint = "use the same settings, or delete that folder"
            raise UserError(f"was prepared with {', '.join(wrong)}", str(self.folder), hint)

    def _take_stock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".*.tmp"):
            left.unlink()
        for path in sorted(self.folder.glob("*.safetensors")):
            found = _inspect(path)
            if isinstance(found, str):
                self.news.append(f"{FOLDER}/{path.name}: {found}; its captions are encoded again")
                path.unlink()
            else:
                self.home[path.name] = found
        self._index(complete=False)

    def missing(self, captions: Iterable[str | None]) -> list[str | None]:
        """Those that are not there yet, each once, in order."""
        known = {each for codes in self.home.values() for each in codes} | self._held.keys()
        return [c for c in dict.fromkeys(captions) if code(c) not in known]

    def add(self, caption: str | None, parts: Parts) -> None:
        """Take what was said of a caption, name -> [1, ...]; it is on the disk after `flush`.

        UserError for values that are not finite.
        """
        held = {k: v.to("cpu", self.dtype if v.is_floating_point() else None) for k, v in parts.items()}
        if not all(torch.isfinite(v).all() for v in held.values()):
            raise UserError("the text encoder gave values that are not finite", repr(caption), "use another --dtype")
        self._held[code(caption)] = held
        if sum(v.nbytes for each in self._held.values() for v in each.values()) >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is held to a file of its own."""
        if not self._held:
            return
        data = save({f"{c}.{k}": v.contiguous() for c, parts in self._held.items() for k, v in parts.items()})
        name = f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.safetensors"
        write_whole(self.folder / name, data)
        self.home[name] = [*self._held]
        self._held.clear()

    def finish(self) -> int:
        """Write the index. Returns how many captions there are."""
        self.flush()
        self._index(complete=True)
        return len({each for codes in self.home.values() for each in codes} - {NULL})

    def _index(self, *, complete: bool) -> None:
        files = {name: sorted(codes) for name, codes in sorted(self.home.items())} if complete else {}
        index = {"format": FORMAT, "kind": KIND, "complete": complete, "settings": self.settings, "files": files}
        write_json(self.folder / "index.json", index)


def _inspect(path: Path) -> list[str] | str:
    """The captions of a file, as digests, or what is wrong with it."""
    if digest(path) != path.stem:
        return "does not match its digest"
    try:
        with safetensors.safe_open(path, "pt") as handle:
            return [*dict.fromkeys(key.partition(".")[0] for key in handle.keys())]  # noqa: SIM118
    except safetensors.SafetensorError as error:
        return f"is not a file of embeddings ({error})"


class Texts:
    """What `TextWriter` wrote: caption (None: no caption) -> name -> [1, ...], or None for one that is not there."""

    def __init__(self, data: Path | str) -> None:
        """data: the prepared folder. UserError for one that is damaged or not finished."""
        self.folder = Path(data) / FOLDER
        where = self.folder / "index.json"
        index = read_json(where)
        if index.get("format") != FORMAT or index.get("kind") != KIND:
            raise UserError(f"is not an index of text embeddings (format {FORMAT})", str(where), AGAIN)
        if not index.get("complete"):
            raise UserError("was not finished", str(self.folder), AGAIN)
        try:
            self.settings: dict[str, Any] = dict(index["settings"])
            self.home = {str(each): str(file) for file, codes in index["files"].items() for each in codes}
            if any(Path(file).name != file for file in self.home.values()):
                raise ValueError("a file is not beside the index")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"is damaged ({error!r})", str(where), AGAIN) from error
        self._open: dict[str, Any] = {}
        self._checked: set[str] = set()

    def __contains__(self, caption: str | None) -> bool:
        return code(caption) in self.home

    def __call__(self, caption: str | None) -> dict[str, Tensor] | None:
        if caption not in self:
            return None
        each = code(caption)
        handle, names = self._file(self.home[each])
        try:
            return {k.partition(".")[2]: handle.get_tensor(k) for k in names[each]}
        except KeyError as error:
            where = str(self.folder / self.home[each])
            raise UserError(f"lacks the caption {caption!r} that its index promises", where, AGAIN) from error

    def check(self, settings: Mapping[str, Any]) -> None:
        """UserError when the embeddings were made with other settings; the type on disk may differ."""
        wrong = [k for k, v in settings.items() if k != "dtype" and not same(self.settings.get(k), v)]
        if wrong:
            told = ", ".join("by another text encoder" if k == "probe" else f"with another {k}" for k in wrong)
            raise UserError(f"was prepared {told}", str(self.folder), f"delete it, and {AGAIN} for this family")

    def _file(self, name: str) -> tuple[Any, dict[str, list[str]]]:
        """An open file and the keys of each caption in it."""
        if name not in self._open:
            path = self.folder / name
            if not path.is_file():
                raise UserError("text embeddings are missing", str(path), AGAIN)
            found = _inspect(path) if name not in self._checked else []
            if isinstance(found, str):
                raise UserError(found, str(path), AGAIN)
            self._checked.add(name)
            handle = safetensors.safe_open(path, "pt")
            names: dict[str, list[str]] = {}
            for key in handle.keys():  # noqa: SIM118
                names.setdefault(key.partition(".")[0], []).append(key)
            self._open[name] = handle, names
            if len(self._open) > OPEN:
                self._open.pop(next(iter(self._open)))
        return self._open[name]  # type: ignore[no-any-return]
