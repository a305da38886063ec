"""What method sections for few-step students share."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from .section import Few, Section, Share, fault, note

Gain = Annotated[float, Field(ge=0, le=100)]
SYNC = (
    "weight of a term that asks the mouth of the decoded estimate to go with the sound, judged by the shipped sync "
    "network (0.1 is a beginning); every step then decodes its batch with gradients"
)


class FewSteps(Section):
    """What methods for few-step students share: how many passes, and at which times."""

    steps: int = note(4, "passes the finished student takes; as many as 'times' has when that is given", ge=1, le=1000)
    times: Few | None = note(None, "their times; the schedule's grid of 'steps' when left out", "t, 1 = noise")

    @model_validator(mode="before")
    @classmethod
    def _steps_follow_times(cls, data: Any) -> Any:
        times = data.get("times") if isinstance(data, dict) else None
        return {"steps": len(times), **data} if isinstance(times, list | tuple) and times else data

    @model_validator(mode="after")
    def _as_many_times_as_steps(self) -> Self:
        if self.times is not None and len(self.times) != self.steps:
            raise fault("times", f"{len(self.times)} times for {self.steps} steps; say one of them")
        return self


class Beginning(Section):
    """Samples that begin with known positions, told clean."""

    share: Share = note(0.5, "share of samples that begin so", "share")
    most: int = note(1, "positions known, 1 to so many by even chance", "latents", ge=1, le=64)
    level: float = note(0.0, "noise put on them is drawn below this level", "t, 1 = noise", ge=0, lt=1)
