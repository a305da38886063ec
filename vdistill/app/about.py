"""What a model folder says beside its weights: vdistill.json, the clip it was trained on and its best guidance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..core.errors import UserError

FILE = "vdistill.json"
OWN = "own"  # solver: the scheduler of the folder


@dataclass(frozen=True)
class About:
    """frames, height, width: of a clip; steps, guidance, solver: how a teacher is sampled (a student has its times);
    frame_rate: that the network is told, in frames a second, 0 where that is its pipeline's own; scales: of a teacher
    guided by several conditions, in the order of the chain; begins: latents of a clip before that it can go on from;
    begin_level: largest noise on them in training."""

    frames: int = 17
    height: int = 32
    width: int = 32
    steps: int = 50
    guidance: float = 1.0
    method: str = ""
    solver: str = "ddim"
    frame_rate: float = 0.0
    scales: Mapping[str, float] = field(default_factory=dict)
    begins: int = 0
    begin_level: float = 0.0

    @property
    def level(self) -> float:
        """Noise that is put on what it goes on from: the middle of what it learned to forgive."""
        return self.begin_level / 2

    def write(self, folder: Path) -> None:
        """Put it into a model folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1))


def about(folder: Path) -> About:
    """What a model folder says of itself; the defaults for a folder without the file. UserError for a damaged one."""
    path = folder / FILE
    if not path.is_file():
        return About(solver=OWN)
    try:
        known, usual = About(**json.loads(path.read_text())), asdict(About())
        wrong = [
            k
            for k, v in asdict(known).items()
            if not isinstance(v, (int, float) if k == "guidance" else type(usual[k]))
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} is {getattr(known, wrong[0])!r}")
        return known
    except (ValueError, TypeError) as error:
        raise UserError(f"is damaged ({error})", str(path), "remove it, or copy the folder again") from error
