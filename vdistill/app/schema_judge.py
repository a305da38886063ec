"""The `judge:` section of a method: a discriminator beside the matching loss, what it looks at and what holds it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .schema_steps import FewSteps
from .section import Counts, Section, Share, fault, note

TOKENS, PIXELS = "tokens", "pixels"


def local(path: str) -> str:
    """A path on this machine, of a file that is not run as Python."""
    if "://" in path or "\0" in path:
        raise fault("", f"{path!r} is not a path on this machine; nothing is fetched")
    return path


class Where(Section):
    """The places of a clip that a judge's loss counts."""

    last: int | None = note(None, "only so many, from the end of the clip", "latent frames", ge=1)
    region: str | None = note(
        None, "weighed by a region of the data, such as face or lip of the talker world", min_length=1
    )

    @model_validator(mode="after")
    def _says_something(self) -> Where:
        if self.last is None and self.region is None:
            raise fault("", "says nothing; say (last: 3), (region: lip) or leave it out")
        return self


class Metric(Section):
    """A perceptual distance: of features, averaged over random changes done to both clips."""

    features: Literal["random", "teacher"] = note(
        "random", "random: fixed random convolutions of latents; teacher: blocks of the frozen teacher"
    )
    layers: Counts = note((), "the teacher's blocks; the middle one when left out", "block, from 0")
    time: float = note(
        0.0, "noise level both are brought to, which a teacher wants above 0", "t, 1 = noise", ge=0, lt=1
    )
    draws: int = note(1, "changes averaged in a step", "changes", ge=1, le=64)
    augment: Annotated[tuple[Literal["flip", "shift", "cutout", "zoom", "gain"], ...], Field(strict=False)] = note(
        ("flip", "shift", "cutout", "zoom", "gain"), "the changes, one after the other"
    )

    @model_validator(mode="after")
    def _layers_of_the_teacher(self) -> Metric:
        if self.layers and self.features != "teacher":
            raise fault("layers", f"features: {self.features} has none to choose from; leave it out")
        return self


class Judge(Section):
    """A discriminator of the student's samples against real ones, noised alike."""

    kind: Literal["tokens", "latent", "factorised", "motion", "pixels"] = note(
        "tokens",
        "tokens: heads on a network's features; latent: 3-D convolutions on latents; factorised: space and time in "
        "turn; motion: the same on differences of neighbouring frames; pixels: heads on features of single decoded "
        "frames, clean ones (it decodes)",
    )
    features: Literal["critic", "teacher"] = note(
        "critic",
        "whose features kind: tokens looks at: the teacher's stay, the critic's learn with the judge; the critic "
        "of method adversarial is a copy of the teacher, trained to judge and nothing else",
    )
    layers: Counts = note(
        (), "blocks that are looked at; when left out the middle and, of a critic, the last", "block, from 0"
    )
    hidden: int = note(64, "width of the judge", "channels", ge=8, le=4096)
    head: Literal["token", "cross"] = note(
        "token",
        "token: a logit for each token of each layer; cross: a learned token for each layer reads it, one logit a clip "
        "(APT)",
    )
    images: Annotated[str, Field(min_length=1), AfterValidator(local)] = note(
        "random",
        "features of images that kind: pixels looks at: random (fixed random convolutions), a transformers folder of "
        "an image model, or a TorchScript file",
    )
    frames: int = note(2, "frames of a clip that kind: pixels looks at, drawn anew each time", "frames", ge=1, le=1024)
    loss: Literal["ns", "minimax", "hinge", "lsgan", "wgan", "relativistic"] = note("ns", "kind of the GAN loss")
    weight: float | None = note(
        None, "weight in the student's loss; 0.003 beside a matching loss, 1 alone, when left out", gt=0
    )
    share: float | None = note(
        None, "instead of weight: the judge's gradient at the sample, as a part of the matching's", "share", gt=0
    )
    watch_weight: float | None = note(
        None, "weight of the judge's own loss; 0.01 with the features of dmd2's critic, else 1, when left out", gt=0
    )
    rate: float = note(
        1.0, "learning rate of what only judges, over that of the critic's learner", "times", gt=0, le=1000
    )
    start: Annotated[str | None, AfterValidator(lambda path: path and local(path))] = note(
        None, "a run or a model folder whose judge this one goes on as; a new one when left out", min_length=1
    )
    levels: int = note(1, "noise levels averaged in a step", "levels", ge=1, le=16)
    bands: int = note(1, "judges of their own for so many even bands of [t_min, t_max]", "bands", ge=1, le=16)
    t_min: Share = note(0.02, "smallest time at which it looks", "t, 1 = noise")
    t_max: Share = note(0.98, "largest time at which it looks", "t, 1 = noise")
    time_mean: float | None = note(
        None, "logit-normal times of this mean and deviation 1, in place of even ones (LADD: 1)", "logit"
    )
    text: bool = note(False, "logits depend on the text too (projection)")
    condition: str | None = note(
        None, "another condition of the clips that logits depend on: audio, ref, or what the data has", min_length=1
    )
    mismatched: bool = note(
        False,
        "real clips with another's conditions count as generated; with condition, those the logits depend on alone",
    )
    later: float | None = note(
        None,
        "a judge of pairs sees ends noised on, to a time drawn from their own to this one (SDXL-Lightning); as they "
        "are when left out",
        "t, 1 = noise",
        gt=0,
        le=1,
    )
    where: Where | None = note(None, "which places of a clip count; all when left out")
    r1: float = note(0.0, "smoothness penalty on real clips; 0: none", ge=0)
    r2: float = note(0.0, "smoothness penalty on generated clips; 0: none", ge=0)
    penalty: Literal["probe", "exact", "heads"] = note(
        "probe",
        "probe: |D(x) - D(x + sigma n)|^2, noised alike; exact: half the squared gradient, a second backward; heads: "
        "the same at the features that heads look at, through the heads alone (ADD, MCM)",
    )
    sigma: float = note(0.1, "deviation of the probe", "latent", gt=0)
    anchor: float = note(0.0, "weight of the tie to the averages of its past logits (LeCam); 0: none", ge=0)
    feature_matching: float = note(0.0, "weight of equal mean features, in the student's loss; 0: none", ge=0)
    augment: Annotated[tuple[Literal["flip", "shift", "cutout", "zoom", "gain"], ...], Field(strict=False)] = note(
        (), "changes of real and generated latents before they are looked at"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        later = {"rate": 1.0, "start": None}
        return {k: v for k, v in whole(self).items() if k not in later or v != later[k]}

    @property
    def looks_through_critic(self) -> bool:
        """Whether the features it looks at learn with it."""
        return self.kind == TOKENS and self.features == "critic"

    @model_validator(mode="after")
    def _what_has_no_effect(self) -> Judge:
        looks_at = "decoded frames" if self.kind == PIXELS else "latents"
        if self.kind != TOKENS and self.features != "critic":
            raise fault("features", f"kind: {self.kind} looks at {looks_at}; leave it out, or say kind: tokens")
        if self.kind not in (TOKENS, PIXELS) and self.layers:
            raise fault("layers", f"kind: {self.kind} looks at latents; leave it out, or say kind: tokens")
        if self.kind not in (TOKENS, PIXELS) and self.head != "token":
            raise fault("head", f"kind: {self.kind} has no tokens to read; leave it out, or say kind: tokens")
        if self.head == "cross" and self.hidden % 4:
            raise fault("hidden", f"{self.hidden} does not divide among the 4 heads of head: cross")
        for key in ("images", "frames") if self.kind != PIXELS else ():
            if getattr(self, key) != Judge.model_fields[key].default:
                raise fault(key, f"belongs to kind: pixels; leave it out of kind: {self.kind}")
        for key in ("levels", "bands", "t_min", "t_max", "time_mean") if self.kind == PIXELS else ():
            if getattr(self, key) != Judge.model_fields[key].default:
                raise fault(key, "has no effect with kind: pixels, which looks at clean frames; leave it out")
        if self.images == "random" and self.kind == PIXELS and max(self.layers, default=0) > 2:
            raise fault("layers", f"{[*self.layers]}, images: random has layers 0..2")
        if self.where is not None and (self.kind == PIXELS or self.head == "cross"):
            key = "kind: pixels draws its frames" if self.kind == PIXELS else "head: cross has one logit a clip"
            raise fault("where", f"{key}; say kind: latent, or leave it out")
        if self.condition == "text" and self.text:
            raise fault("condition", "text is said by text: true already; say it once")
        if self.t_min >= self.t_max:
            raise fault("t_min", f"{self.t_min:g} is not below t_max {self.t_max:g}")
        if self.time_mean is not None and (self.t_min, self.t_max) != (0.02, 0.98):
            raise fault("time_mean", "takes the place of t_min and t_max; say one of them")
        if None not in (self.share, self.weight):
            raise fault("share", "takes the place of weight; say one of them")
        if self.penalty == "heads" and self.kind not in (TOKENS, PIXELS):
            raise fault("penalty", f"kind: {self.kind} has no heads on features; say exact, or kind: tokens")
        if self.penalty != "probe" and not (self.r1 or self.r2):
            raise fault("penalty", "has no effect while r1 and r2 are 0")
        if self.start is not None and self.looks_through_critic:
            raise fault("start", "features: critic begin anew in every run, and heads alone know nothing; leave it out")
        if len({*self.augment}) != len(self.augment):
            raise fault("augment", f"names one twice: {[*self.augment]}")
        return self


class MethodAdversarial(FewSteps):
    """A judge as the only teacher, against real clips: LADD on a frozen teacher's features, APT on a copy's."""

    name: Literal["adversarial"] = note("adversarial", "this method")
    judge: Judge = note(Judge(features="teacher"), "the discriminator")
    watch_per_student: int = note(1, "updates of the judge for each of the student's", "updates", ge=1)
    inputs: Literal["data", "backward", "mix", "bank"] = note(
        "data",
        "what the student denoises: noised data, its own sampling (with one step: noise), one of them by chance, or, "
        "where data is a bank, states of the clip's own trajectory",
    )
    data_weight: Share = note(0.5, "chance of noised data with inputs: mix", "share")

    @model_validator(mode="after")
    def _nothing_to_share_with(self) -> MethodAdversarial:
        if self.judge.share is not None:
            raise fault("judge.share", "is a part of a matching loss, which this method has not; say weight")
        if "data_weight" in self.model_fields_set and self.data_weight != 0.5 and self.inputs != "mix":
            raise fault("data_weight", f"has no effect with inputs: {self.inputs}; it belongs to inputs: mix")
        return self
