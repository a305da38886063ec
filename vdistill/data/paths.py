"""Which files a manifest may name: regular files under its own folder, and nothing else."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from ..core.errors import BadMedia

SCHEME = re.compile(r"[A-Za-z][\w+.,-]*:")  # file://, pipe:, http://, concat:, subfile,,...:, C:
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def refusal(name: str) -> str:
    """Why this name is refused whatever lies on the disk; empty when it may be looked up."""
    if not name.strip():
        return "names no file"
    if "\0" in name:
        return "contains a NUL character"
    if SCHEME.match(name):
        return "is a URL, protocol or drive; only files under the manifest's folder are read"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).root:
        return "is an absolute path; only files under the manifest's folder are read"
    if ".." in re.split(r"[/\\]", name):
        return "leaves the manifest's folder by .."
    return ""


def inside(root: Path, name: str) -> Path:
    """The regular file `name` under root (a resolved folder), links followed. BadMedia, before anything is opened."""
    reason = refusal(name)
    if reason:
        raise BadMedia(reason, repr(name))
    try:
        path = (root / name).resolve(strict=True)
        mode = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError as error:
        raise BadMedia("no such file", repr(name)) from error
    except (OSError, ValueError, RuntimeError) as error:  # loops, names too long, names that cannot be encoded
        raise BadMedia(f"cannot be looked up ({getattr(error, 'strerror', None) or error})", repr(name)) from error
    if not path.is_relative_to(root):
        raise BadMedia("is a link out of the manifest's folder", repr(name))
    if mode != stat.S_IFREG:
        raise BadMedia(f"is {KINDS.get(mode, 'not a file')}, not a regular file", repr(name))
    return path


def open_regular(path: Path) -> BinaryIO:
    """Open for reading, checked again on the open handle: what was a file at look-up may be a pipe by now."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BadMedia("is not a regular file", str(path))
    return os.fdopen(handle, "rb")
