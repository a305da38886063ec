"""A manifest of talking clips: one JSON object a line, each a video (or part of one) with speech and a face.

{"id": "a1", "video": "a.mp4", "audio": "a.wav", "start": 0.0, "end": 9.5, "bbox": [x0, y0, x1, y1] or "track.npz",
 "masks": "a_masks.npz", "image": "face.png", "faces": 1, "quality": "hq" | "mq" | 0.7, "text": "...", "split": "train",
 "speakers": [{"id": "left", "mask": "left.png", "audio": "left.wav"}, ...]}; only id and video are needed.
Files lie under the manifest's folder. "sync", "fps", "sr", "license" and "meta" are for people and not read.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .bad_items import DataError, about
from .paths import inside
from .prompts import read_text

QUALITY = {"hq": 1.0, "mq": 0.0}
KEYS = frozenset(
    "id video audio start end bbox masks image faces quality text split speakers sync fps sr license meta".split()
)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Speaker:
    """One of several people in a picture. mask: where; audio: what this one says, None for the item's own."""

    id: str
    mask: Path | None = None
    audio: Path | None = None


@dataclass(frozen=True)
class TalkItem:
    """A line of the manifest, its files looked up. start, end: seconds since the first frame; box: in pixels as shown,
    or a file with one for every frame; quality: 1 good, 0 poor."""

    id: str
    video: Path
    audio: Path | None = None
    start: float = 0.0
    end: float = math.inf
    box: Box | Path | None = None
    masks: Path | None = None
    image: Path | None = None
    faces: int = 1
    quality: float = 1.0
    text: str = ""
    speakers: tuple[Speaker, ...] = ()
    line: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """All it names."""
        box = self.box if isinstance(self.box, Path) else None
        found = [self.video, self.audio, box, self.masks, self.image]
        found += [path for each in self.speakers for path in (each.mask, each.audio)]
        return tuple(path for path in found if path is not None)


def read_manifest(path: Path, split: str = "") -> list[TalkItem | DataError]:
    """Of every line (of a split, where one is given) the item or what is wrong with it, in order.

    UserError when the file cannot be read or has no line.
    """
    root, seen = path.parent.resolve(), dict[str, int]()
    found: list[TalkItem | DataError] = []
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        where = f"{path.name}:{number}"
        try:
            row = _row(text, where)
            if split and row.get("split", split) != split:
                continue
            name = row["id"]
            if name in seen:
                raise DataError("duplicate", f"id {name!r} is that of line {seen[name]} already", name, where)
            seen[name] = number
            found.append(_item(root, row, where))
        except DataError as error:
            found.append(error)
    if not found:
        raise UserError(f"has no line{f' of split {split!r}' if split else ''}", str(path), "one JSON object a line")
    return found


def _row(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError("manifest", f"not a line of JSON ({error})", "", where) from error
    if not isinstance(row, dict):
        raise DataError("manifest", f"expected an object, found {type(row).__name__}", "", where)
    for key in row:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]!r}?" if near else 'what is yours belongs under "meta"'
            raise DataError("manifest", f"unknown key {key!r}", str(row.get("id", "")), where, hint)
    for key in ("id", "video"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise DataError("manifest", f"{key}: expected text, found {row.get(key)!r}", "", where)
    return row


def _item(root: Path, row: Mapping[str, Any], where: str) -> TalkItem:
    name = row["id"]

    def wrong(key: str, wanted: str) -> DataError:
        return DataError("manifest", f"{key}: expected {wanted}, found {row[key]!r}", name, where)

    def number(key: str, default: float) -> float:
        value = row.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
            raise wrong(key, "a number of seconds, at least 0")
        return float(value)

    start, end, faces = number("start", 0.0), number("end", math.inf), row.get("faces", 1)
    if end <= start:
        raise DataError("manifest", f"ends at {end:g} s, not after its start at {start:g} s", name, where)
    if not isinstance(faces, int) or faces < 1:
        raise wrong("faces", "how many there are")
    if not isinstance(row.get("text", ""), str):
        raise wrong("text", "text")
    if not isinstance(row.get("speakers", []), list):
        raise wrong("speakers", "a list")
    return TalkItem(
        name,
        _file(root, row, "video", name) or root,
        _file(root, row, "audio", name),
        start,
        end,
        _box(root, row, name, where),
        _file(root, row, "masks", name),
        _file(root, row, "image", name),
        faces,
        _quality(row, name, where),
        " ".join(row.get("text", "").split()),
        tuple(_speakers(root, row, where)),
        row,
    )


def _file(root: Path, row: Mapping[str, Any], key: str, id: str) -> Path | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError("manifest", f"{key}: expected a file's name, found {value!r}", id)
    with about("file", id, value):
        return inside(root, value)


def _box(root: Path, row: Mapping[str, Any], id: str, where: str) -> Box | Path | None:
    value = row.get("bbox")
    if value is None or isinstance(value, str):
        return _file(root, row, "bbox", id)
    numbers = isinstance(value, list) and len(value) == 4
    if not numbers or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        raise DataError(
            "box", f"bbox: expected [x0, y0, x1, y1] in pixels or a file's name, found {value!r}", id, where
        )
    x0, y0, x1, y1 = map(float, value)
    return x0, y0, x1, y1


def _quality(row: Mapping[str, Any], id: str, where: str) -> float:
    value = row.get("quality", "hq")
    if isinstance(value, str) and value in QUALITY:
        return QUALITY[value]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError("manifest", f'quality: expected "hq", "mq" or 0 to 1, found {value!r}', id, where)
    return float(value)


def _speakers(root: Path, row: Mapping[str, Any], where: str) -> Iterator[Speaker]:
    for i, each in enumerate(row.get("speakers", [])):
        if not isinstance(each, dict) or not set(each) <= {"id", "mask", "audio"}:
            raise DataError("manifest", f"speakers[{i}]: expected id, mask and audio, found {each!r}", row["id"], where)
        yield Speaker(
            str(each.get("id", i)), _file(root, each, "mask", row["id"]), _file(root, each, "audio", row["id"])
        )
