"""Opening any model a user names: the shipped teacher, a run, or a diffusers folder."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from ..core import checkpoint
from ..core.errors import UserError
from ..families.tiny import TinyFamily

SHIPPED = {"shapes": "assets/teacher_shapes"}
STUDENT = "student"


def model_folder(name: str | Path) -> Path:
    """The diffusers folder a name means. UserError, saying what to do, when there is none."""
    if str(name) in SHIPPED and not Path(name).exists():
        folder = Path(str(files("vdistill") / SHIPPED[str(name)]))
        if not folder.is_dir():
            raise UserError("the shipped teacher is missing from this installation", str(name), "install again")
        return folder
    path = Path(name)
    if path.is_file():
        raise UserError("expected a model folder, found a file", str(path), "name the folder it lies in")
    if not path.is_dir():
        hint = "name a run folder, a diffusers folder, or a shipped teacher: " + ", ".join(SHIPPED)
        raise UserError("no such model", str(path), hint)
    if (path / "checkpoints").is_dir() or (path / "config.yaml").is_file():
        return _student_of(path)
    return path


def _student_of(run: Path) -> Path:
    if (run / STUDENT).is_dir():
        return run / STUDENT
    newest, _ = checkpoint.latest(run / "checkpoints")
    stage = f"its newest checkpoint is {newest.name}" if newest else "it has no checkpoint yet"
    raise UserError(
        f"this run has not finished; {stage}", str(run), f"go on with: vdistill train {run}/config.yaml --out {run}"
    )


def open_model(name: str | Path) -> TinyFamily:
    """The model a name means, as a family. UserError in one line for anything that does not open."""
    folder = model_folder(name)
    index = folder / "model_index.json"
    if (folder / "analytic.json").is_file():
        raise UserError("is a student of the analytic family, which makes points, not clips", str(folder))
    if index.is_file():
        try:
            kind = json.loads(index.read_text()).get("_class_name")
        except ValueError as error:
            raise UserError(f"is not JSON ({error})", str(index), "copy the folder again") from error
        if kind != "WanPipeline":
            raise UserError(f"wrong family: holds a {kind}, expected a WanPipeline", str(folder))
    return TinyFamily.load(folder)
