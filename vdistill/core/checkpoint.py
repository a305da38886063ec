"""Crash-safe, pickle-free checkpoints: written aside, digested, flushed, renamed when whole.

A checkpoint is a folder step-XXXXXXXX of safetensors files, one state.json, and a MANIFEST.json of sizes and digests
that is written last. A kill at any moment leaves either the old state or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import UserError

MANIFEST, STATE, SCRATCH = "MANIFEST.json", "state.json", ".tmp-"


@dataclass(frozen=True)
class Snapshot:
    """What is saved: named groups of tensors (one file each) and plain JSON values."""

    step: int
    groups: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)

    def to_host(self) -> Snapshot:
        """A copy in host memory that later training steps cannot change."""
        copied = {
            g: {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
            for g, tensors in self.groups.items()
        }
        return Snapshot(self.step, copied, json.loads(json.dumps(self.state)))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest(path: Path) -> str:
    """blake2b of a file, hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def save(root: Path, snapshot: Snapshot, keep: int = 2) -> Path:
    """Write a checkpoint under root and drop all but the newest `keep`.

    OSError (disk full, read-only) passes through with no leftover; earlier checkpoints stay whole.
    """
    root.mkdir(parents=True, exist_ok=True)
    scratch, final = root / f"{SCRATCH}{name(snapshot.step)}-{os.getpid()}", root / name(snapshot.step)
    scratch.mkdir()
    try:
        for group, tensors in snapshot.groups.items():
            _write_tensors(scratch / f"{group}.safetensors", tensors)
        (scratch / STATE).write_text(json.dumps({"step": snapshot.step, **snapshot.state}, indent=1))
        manifest = {p.name: [p.stat().st_size, digest(p)] for p in sorted(scratch.iterdir())}
        for path in scratch.iterdir():
            _flush(path)
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _flush(scratch / MANIFEST)
        _flush(scratch)
        if final.exists():
            shutil.rmtree(final)
        scratch.rename(final)
        _flush(root)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    whole = [p for p in sorted(root.glob("step-*")) if p.name <= final.name]  # later ones are damaged, or not ours
    for old in whole[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    except safetensors.SafetensorError as error:
        raise io_error(error, path) from error


def io_error(error: Exception, path: Path) -> OSError:
    """What a failed write of safetensors, whose errors are not OSErrors, would be as one: number, text and path."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(f"{path}: {error}")


def sweep(root: Path) -> None:
    """Remove what killed writers left behind."""
    for leftover in root.glob(f"{SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def damage(path: Path) -> str:
    """What is wrong with a checkpoint folder, or an empty string when it is whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except OSError:
        return f"{MANIFEST} is missing"
    except ValueError:
        return f"{MANIFEST} is not JSON"
    if not (isinstance(manifest, dict) and STATE in manifest and all(map(_is_entry, manifest.values()))):
        return f"{MANIFEST} does not list this checkpoint's files"
    for file, (size, code) in manifest.items():
        target = path / file
        if not target.is_file():
            return f"{file} is missing"
        if target.stat().st_size != size:
            return f"{file} has {target.stat().st_size} bytes, expected {size}"
        if digest(target) != code:
            return f"{file} does not match its digest"
    return ""


def _is_entry(value: object) -> bool:
    """[bytes, digest]"""
    return isinstance(value, list) and [type(v) for v in value] == [int, str]


def latest(root: Path) -> tuple[Path | None, list[str]]:
    """(newest whole checkpoint, what was skipped and why). UserError when there are checkpoints and none is whole."""
    skipped: list[str] = []
    found = sorted(root.glob("step-*"), reverse=True)
    for path in found:
        trouble = damage(path)
        if not trouble:
            return path, skipped
        skipped.append(f"{path.name}: {trouble}")
    if found:
        raise UserError(f"no checkpoint is whole ({'; '.join(skipped)})", str(root), "restore one, or start --fresh")
    return None, skipped


def load(path: Path) -> Snapshot:
    """Read a checkpoint folder. UserError for damage."""
    trouble = damage(path)
    if trouble:
        raise UserError(trouble, str(path), "use another checkpoint")
    state = json.loads((path / STATE).read_text())
    groups = {p.stem: load_file(p) for p in sorted(path.glob("*.safetensors"))}
    return Snapshot(state.pop("step"), groups, state)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file of the user's. UserError, in one line, for a missing, truncated or pickled file."""
    if not path.is_file():
        raise UserError("no such weights file", str(path))
    if path.suffix != ".safetensors":
        raise UserError("expected a .safetensors file; pickled weights are not read", str(path), "convert it first")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"not a whole safetensors file ({error})", str(path), "copy it again") from error


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights, strictly. UserError naming the first keys or shapes that do not fit."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise UserError(
            f"weights do not fit: {len(missing)} missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}",
            where,
        )
    for key, value in tensors.items():
        if own[key].shape != value.shape:
            raise UserError(f"{key} has shape {tuple(value.shape)}, expected {tuple(own[key].shape)}", where)
    module.load_state_dict(dict(tensors))
