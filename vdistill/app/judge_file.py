"""The judge of a run, beside its student: a run that goes on with that student goes on with its judge too.

A judge that knows nothing yet pushes a student anywhere, which harms one that is nearly right most.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save_file
from torch import nn

from ..core.checkpoint import fill, read_tensors
from ..core.errors import UserError
from ..discriminators.adversarial import Adversarial
from ..discriminators.pair import Pair
from .models import model_folder
from .schema_judge import Judge

FILE = "judge.safetensors"
AnyJudge = TypeVar("AnyJudge", Adversarial, Pair)
ENDS = "ends"
"""Name of a judge of steps that does not see where they began."""


def write_judges(spec: Judge | None, learners: Mapping[str, nn.Module], folder: Path) -> None:
    """What only judges, of all judges of a run, into its model folder; nothing where none can be gone on with."""
    if spec is None or spec.looks_through_critic:
        return
    names = (Adversarial.name, Pair.name, ENDS)
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, judge in learners["critic"].named_children()
        if name in names
        for key, value in judge.state_dict().items()
    }
    save_file(tensors, folder / FILE)


def begun(term: AnyJudge, start: str | None) -> AnyJudge:
    """The term with the judge of the same name that a run or a model folder holds; as it is where none is named.

    UserError where there is none, or one of other layers or widths.
    """
    if start is None:
        return term
    path = model_folder(start) / FILE
    if not path.is_file():
        hint = "name a run of a config with a judge, or leave judge.start out"
        raise UserError("holds no judge", str(path.parent), hint)
    said = f"{term.name}."
    own = {k.removeprefix(said): v for k, v in read_tensors(path).items() if k.startswith(said)}
    fill(term.module, own, f"{path}, of another judge than method.judge says")
    return term
