"""Text encoders that leave memory: they stay in the folder they were read from, and a saved model gets them back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import UserError
from .opening import INDEX


def release(pipe: Any) -> tuple[str, ...]:
    """Drop a pipeline's text encoders; the names of those that went."""
    names = [name for name in pipe.components if name.startswith("text_encoder")]
    gone = tuple(name for name in names if isinstance(getattr(pipe, name), nn.Module))
    for name in gone:
        setattr(pipe, name, None)
    return gone


def put_back(names: tuple[str, ...], source: Path | None, folder: Path) -> None:
    """Copy released parts from the folder they were read from into a saved one. UserError when it is gone."""
    if not names or source is None:
        return
    try:
        listed = json.loads((source / INDEX).read_bytes())
        index = json.loads((folder / INDEX).read_bytes())
        for name in names:
            shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
            index[name] = listed[name]
    except FileNotFoundError as error:
        what = f"text encoders left memory and are no longer in their folder ({error.filename})"
        raise UserError(what, str(source), "put the folder back and run the same command again") from error
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
