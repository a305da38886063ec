"""Data without media: captions alone, for methods that need no clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..core.cond import Cond
from ..core.errors import UserError
from ..core.step import Batch
from .files import write_json

LONGEST = 1 << 16  # bytes of one caption file; characters of one caption


def clean(text: str) -> str:
    """One line, single spaces."""
    return " ".join(text.split())


def read_text(path: Path, limit: int | None = None) -> str:
    """A UTF-8 file. UserError when it is not one or has more than `limit` bytes."""
    try:
        with path.open("rb") as handle:
            data = handle.read() if limit is None else handle.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise UserError(f"more than {limit} bytes of text", str(path))
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start})", str(path), "save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path)) from error


def read_prompts(path: Path) -> tuple[str, ...]:
    """One caption a line; empty lines are passed over. UserError for a file without any."""
    prompts = tuple(filter(None, map(clean, read_text(path).splitlines())))
    if not prompts:
        raise UserError("holds no prompt", str(path), "write one caption a line")
    return prompts


class PromptData:
    """Captions with zeros for latents: Batch.x tells a data-free method only the shape to generate.

    shape: [C, T, H, W] of the latents; text: captions -> Cond.
    """

    def __init__(self, prompts: Sequence[str], shape: tuple[int, ...], text: Callable[[Sequence[str]], Cond]) -> None:
        if not prompts:
            raise UserError("no prompts", "data", "name a file with one caption a line")
        self.prompts, self.shape, self.text = tuple(prompts), tuple(shape), text
        self.groups = (len(self.prompts),)

    def __len__(self) -> int:
        return len(self.prompts)

    def captions(self) -> tuple[str, ...]:
        return self.prompts

    def batch(self, indices: Sequence[int]) -> Batch:
        x = torch.zeros(len(indices), *self.shape)
        return Batch(x, self.text([self.prompts[i] for i in indices]), keys=tuple(f"prompt/{i}" for i in indices))


def save_prompts(folder: Path, prompts: Sequence[str], shape: Sequence[int]) -> None:
    """Write the index.json that `open_data` reads as prompts alone."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {"format": 1, "kind": "prompts", "complete": True, "shape": list(shape), "prompts": list(prompts)}
    write_json(folder / "index.json", index)
