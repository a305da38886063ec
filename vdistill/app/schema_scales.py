"""The `scales:` section, guidance scales as inputs of the student, and the method that learns from teacher and data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .schema_steps import SYNC, Beginning, Gain
from .section import REQUIRED, Few, Interval, LocalPath, Section, Share, fault, note

Ramp = Annotated[tuple[float, float], Field(strict=False)]


PUSHED = ("ref", "audio")
"""Conditions that adapters read, so that they can be pushed within a pass."""


class ScaleSpec(Section):
    """One condition's scale. 1 means none."""

    usual: float = note(REQUIRED, "scale the student will be used at", "times", ge=1, le=100)
    most: float | None = note(
        None, "largest scale learned; twice the usual less 1 when left out", "times", ge=1, le=100
    )
    ramp: Ramp | None = note(None, "factors of (scale - 1) at t = 1 and t = 0; [1, 1] when left out", "times")
    gain: float = note(
        0.0,
        "of ref and audio, at use: what the student reads of it is pushed from its null by 1 + gain (scale - usual), "
        "so that a scale does more than was learned, without another pass; nothing changes at the usual one",
        "1 / scale",
        ge=0,
        le=10,
    )

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        return {k: v for k, v in whole(self).items() if k != "gain" or v}

    @property
    def top(self) -> float:
        """The largest scale learned."""
        return 2 * self.usual - 1 if self.most is None else self.most

    @model_validator(mode="after")
    def _in_range(self) -> ScaleSpec:
        if self.top < self.usual:
            raise fault("most", f"{self.top:g} is below the usual {self.usual:g}")
        return self


class ScalesSpec(Section):
    """Guidance by several conditions, distilled into one pass that is told their scales."""

    kind: Literal["chain", "star", "joint"] = note(
        "chain", "chain: conditions added in the order given; star: each against going without it; joint: all at once"
    )
    conditions: dict[str, ScaleSpec] = note(REQUIRED, "condition -> its scale; of joint guidance one, named a+b")
    tokens: Literal["token", "adaln", "both", "fixed", "none"] = note(
        "token",
        "how the student is told: learned tokens, a shift of its time embedding, both, tokens for the usual scales "
        "alone, or not at all (the usual scales go into its weights)",
    )
    count: int = note(4, "learned tokens for each condition", "tokens", ge=1, le=64)
    width: int = note(128, "width of tokens and of what reads them", "channels", ge=8)
    rate: float = note(
        1.0, "learning rate of tokens and of what reads them, over that of the network", "times", gt=0, le=1000
    )
    gains: bool = note(
        False,
        "learn too how far what each layer reads of ref and audio is pushed from its null: a gain for every channel, "
        "by the time, times (scale - 1)",
    )
    rank: int = note(
        0,
        "width, for each scale, of a branch beside each block whose answer is added times (scale - 1); 0 for none",
        "channels",
        ge=0,
        le=4096,
    )
    at_usual: Share = note(0.25, "share of samples at the usual scales", "share")
    at_ones: Share = note(0.25, "share of samples without guidance; the rest is drawn up to the largest", "share")
    balanced: Share = note(
        0.0, "share of samples told nothing, with conditions dropped, so that the student can still be guided", "share"
    )
    quality: bool = note(False, "tell the student how good each clip is, as one more scale")
    interval: Interval | None = note(
        None, "[low, high]: the times in which guidance acts; all when left out", "t, 1 = noise"
    )
    rescale: Share = note(0.0, "how far the standard deviation is brought back to the unguided one", "share")
    apg: bool = note(False, "adaptive projected guidance: only the part that is not parallel to the estimate")

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        usual = {"rate": 1, "gains": False, "rank": 0}
        return {k: v for k, v in whole(self).items() if k not in usual or v != usual[k]}

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions guided by."""
        return tuple(part.strip() for name in self.conditions for part in name.split("+"))

    @property
    def tells(self) -> bool:
        """Whether scales are drawn; otherwise the usual ones are all."""
        return self.tokens not in ("fixed", "none")

    @model_validator(mode="after")
    def _they_fit(self) -> ScalesSpec:
        if not self.conditions:
            raise fault("conditions", "names none; say (ref: (usual: 2.0), audio: (usual: 3.0))")
        if self.kind == "joint" and len(self.conditions) != 1:
            raise fault(
                "conditions", f"joint guidance has one scale, such as {'+'.join(self.conditions)}: (usual: 2.0)"
            )
        if self.kind != "joint" and any("+" in name for name in self.conditions):
            raise fault("conditions", f"{self.kind} has a scale for each condition; a+b belongs to joint")
        if self.at_usual + self.at_ones > 1:
            raise fault("at_ones", f"{self.at_ones:g} and at_usual {self.at_usual:g} are more than 1")
        if self.rate != 1 and self.tokens == "none":
            raise fault("rate", "is of tokens, of which tokens: none has none; leave it out")
        for name, each in self.conditions.items():
            if each.gain and name not in PUSHED:
                raise fault(f"conditions.{name}.gain", f"belongs to {' and '.join(PUSHED)}, which adapters read")
            if each.gain and not self.tells:
                raise fault(
                    f"conditions.{name}.gain", f"is of students told scales, and tokens: {self.tokens} tells none"
                )
        if self.gains and not self.tells:
            raise fault("gains", f"are of students told scales, and tokens: {self.tokens} tells none")
        if self.gains and not set(self.names) & set(PUSHED):
            raise fault("gains", f"are of {' and '.join(PUSHED)}, and conditions names neither")
        if self.gains and any(each.gain for each in self.conditions.values()):
            raise fault("gains", "are learned, and a condition's 'gain' says them; take one of both")
        if self.rank and (not self.tells or self.tokens == "adaln"):
            raise fault(
                "rank", f"is of a branch beside tokens told scales, and tokens: {self.tokens} has no place for it"
            )
        if self.quality and not self.tells:
            raise fault("quality", f"cannot be told with tokens: {self.tokens}")
        return self


class SupervisionSpec(Section):
    """Data as a second teacher, believed as far as it is good."""

    target: Literal["raw", "delta", "unit"] = note(
        "delta",
        "what data asks for: itself; itself pushed as guidance pushes the teacher; or itself where no scale is above 1",
    )
    balance: Annotated[tuple[Literal["by_quality", "disagreement", "region", "sync"], ...], Field(strict=False)] = note(
        ("region",), "how far data is believed, multiplied; none: everywhere alike"
    )
    weight: float = note(1.0, "of the data beside the teacher", "times", gt=0, le=100)
    region: str = note("lip", "region of the clips in which damaged ones are not believed")
    low: Share = note(0.25, "by_quality: belief in the worst clips", "share")
    kappa: float = note(1.0, "disagreement: how fast belief falls beyond what is usual", gt=0)
    smooth: float | Literal["all"] = note(
        0.0, "damaged clips speak through a low-pass of this width; all: by their mean over time", "latents"
    )
    replaces: Share = note(0.0, "how far data takes the teacher's place where it is believed", "share")
    gradnorm: float | None = note(
        None, "size of the data's gradient against the teacher's; not tied when left out", gt=0
    )

    @model_validator(mode="after")
    def _width(self) -> SupervisionSpec:
        if not isinstance(self.smooth, str) and not 0 <= self.smooth <= 1e4:
            raise fault("smooth", f"is a width in latents of at least 0, or all; found {self.smooth:g}")
        return self


class MethodMixed(Section):
    """Guidance distillation by several scales (see scales), with data as a second teacher where wished."""

    name: Literal["mixed"] = note("mixed", "this method")
    supervision: SupervisionSpec | None = note(None, "what data adds; the teacher alone when left out")
    floor: float = note(0.05, "smallest t in the loss weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    times: Few | None = note(None, "times of a few-step student; any number of steps when left out", "t, 1 = noise")
    time_mean: float = note(0.0, "without times: mean of the logit-normal law of t, before the time shift", "logit")
    time_std: float = note(1.0, "without times: its standard deviation", "logit", gt=0)
    substeps: int = note(
        0, "solver steps of the teacher from one of the times to the next; 0: its estimate", "steps", ge=0
    )
    inputs: Literal["data", "backward", "mix"] = note(
        "data", "what the student sees: noised data, its own sampling at 'times', or one of them by chance"
    )
    data_weight: Share = note(0.5, "chance of noised data with inputs: mix", "share")
    begin: Beginning | None = note(
        None, "batches whose first positions are known, so that the student goes on from a clip before, as its teacher"
    )
    sync: Gain | None = note(None, SYNC, "times")
    start: LocalPath | None = note(None, "a run whose student this one begins as; the teacher when left out")

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        usual = {"begin": None, "sync": None, "start": None, "time_mean": 0, "time_std": 1}
        return {k: v for k, v in whole(self).items() if k not in usual or v != usual[k]}

    @model_validator(mode="after")
    def _times_where_needed(self) -> MethodMixed:
        if self.times is None and (self.inputs != "data" or self.substeps):
            key = "substeps" if self.substeps else "inputs"
            raise fault(key, "needs the student's 'times'")
        if self.times is not None and (self.time_mean, self.time_std) != (0, 1):
            raise fault("time_mean", "is of students of any number of steps, and 'times' says those of this one")
        if self.inputs == "backward" and self.supervision is not None:
            raise fault("supervision", "needs noised data: inputs data or mix")
        return self
