"""Methods that a judge completes: progressive steps, regression, consistency of views, distilled scores, frames."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from .schema_judge import TOKENS, Judge, Metric
from .schema_steps import FewSteps
from .section import LocalPath, Section, Share, fault, note

PAIRED = ("kind", "features", "layers", "hidden", "head", "loss", "weight", "watch_weight", "text", "condition", "rate",
          "start", "mismatched", "later", "r1", "r2", "penalty", "sigma", "augment")  # fmt: skip
"""What a judge of pairs understands of its section."""


def _scale() -> float:
    scale: float = note(1.0, "guidance scale of the teacher; 1 means none", "times", ge=0, le=100)
    return scale


def _watch() -> int:
    updates: int = note(1, "updates of the judge for each of the student's", "updates", ge=1)
    return updates


class GoesOn(FewSteps):
    """Few-step students that may go on from another run's."""

    start: LocalPath | None = note(None, "a run whose student this one begins as; the teacher when left out")


def pairs_only(judge: Judge, also: tuple[str, ...] = ()) -> None:
    """Refuse what a judge of pairs has no use for; also: keys that the method has a use for."""
    if judge.kind not in (TOKENS, "latent", "factorised"):
        raise fault("judge.kind", f"{judge.kind} does not look at pairs; say tokens, latent or factorised")
    for key, field in Judge.model_fields.items():
        if key not in PAIRED + also and getattr(judge, key) != field.get_default(call_default_factory=True):
            raise fault(f"judge.{key}", "has no effect on a judge that looks at pairs; leave it out")


class MethodProgressive(GoesOn):
    """Progressive distillation: one step of the student for several of the teacher; with a judge SDXL-Lightning."""

    name: Literal["progressive"] = note("progressive", "this method")
    scale: float = _scale()
    substeps: int = note(2, "steps of the teacher for each of the student's", "steps", ge=1, le=1000)
    distance: float | None = note(None, "weight of the regression; 1, beside a judge 0, when left out", ge=0)
    floor: float = note(0.05, "smallest t in the regression's weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    judge: Judge | None = note(None, "of pairs: where a step began, where it ended")
    relax: int | None = note(
        None, "training step from which a second judge sees ends alone; never when left out", "steps", ge=0
    )
    watch_per_student: int = _watch()

    @model_validator(mode="after")
    def _something_teaches(self) -> MethodProgressive:
        if self.judge is not None:
            pairs_only(self.judge)
        elif self.relax is not None:
            raise fault("relax", "has no effect without a judge; add judge: {}")
        elif self.distance == 0:
            raise fault("distance", "is 0 and there is no judge: nothing teaches the student")
        return self


class MethodRegression(GoesOn):
    """Regression to the end of a trajectory, with a judge beside it: Diffusion2GAN on a bank, OSV's first stage."""

    name: Literal["regression"] = note("regression", "this method")
    inputs: Literal["data", "bank"] = note(
        "data", "what the student denoises: noised data, or, where data is a bank, states of the clip's own trajectory"
    )
    end: Literal["own", "teacher"] = note(
        "own", "own: the clip that was noised, or the bank's last state; teacher: where its solver takes the input"
    )
    teacher_steps: int = note(4, "solver steps of end: teacher", "steps", ge=1, le=1000)
    scale: float = _scale()
    distance: Literal["huber", "l1", "l2", "perceptual"] = note(
        "huber", "perceptual: what metric says, features of both after random changes of both (E-LatentLPIPS)"
    )
    huber_c: float = note(0.001, "where huber turns from square to absolute", "latent", gt=0)
    metric: Metric | None = note(None, "of distance: perceptual")
    weight: float = note(1.0, "weight of the regression", gt=0)
    judge: Judge | None = note(None, "a discriminator beside it")
    conditional: bool = note(False, "the judge sees what the student was shown beside what it made of it")
    watch_per_student: int = _watch()

    @model_validator(mode="after")
    def _what_has_no_effect(self) -> MethodRegression:
        if self.conditional and self.judge is None:
            raise fault("conditional", "has no effect without a judge; add judge: {}")
        if self.conditional and self.judge is not None:
            pairs_only(self.judge, ("share",))
        if self.metric is not None and self.distance != "perceptual":
            raise fault("metric", f"has no effect with distance: {self.distance}; it belongs to perceptual")
        for key in ("scale", "teacher_steps") if self.end == "own" else ():
            if getattr(self, key) != MethodRegression.model_fields[key].default:
                raise fault(key, "has no effect with end: own; the teacher is not asked")
        return self


class MethodJudgedConsistency(GoesOn):
    """Consistency of what is seen of a clip, with a judge beside it: OSV's second stage, MCM."""

    name: Literal["judged_consistency"] = note("judged_consistency", "this method")
    scale: float = note(2.0, "guidance scale of the teacher; 1 means none", "times", ge=0, le=100)
    teacher_steps: int = note(50, "steps of the grid of times", "steps", ge=1, le=1000)
    skip: int = note(1, "grid steps the teacher goes at once", "steps", ge=1)
    solves: int = note(1, "solver steps it takes on that way", "steps", ge=1)
    solver: Literal["ddim", "heun"] = note("ddim", "solver of the teacher's steps")
    view: Literal["whole", "differences", "correlations", "coarse", "fine"] = note(
        "whole",
        "what is to agree; differences, correlations: of neighbouring frames (MCM's motion); coarse, fine: of a frame",
    )
    own: Share = note(0.0, "chance of noised clips of the student's own in place of data (MCM's mixed trajectories)")
    huber_c: float = note(0.001, "where the pseudo-Huber distance turns from square to absolute", "latent", gt=0)
    weight: float = note(1.0, "weight of the consistency loss", gt=0)
    judge: Judge | None = note(None, "a discriminator beside it")
    watch_per_student: int = _watch()

    @model_validator(mode="after")
    def _numbers_fit(self) -> MethodJudgedConsistency:
        if self.skip > self.teacher_steps:
            raise fault("skip", f"{self.skip} steps at once on a grid of teacher_steps {self.teacher_steps}")
        return self


class MethodAdd(GoesOn):
    """Adversarial diffusion distillation: a judge, and the teacher's view of the student's noised samples."""

    name: Literal["add"] = note("add", "this method")
    scale: float = _scale()
    weight: float = note(2.5, "weight of the teacher's view", gt=0)
    fading: Literal["exponential", "sds"] = note(
        "exponential", "its weight over noise levels: alpha, or that of score distillation sampling, alpha sigma / 2"
    )
    t_min: Share = note(0.02, "smallest time to which samples are noised for it", "t, 1 = noise")
    t_max: Share = note(0.98, "largest time to which samples are noised for it", "t, 1 = noise")
    inputs: Literal["data", "backward", "mix", "bank"] = note(
        "data",
        "what the student denoises: noised data, its own sampling (with one step: noise), one of them by chance, or, "
        "where data is a bank, states of the clip's own trajectory",
    )
    data_weight: Share = note(0.5, "chance of noised data with inputs: mix", "share")
    judge: Judge | None = note(Judge(features="teacher", loss="hinge"), "the discriminator")
    watch_per_student: int = _watch()

    @model_validator(mode="after")
    def _numbers_fit(self) -> MethodAdd:
        _times_fit(self.t_min, self.t_max)
        _share_of_a_mix(self, self.inputs)
        return self


class MethodFrameMatching(GoesOn):
    """Distribution matching of single frames with a teacher of images, and a judge of whole clips: AVDM2."""

    name: Literal["frame_matching"] = note("frame_matching", "this method")
    image_teacher: LocalPath | None = note(
        None,
        "a teacher of images, with the family's text; when left out the family's own, shown clips of one frame",
    )
    scale: float = _scale()
    frames: int = note(2, "frames of a clip that are matched in a step", "frames", ge=1)
    t_min: Share = note(0.02, "smallest time at which teacher and critic are compared", "t, 1 = noise")
    t_max: Share = note(0.98, "largest time at which teacher and critic are compared", "t, 1 = noise")
    floor: float = note(0.05, "smallest t in the critic's loss weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    weight: float = note(1.0, "weight of the matching", gt=0)
    inputs: Literal["data", "backward", "mix", "bank"] = note(
        "backward",
        "what the student denoises: its own sampling, noised data, one of them by chance, or, where data is a bank, "
        "states of the clip's own trajectory",
    )
    data_weight: Share = note(0.5, "chance of noised data with inputs: mix", "share")
    judge: Judge | None = note(Judge(features="teacher"), "of whole clips; motion comes from it alone")
    watch_per_student: int = note(5, "updates of critic and judge for each of the student's", "updates", ge=1)

    @model_validator(mode="after")
    def _numbers_fit(self) -> MethodFrameMatching:
        _times_fit(self.t_min, self.t_max)
        _share_of_a_mix(self, self.inputs)
        return self


def _times_fit(low: float, high: float) -> None:
    if low >= high:
        raise fault("t_min", f"{low:g} is not below t_max {high:g}")


def _share_of_a_mix(section: Section, inputs: str) -> None:
    if getattr(section, "data_weight") != 0.5 and inputs != "mix":  # noqa: B009
        raise fault("data_weight", f"has no effect with inputs: {inputs}; it belongs to inputs: mix")


MethodJudged = MethodProgressive | MethodRegression | MethodJudgedConsistency | MethodAdd | MethodFrameMatching
