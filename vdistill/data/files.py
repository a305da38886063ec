"""Files that are whole or absent, and folders with one writer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..core.errors import UserError


def write_whole(path: Path, data: bytes) -> None:
    """Written aside, flushed, renamed: a kill or a full disk leaves the old file or the new one."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        aside.replace(path)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise UserError(
            f"cannot be written ({error.strerror}; {free} bytes free)", str(path), "what was done before stays"
        ) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, ensure_ascii=False).encode())


def read_json(path: Path) -> dict[str, Any]:
    """UserError unless it holds one JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError("no such file", str(path), "make it with `vdistill prepare`") from error
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"cannot be read as JSON ({error})", str(path), "run `vdistill prepare` again") from error
    if not isinstance(value, dict):
        raise UserError("does not hold a JSON object", str(path), "run `vdistill prepare` again")
    return value


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a killed holder lets go by itself. UserError when another process holds it."""
    import fcntl  # not on Windows; only preparing data needs it

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made a folder ({error.strerror})", str(folder)) from error
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError("another `vdistill prepare` is at work here", str(folder), "wait for it") from error
        yield
