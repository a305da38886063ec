"""A run folder has one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import UserError

LOCK = ".lock"


def as_folder(out: Path) -> None:
    """UserError when a file stands where a folder is to be written."""
    for place in (out, *out.parents):
        if place.exists():
            if not place.is_dir():
                raise UserError("expected a folder, found a file", str(place), "use another --out")
            return


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Make the folder and hold its lock; a killed holder lets go by itself. UserError when another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has none; there two runs in one folder are not noticed
        yield
        return
    as_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError("another run is at work in this folder", str(out), "use another --out") from error
        yield
