"""The `causal:` section of a config: a student that makes a clip block by block and remembers. And its methods."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from ..causal.layout import Layout
from ..core.errors import UserError
from .schema_drop import Dropping
from .schema_steps import FewSteps
from .section import Few, Interval, LocalPath, Section, Share, fault, note

Weighting = Literal["flow", "v", "uniform", "snr"]


class Resampling(Section):
    """Training shows pasts that the student has made anew from part of their noise, and asks for what truly follows."""

    levels: Interval = note((0.5, 0.85), "the level of noise they are made anew from is drawn between", "t, 1 = noise")
    rounds: int = note(1, "so many times, one after the other", ge=1, le=8)

    @model_validator(mode="after")
    def _some_noise(self) -> Resampling:
        if not self.levels[0]:
            raise fault("levels", "must begin above 0, which would change nothing")
        return self


class Imitation(Section):
    """Training in the student's own streams, where an expert says what should follow in them (DAgger)."""

    each: int = note(1, "a stream serves so many steps, as making it takes longer than a step", "steps", ge=1)
    switch: Share = note(
        0.0,
        "of the batches, in so many the streams are told another sample's text first, up to a random block, and from "
        "each block on the goal is what their own text says, so that streams follow a new prompt",
        "share",
    )


class Causal(Section):
    """A student that makes a clip block by block. Lengths are latent frames."""

    block: int = note(3, "made at once", "latent frames", ge=1)
    first: int | None = note(None, "size of the first block, if another", "latent frames", ge=1)
    window: int | None = note(
        None, "seen by a block, with itself and the sink; all when left out", "latent frames", ge=1
    )
    sink: int = note(0, "first ones that never leave the window", "latent frames", ge=0)
    places: Literal["absolute", "relative", "anchored"] = note(
        "absolute",
        "rotary places of what is remembered: as made, by rank in the window, or with the sink before the rest",
    )
    level: Share = note(0.0, "noise that blocks are remembered at", "t, 1 = noise")
    first_times: Few | None = note(None, "steps of the first block, if others", "t, 1 = noise")
    rollout: int | None = note(
        None, "longest rollout of training; a clip's length when left out", "latent frames", ge=1
    )
    last: int | None = note(
        None, "how many at a rollout's end carry gradients; all of a clip when left out", "latent frames", ge=1
    )
    extend: int | None = note(
        None,
        "added by every step to a clip that is kept until it is 'rollout' long, so that students learn from their own "
        "long clips (LongLive); each step makes a clip anew when left out",
        "latent frames",
        ge=1,
    )
    switch: Share = note(
        0.0,
        "of the clips that 'extend' lets grow, so many change their text at a random step to that of another sample "
        "of the batch: what is remembered is made again under it, and teacher and critic are told it (LongLive)",
        "share",
    )
    rolling: Share = note(
        0.0, "chance that a rollout goes by rolling windows, and not block by block (Rolling Forcing)", "share"
    )
    teacher: Literal["whole", "causal"] = note(
        "whole",
        "how teacher and critic of dmd2 look at a rollout: as a whole clip, or, where the teacher is causal itself, at "
        "each block after the clean ones before it, however long the rollout is",
    )
    whole: bool = note(
        False,
        "a rollout's blocks take all their steps and learn at the last, so that training sees what a stream makes; "
        "otherwise they stop at a random one and learn there",
    )
    through: bool = note(False, "let the loss of a block reach the ones before it through what is remembered")
    resample: Resampling | None = note(
        None,
        "clean pasts of training as the student's own errors leave them, where the truth says how it goes on, so that "
        "a stream mends itself (Resampling Forcing); true ones when left out",
    )
    dagger: Imitation | None = note(
        None,
        "where the data is a world that can be read, clips of one thing are the student's own streams, and each "
        "block's goal is how the world goes on from there (DAgger); streams begin with the clip where its caption "
        "leaves something open",
    )
    start: LocalPath | None = note(
        None, "run or folder whose weights the student begins with; the teacher's when left out"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        return {k: v for k, v in whole(self).items() if k != "dagger" or v is not None}

    def layout(self, unit: int = 1) -> Layout:
        """In positions of a network that takes `unit` latent frames for one. UserError for what does not divide."""
        return Layout(self.block, self.first, self.window, self.sink, self.places).over(unit)

    @model_validator(mode="after")
    def _fits(self) -> Causal:
        try:
            self.layout()
        except UserError as error:
            raise fault(error.where.removeprefix("causal."), error.what) from error
        if self.extend is not None and self.rollout is None:
            raise fault("extend", "needs 'rollout', the length at which a clip begins anew")
        if self.extend is not None and self.extend % self.block:
            raise fault("extend", f"{self.extend} is not whole blocks of {self.block}")
        if self.switch and self.extend is None:
            raise fault("switch", "needs 'extend' and 'rollout': the text changes where a growing clip goes on")
        for key in ("first_times", "rollout", "whole"):
            if self.rolling and getattr(self, key):
                raise fault("rolling", f"does not go with {key}; leave one of them out")
        return self


class MethodForcing(Dropping):
    """Training a causal network from clips, every block at a time of its own; makes the start of causal students."""

    name: Literal["forcing"] = note("forcing", "this method")
    kind: Literal["teacher", "diffusion"] = note("teacher", "blocks see clean ones before them, or noisy ones")
    context_noise: Share = note(0.0, "clean blocks are noised to a level drawn below this", "t, 1 = noise")
    own: Share = note(
        0.0,
        "steps at which the clean blocks after a random one are the network's own, made as in a stream, so that it "
        "learns to go on truly from them; for data whose beginning says how it goes on",
        "share",
    )
    own_times: Few = note((1.0, 0.8), "steps of those blocks, and of resampled ones", "t, 1 = noise")
    own_scale: float = note(1.0, "guidance scale both are made with; 1 means none", "times", ge=0, le=100)
    time_mean: float = note(0.0, "mean of the logit-normal law of t, before the time shift", "logit")
    time_std: float = note(1.0, "its standard deviation", "logit", gt=0)
    floor: float = note(0.05, "smallest t in the loss weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    weight: Weighting = note("flow", "whose squared error is minimised: flow, v, or x0 with weight uniform or snr")

    @model_validator(mode="after")
    def _a_past_of_its_own_is_clean(self) -> MethodForcing:
        if self.own and self.kind == "diffusion":
            raise fault("own", "belongs to kind: teacher, whose blocks see clean ones")
        return self


class MethodOdeInit(FewSteps):
    """A start for few-step causal students: from states of a teacher's trajectories to their ends in one pass."""

    name: Literal["ode_init"] = note("ode_init", "this method")
    kind: Literal["teacher", "diffusion"] = note(
        "teacher",
        "teacher: blocks see clean ones before them, and the teacher, which is causal, makes trajectories so while "
        "training; diffusion: blocks see noisy ones, each at a time of its own, and states come from a bank",
    )
    teacher_steps: int = note(48, "steps of the causal teacher's trajectories", "steps", ge=1, le=1000)
    scale: float = note(2.0, "guidance scale of the causal teacher; 1 means none", "times", ge=0, le=100)
    solver: Literal["ddim", "heun"] = note("ddim", "solver of its trajectories")


class MethodCausalConsistency(FewSteps):
    """A start for few-step causal students from a causal teacher's single steps, without trajectories."""

    name: Literal["causal_consistency"] = note("causal_consistency", "this method")
    teacher_steps: int = note(48, "steps of the teacher's grid", "steps", ge=1, le=1000)
    skip: int = note(1, "grid steps the teacher goes at once", "steps", ge=1)
    scale: float = note(2.0, "guidance scale of the teacher; 1 means none", "times", ge=0, le=100)
    solver: Literal["ddim", "heun"] = note("ddim", "solver of the teacher's step")
    average: float = note(0.99, "decay of the student's average that says the target; 0: the student", ge=0, lt=1)
    each: bool = note(False, "a time of its own for every block, and not one for the clip")

    @model_validator(mode="after")
    def _a_step_fits_the_grid(self) -> MethodCausalConsistency:
        if self.skip > self.teacher_steps:
            raise fault("skip", f"{self.skip} steps at once on a grid of teacher_steps {self.teacher_steps}")
        return self
