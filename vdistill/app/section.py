"""What every part of a config is made of: strict, frozen, every field with a description, a unit and a default."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

REQUIRED: Any = ...
PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


class Section(BaseModel):
    """A part of a config. Unknown keys are refused, text is not taken for a number, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


def note(default: Any, text: str, unit: str = "", **bounds: Any) -> Any:
    """A field: its default (REQUIRED for none), what it means, its unit, and pydantic's bounds (ge, lt, ...)."""
    full = f"{text} [{unit}]" if unit else text
    return Field(default, description=full, json_schema_extra={"unit": unit or "none"}, **bounds)


def section_in(kind: Any) -> type[BaseModel] | None:
    """The section a field holds, always or where it is not null; None for a field that holds none."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def fault(key: str, text: str) -> PydanticCustomError:
    """What a validator raises: the field of the section to point at ("" for the value itself), and what is wrong."""
    return faults([(key, text)])


def faults(found: Sequence[tuple[str, str]]) -> PydanticCustomError:
    """Several at once."""
    return PydanticCustomError("faults", "does not fit", {"faults": [*found]})


def _local(path: str) -> str:
    if "://" in path or path.startswith("pipe:") or "\0" in path:
        raise fault("", f"{path!r} is not a path on this machine; nothing is fetched or run")
    if path.lower().endswith(PICKLED):
        raise fault("", f"{path!r} is pickled, which can run code; name a diffusers folder of safetensors")
    if not path.strip():
        raise fault("", "is empty; name a folder or leave the key out")
    return path


def _range(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise fault("", f"must be [low, high], found [{pair[0]:g}, {pair[1]:g}]")
    return pair


def _descending(times: tuple[float, ...]) -> tuple[float, ...]:
    if not times or any(a <= b for a, b in pairwise(times)) or not 0 < times[-1] <= times[0] <= 1:
        raise fault("", f"must be descending times in (0, 1], found {[*times]}, such as [1.0, 0.75, 0.5, 0.25]")
    return times


LocalPath = Annotated[str, AfterValidator(_local)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Few = Annotated[tuple[float, ...], Field(strict=False), AfterValidator(_descending)]
Interval = Annotated[tuple[Share, Share], Field(strict=False), AfterValidator(_range)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
Counts = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]
