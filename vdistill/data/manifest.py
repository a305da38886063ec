"""What a user's data set consists of: media files with captions, in a fixed order, and what was refused and why."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import BadMedia, UserError
from .paths import inside
from .prompts import LONGEST, clean, read_prompts, read_text

VIDEOS = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .flv .wmv .ogv .3gp .gif".split())
IMAGES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff".split())
FILE_KEYS = ("file_name", "file", "video", "path", "image")
TEXT_KEYS = ("text", "caption", "prompt")
MANIFESTS = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Item:
    """One media file. key: its path under the root, with slashes; still: an image, a clip of one frame."""

    key: str
    path: Path
    caption: str
    still: bool = False


@dataclass(frozen=True)
class Listing:
    """items, in order; refused: (key, reason) of what cannot be used; ignored: suffix -> files passed over;
    prompts: captions without media (then there are no items)."""

    root: Path
    items: tuple[Item, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items) + len(self.refused)


@dataclass(frozen=True)
class Row:
    """What a manifest says of one clip, unchecked; caption None: it says nothing."""

    name: str
    caption: str | None
    where: str


def scan(source: Path, *, images: bool = False, caption: str | None = None, without: Path | None = None) -> Listing:
    """List a folder, a manifest (.jsonl, .csv) or a prompt file (.txt).

    images: take images too; caption: for files that come with none; without: a folder to leave out (the output).
    UserError when there is nothing to list or a manifest cannot be read.
    """
    if source.is_dir():
        listing = _folder(source.resolve(), images, caption, without)
    elif source.suffix in (".jsonl", ".csv"):
        listing = _manifest(source, images, caption)
    elif source.suffix == ".txt" and source.is_file():
        listing = Listing(source.parent.resolve(), prompts=read_prompts(source))
    elif not source.exists():
        raise UserError("no such folder or file", str(source))
    else:
        raise UserError("expected a folder, a .jsonl or .csv manifest, or a .txt file of prompts", str(source))
    if not len(listing) and not listing.prompts:
        stills = sum(n for s, n in listing.ignored.items() if s in IMAGES)
        hint = f"it has {stills} images: --images takes them" if stills else f"known: {' '.join(sorted(VIDEOS))}"
        raise UserError("no video found", str(source), hint)
    return listing


def _folder(root: Path, images: bool, caption: str | None, without: Path | None) -> Listing:
    found = [root / name for name in MANIFESTS if (root / name).is_file()]
    if len(found) > 1:
        raise UserError(f"has both {' and '.join(MANIFESTS)}", str(root), "name the one that counts")
    if found:
        return _manifest(found[0], images, caption)
    if (root / "prompts.txt").is_file() and (root / "videos.txt").is_file():
        return _gather(root, _paired(root), images, caption)
    listing = _gather(root, _walk(root, without), images, caption)
    if not len(listing) and (root / "prompts.txt").is_file():
        return Listing(root, prompts=read_prompts(root / "prompts.txt"))
    return listing


def _manifest(path: Path, images: bool, caption: str | None) -> Listing:
    text, root = read_text(path), path.parent.resolve()
    rows = list(_json_rows(path, text) if path.suffix == ".jsonl" else _csv_rows(path, text))
    named = [r for r in rows if r.name]
    if rows and not named and all(r.caption for r in rows):
        return Listing(root, prompts=tuple(clean(r.caption or "") for r in rows))
    return _gather(root, rows, images, caption)


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"not a line of JSON ({error})", where) from error
        if not isinstance(row, dict):
            raise UserError(f"expected an object, found {type(row).__name__}", where)
        yield _row(row, where)


def _csv_rows(path: Path, text: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = reader.fieldnames or ()
        if not any(k in columns for k in FILE_KEYS + TEXT_KEYS):
            raise UserError(
                f"columns are {', '.join(columns) or 'none'}",
                f"{path}:1",
                f"expected one of {', '.join(FILE_KEYS)} and one of {', '.join(TEXT_KEYS)}",
            )
        for row in reader:
            yield _row(row, f"{path}:{reader.line_num}")
    except csv.Error as error:
        raise UserError(f"not CSV ({error})", f"{path}:{reader.line_num}") from error


def _row(row: Mapping[str, object], where: str) -> Row:
    values: list[str | None] = []
    for keys in (FILE_KEYS, TEXT_KEYS):
        value = next((row[k] for k in keys if row.get(k) is not None), None)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{'/'.join(keys)}: expected text, found {type(value).__name__}", where)
        values.append(value)
    if values[0] is None and values[1] is None:
        raise UserError(
            f"keys are {', '.join(map(str, row)) or 'none'}",
            where,
            f"expected one of {', '.join(FILE_KEYS)} and one of {', '.join(TEXT_KEYS)}",
        )
    return Row(values[0] or "", values[1], where)


def _paired(root: Path) -> list[Row]:
    names, captions = (read_text(root / n).splitlines() for n in ("videos.txt", "prompts.txt"))
    if len(names) != len(captions):
        raise UserError(f"videos.txt has {len(names)} lines, prompts.txt {len(captions)}", str(root))
    pairs = enumerate(zip(names, captions, strict=True), 1)
    return [Row(n.strip(), c, f"videos.txt:{i}") for i, (n, c) in pairs if n.strip() or c.strip()]


def _walk(root: Path, without: Path | None) -> list[Row]:
    """Every file below root but hidden ones, sorted; a linked folder is named, not entered."""
    rows, left_out = [], without.resolve() if without else None
    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        links = [s for s in subfolders if (here / s).is_symlink()]
        subfolders[:] = [
            s for s in subfolders if s not in links and not s.startswith(".") and (here / s).resolve() != left_out
        ]
        names = [*files, *links]
        rows += [Row((here / n).relative_to(root).as_posix(), None, "") for n in names if not n.startswith(".")]
    return sorted(rows, key=lambda r: r.name)


def _gather(root: Path, rows: list[Row], images: bool, caption: str | None) -> Listing:
    items: list[Item] = []
    refused: list[tuple[str, str]] = []
    ignored: Counter[str] = Counter()
    seen: dict[Path, str] = {}
    for row in rows:
        suffix = Path(row.name).suffix.lower()
        walked = not row.where
        if walked and not (root / row.name).is_dir() and suffix not in VIDEOS and not (images and suffix in IMAGES):
            ignored[suffix] += suffix != ".txt"
            continue
        try:
            item = _item(root, row, images, caption)
            if item.path in seen and not walked:
                raise BadMedia(f"listed twice, first as {seen[item.path]}", repr(row.name))
            seen[item.path] = row.where or item.key
            items.append(item)
        except BadMedia as error:
            refused.append((row.name, f"{error.what}{f'; {error.hint}' if error.hint else ''}"))
    return Listing(root, tuple(items), tuple(refused), {s: n for s, n in sorted(ignored.items()) if n})


def _item(root: Path, row: Row, images: bool, caption: str | None) -> Item:
    # A walked name comes from the disk, not from a writer: "./" keeps a colon in it from reading as a protocol.
    path = inside(root, row.name if row.where else f"./{row.name}")
    suffix = path.suffix.lower()
    if suffix not in VIDEOS and suffix not in IMAGES:
        raise BadMedia(f"suffix {suffix or 'none'} is neither a video's nor an image's", repr(row.name))
    if suffix in IMAGES and not images:
        raise BadMedia("is an image", repr(row.name), "--images takes images as clips of one frame")
    said = row.caption if row.caption is not None else _sidecar(root, row.name)
    text = clean(said or "") or clean(caption or "")
    if not text:
        raise BadMedia("has no caption", repr(row.name), "write it beside the file as .txt, or give --caption")
    if "\0" in text or len(text) > LONGEST:
        raise BadMedia("its caption is not usable text", repr(row.name))
    return Item(Path(row.name).as_posix(), path, text, suffix in IMAGES)


def _sidecar(root: Path, name: str) -> str | None:
    """The caption beside clip.mp4: clip.txt or clip.mp4.txt, under the same rules of place as the clip itself."""
    for beside in (str(Path(name).with_suffix(".txt")), f"{name}.txt"):
        if os.path.lexists(root / beside):
            try:
                return read_text(inside(root, f"./{beside}"), LONGEST)
            except UserError as error:
                raise BadMedia(f"caption file: {error.what}", repr(name)) from error
    return None
