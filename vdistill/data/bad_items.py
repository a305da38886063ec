"""What becomes of items of a data set that cannot be used: refused at once, or skipped, counted, listed, up to a share.

Nothing is put in their place, and nothing is tried twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ..core.errors import BadMedia, UserError
from .files import write_whole

T = TypeVar("T")
LIST = "bad_items.jsonl"


class DataError(BadMedia):
    """An item that cannot be used. kind: the line of the policy it falls under; id: the item's; path: of a file."""

    def __init__(self, kind: str, what: str, id: str = "", path: str = "", hint: str = "") -> None:
        self.kind, self.id, self.path = kind, id, path
        named = f" ({path})" if path and path != id else ""
        super().__init__(what, f"item {id}{named}" if id else path, hint)


@contextmanager
def about(kind: str, id: str, path: str) -> Iterator[None]:
    """What is said of a file inside becomes a DataError of this kind."""
    try:
        yield
    except DataError:
        raise
    except BadMedia as error:
        raise DataError(kind, error.what, id, path, error.hint) from error


@dataclass(frozen=True)
class Policy:
    """mode: "strict" raises for the first bad item; "skip" goes on until more than `max_bad` of all items are bad."""

    mode: Literal["strict", "skip"] = "skip"
    max_bad: float = 0.05

    def __post_init__(self) -> None:
        if self.mode not in ("strict", "skip") or not 0 <= self.max_bad <= 1:
            raise UserError(f"policy {self.mode!r}, {self.max_bad}", "data", "strict or skip, and a share from 0 to 1")


def sift(
    found: Iterable[T | DataError],
    total: int,
    policy: Policy,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> tuple[list[T], list[DataError]]:
    """(those that are fine, those that are not), in order. found: of each of `total` items what was made or its error.

    Bad ones are listed in `out`/bad_items.jsonl. UserError when there are too many, or nothing is left; in strict mode
    the first of them.
    """
    good: list[T] = []
    bad: list[DataError] = []
    _list(out, bad)
    for each in found:
        if not isinstance(each, DataError):
            good.append(each)
            continue
        bad.append(each)
        _list(out, bad)
        if policy.mode == "strict":
            raise each
        say(f"skipped {each}")
        if len(bad) > policy.max_bad * total:
            what = f"{len(bad)} of {total} items are bad ({counted(bad)}), more than {policy.max_bad:.0%}"
            raise UserError(f"{what}; the first: {bad[0]}", str(out or ""), "mend or remove them, or allow more")
    if not good:
        raise UserError(f"none of {total} items could be used", str(out or ""), counted(bad))
    return good, bad


def counted(bad: Iterable[DataError]) -> str:
    """ "2 audio, 1 box": how many of each kind."""
    return ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(error.kind for error in bad).items()))


def _list(out: Path | None, bad: list[DataError]) -> None:
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"id": e.id, "path": e.path, "kind": e.kind, "reason": e.what, "hint": e.hint} for e in bad]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(out / LIST, text.encode("utf-8", "backslashreplace"))
