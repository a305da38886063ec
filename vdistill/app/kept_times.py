"""Which times of a trajectory are kept, and the solver's grid through them."""

from __future__ import annotations

from itertools import pairwise

from ..core.errors import UserError
from ..core.schedule import Schedule
from .schema import Config
from .schema_steps import FewSteps


def times_of(keep: str, config: Config, schedule: Schedule, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(the solver's times, the kept ones, 1 to 0 each). A kept time that is none of the grid moves the nearest there,
    so the number of steps stays. UserError for times that cannot be."""
    grid = tuple(schedule.grid(steps).tolist())
    if keep == "pairs":
        return grid, (grid[0], grid[-1])
    if keep == "path":
        return grid, grid
    kept = student_times(config, schedule) if keep == "student" else listed(keep)
    kept = (*kept, 0.0) if kept[-1] > 0 else kept
    if len(kept) < 2 or not all(a > b for a, b in pairwise(kept)) or not 0 <= kept[-1] < kept[0] <= 1:
        raise UserError(f"times must descend in [0, 1], found {[*kept]}", "--keep", "such as 1,0.75,0.5,0.25,0")
    inner = [t for t in kept if 0 < t < 1]
    free = list(grid[1:-1])
    if len(inner) > len(free):
        raise UserError(f"{len(inner)} times to keep on a way of {steps} steps", "--steps", "take more steps")
    for t in sorted(inner, key=lambda t: min(abs(g - t) for g in free)):
        free.remove(min(free, key=lambda g: abs(g - t)))
    return tuple(sorted({*free, *inner, grid[0], grid[-1]}, reverse=True)), kept


def student_times(config: Config, schedule: Schedule) -> tuple[float, ...]:
    """Where the student of a config is asked. UserError for one of any number of steps."""
    m = config.method
    if listed_times := getattr(m, "times", None):
        return tuple(listed_times)
    if not isinstance(m, FewSteps):
        raise UserError(f"the student of method {m.name} has no times of its own", "--keep", "list them: 1,0.75,0.5")
    return tuple(schedule.grid(m.steps)[:-1].tolist())


def listed(text: str) -> tuple[float, ...]:
    """Times between commas."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise UserError(f"expected pairs, path, student or times, found {text!r}", "--keep", "such as 1,0.5") from error
