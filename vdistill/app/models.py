"""Opening any model a user names: the shipped teacher, a run, or a diffusers folder."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..core import checkpoint
from ..core.errors import UserError
from ..families.ltx import LtxFamily
from ..families.opening import INDEX, pipeline_class, quiet
from ..families.random_tiny import random_tiny
from ..families.skeleton import skeleton
from ..families.stock import StockFamily
from .about import FILE, OWN, About, about
from .build_avatar import opened_adapters
from .catalog import FAMILIES, PIPELINES, find
from .schema_family import FamilyAnalytic

if TYPE_CHECKING:
    from .build import Built
    from .schema import Config

SHIPPED = {"shapes": "assets/teacher_shapes", "shapes_causal": "assets/student_shapes_causal",
           "talker": "assets/teacher_talker", "talker_student": "assets/student_talker"}  # fmt: skip
STUDENT = "student"


def model_folder(name: str | Path) -> Path:
    """The diffusers folder a name means. UserError, saying what to do, when there is none."""
    if str(name) in SHIPPED and not Path(name).exists():
        folder = Path(str(files("vdistill") / SHIPPED[str(name)]))
        if not folder.is_dir():
            raise UserError("this shipped model is missing from the installation", str(name), "install again")
        return folder
    path = Path(name)
    if path.is_file():
        raise UserError("expected a model folder, found a file", str(path), "name the folder it lies in")
    if not path.is_dir():
        hint = "name a run folder, a diffusers folder, or a shipped model: " + ", ".join(SHIPPED)
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


def open_model(
    name: str | Path, family: str | None = None, dtype: torch.dtype | None = None, negative: str = ""
) -> StockFamily:
    """The model a name means, as a family. UserError in one line for anything that does not open.

    family: the one it must be of; any when left out. dtype, negative: as StockFamily.load takes them.
    """
    folder = model_folder(name)
    opened: StockFamily = find(FAMILIES, family_of(folder, family)).load(folder, dtype, negative)
    if isinstance(opened, LtxFamily) and (rate := about(folder).frame_rate):
        opened.frame_rate = rate
    return opened_adapters(opened, folder)


def hollow_model(name: str | Path, family: str | None = None) -> StockFamily:
    """The same without weights or encoders: its sizes are right. UserError for what would not open."""
    folder = model_folder(name)
    opened: StockFamily = find(FAMILIES, family_of(folder, family))(skeleton(folder))
    return opened


def family_of(folder: Path, family: str | None = None) -> str:
    """Name of the family that opens a folder. UserError when there is none, or it is not the one asked for."""
    if (folder / "analytic.json").is_file():
        raise UserError("is a student of the analytic family, which makes points, not clips", str(folder))
    kind = pipeline_class(folder)
    if kind not in PIPELINES:
        raise UserError(f"wrong family: holds a {kind}; known are {', '.join(PIPELINES)}", str(folder / INDEX))
    if family not in (None, PIPELINES[kind]) and (family, kind) != ("tiny", "WanPipeline"):
        raise UserError(f"wrong family: holds a {kind}, that is {PIPELINES[kind]}, not {family}", str(folder))
    return PIPELINES[kind]


def about_model(family: StockFamily, folder: Path) -> About:
    """What a folder says of itself; for a published teacher, which says nothing, its pipeline's own defaults."""
    if (folder / FILE).is_file():
        return about(folder)
    return About(**family.defaults(), solver=OWN)  # type: ignore[arg-type]


def random_model(variant: str, family: str, seed: int, dtype: torch.dtype, negative: str) -> StockFamily:
    """Tiny random weights of a published pipeline's classes. UserError for a variant that is none of `family`."""
    quiet()
    pipe = random_tiny(variant, seed)
    if dtype != torch.float32:
        pipe = pipe.to(dtype)
    kind = type(pipe).__name__
    if PIPELINES.get(kind) != family:
        known = PIPELINES.get(kind, "not known")
        raise UserError(f"wrong family: {variant} is a {kind}, that is {known}, not {family}", "family.random_tiny")
    opened: StockFamily = find(FAMILIES, family)(pipe, negative)
    return opened


def clip_shape(family: StockFamily, frames: int, height: int, width: int) -> tuple[int, ...]:
    """[C, T, H, W] of a clip's latents. UserError for a clip that codec or network cannot take."""
    if min(frames, height, width) < 1:
        raise UserError(f"{frames} frames of {height}x{width} are no clip", "size")
    shape = family.codec.shape(frames, height, width)
    fit_network(family, shape, f"a clip of {frames} frames of {height}x{width}")
    return shape


def fit_network(family: StockFamily, shape: Sequence[int], where: str) -> None:
    """UserError for latents [C, T, H, W] of another width than the network's, or that its patches do not tile."""
    network = family.network_of()
    if shape[0] != network.channels:
        raise UserError(f"has latents of {shape[0]} channels, this family takes {network.channels}", where)
    if len(shape) != 4 or min(shape) < 1 or any(n % p for n, p in zip(shape[1:], network.patch, strict=True)):
        raise UserError(f"latents of shape {tuple(shape)} are not tiled by patches {network.patch}", where)


def clip_of(built: Built, config: Config) -> tuple[int, int, int]:
    """(frames, height, width) of the clips a run learns from: those of its data, the commonest where they differ."""
    family, data = built.family, getattr(built.source, "data", None)
    if not isinstance(family, StockFamily):
        return 1, 1, 1
    if data is None:
        assert not isinstance(config.family, FamilyAnalytic)
        return config.family.clip
    _, frames, height, width = data.shape
    frames -= getattr(family.codec, "spare", 0)  # latent frames that only fill a patch
    return 1 + (frames - 1) * family.codec.temporal, height * family.codec.spatial, width * family.codec.spatial


def check_data(built: Built, config: Config) -> None:
    """UserError when the clips of a config do not fit the model it opened."""
    family, data = built.family, getattr(built.source, "data", None)
    if not isinstance(family, StockFamily):
        return
    shapes = getattr(data, "shapes", None) or ([data.shape] if data is not None else [])
    for shape in shapes:
        fit_network(family, shape, str(getattr(config.data, "path", "data")))
    if not isinstance(config.family, FamilyAnalytic) and not shapes:
        clip_shape(family, *config.family.clip)


def whole_number(value: int | None, low: int, key: str, high: float = math.inf) -> None:
    """UserError for a number of the command line out of its bounds; None was left out."""
    if value is not None and not low <= value < high:
        raise UserError(f"must be at least {low}{f' and below {high}' if high < math.inf else ''}, found {value}", key)


def finite(value: float | None, low: float, key: str) -> None:
    """UserError for what is not a finite number of at least `low`; None was left out."""
    if value is not None and not (math.isfinite(value) and value >= low):
        raise UserError(f"must be a number of at least {low:g}, found {value:g}", key)


def device_of(name: str) -> str:
    """auto: this process's GPU where there is one. UserError for a device that is not there."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        raise UserError(f"no device {name!r} here", "--device", "auto, cpu, or cuda where there is a GPU")
    rank = os.environ.get("LOCAL_RANK", "0")
    return f"cuda:{(int(rank) if rank.isdecimal() else 0) % torch.cuda.device_count()}"
