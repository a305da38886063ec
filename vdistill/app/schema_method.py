"""The `method:` section of a config: how the student is taught. One class a method, told apart by `name`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .schema_adversarial import (
    GoesOn,
    MethodAdd,
    MethodFrameMatching,
    MethodJudgedConsistency,
    MethodProgressive,
    MethodRegression,
)
from .schema_causal import MethodCausalConsistency, MethodForcing, MethodOdeInit
from .schema_drop import Dropping
from .schema_judge import Judge, MethodAdversarial
from .schema_scales import MethodMixed
from .schema_steps import SYNC, Beginning, FewSteps, Gain
from .section import Counts, Few, Interval, Section, Share, Words, fault, note

Weighting = Literal["flow", "v", "uniform", "snr"]


class GuidanceSpec(Section):
    """What the teacher says: which conditions it is guided by, and how strongly. A scale of 1 means none."""

    kind: Literal["cfg", "chain", "star", "joint"] = note(
        "cfg", "cfg: one condition; joint: several at once; chain: added in turn; star: each against going without it"
    )
    scale: float = note(2.0, "scale of cfg and joint; 1 means none", "times", ge=0, le=100)
    names: Words | None = note(None, "conditions that cfg and joint go without; the family's when left out")
    scales: dict[str, float] | None = note(None, "condition -> scale of chain (in the order given) and star", "times")
    interval: Interval | None = note(None, "[low, high]: the times in which it acts; all when left out", "t, 1 = noise")
    rescale: Share = note(0.0, "how far the standard deviation is brought back to the unguided one", "share")
    apg: bool = note(False, "adaptive projected guidance: only the part that is not parallel to the estimate")

    @model_validator(mode="after")
    def _scales_where_they_belong(self) -> GuidanceSpec:
        several = self.kind in ("chain", "star")
        if several and not self.scales:
            raise fault("scales", f"{self.kind} needs a scale for each condition, such as (text: 4.0)")
        if not several and self.scales is not None:
            raise fault("scales", f"belongs to chain and star; {self.kind} takes 'scale' and 'names'")
        if several and self.names is not None:
            raise fault("names", f"belongs to cfg and joint; {self.kind} takes 'scales'")
        if self.names is not None and (not self.names or len(set(self.names)) != len(self.names)):
            raise fault("names", f"must be different conditions, found {[*self.names]}")
        if self.kind == "cfg" and self.names is not None and len(self.names) != 1:
            raise fault("names", f"cfg goes without one condition, found {[*self.names]}; joint takes several")
        return self


class MethodFlow(Dropping):
    """Flow / diffusion training from data: makes teachers."""

    later: ClassVar[tuple[str, ...]] = ("drop", "regions", "begin", "sync")
    name: Literal["flow"] = note("flow", "this method")
    time_mean: float = note(0.0, "mean of the logit-normal law of t, before the time shift", "logit")
    time_std: float = note(1.0, "its standard deviation", "logit", gt=0)
    floor: float = note(0.05, "smallest t in the loss weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    weight: Weighting = note("flow", "whose squared error is minimised: flow, v, or x0 with weight uniform or snr")
    regions: dict[str, Gain] | None = note(None, "region of the data -> how much more an error counts there", "times")
    begin: Beginning | None = note(
        None, "samples whose first positions are known, so that the model goes on from a clip before"
    )
    sync: Gain | None = note(None, SYNC, "times")


class MethodGuidance(Section):
    """Guidance distillation: one pass for two, with the scale as an input (or fixed, where low = high)."""

    name: Literal["guidance"] = note("guidance", "this method")
    scale_low: float = note(1.0, "smallest scale learned; 1 means none", "times", ge=0, le=100)
    scale_high: float = note(4.0, "largest scale learned", "times", ge=0, le=100)
    condition: str | None = note(None, "the condition it guides; the family's when left out")
    floor: float = note(0.05, "smallest t in the loss weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    times: Few | None = note(None, "times of a few-step student; any number of steps when left out", "t, 1 = noise")
    inputs: Literal["data", "backward", "mix", "bank"] = note(
        "data",
        "what the student sees: noised data, its own sampling at 'times', one of them by chance, or, where data is a "
        "bank, states of the clip's own trajectory",
    )
    data_weight: Share = note(0.5, "chance of noised data with inputs: mix", "share")
    truth: int | None = note(
        None,
        "of causal students of data whose past says how it goes on: latent frames after which the goal is the clip "
        "itself, sharper than the teacher's estimate of it; the teacher's everywhere when left out",
        "latents",
        ge=1,
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        return {k: v for k, v in whole(self).items() if k != "truth" or v is not None}

    @model_validator(mode="after")
    def _own_sampling_needs_times(self) -> MethodGuidance:
        if self.inputs not in ("data", "bank") and self.times is None:
            raise fault("inputs", f"{self.inputs} is the student's own sampling, which needs its 'times'")
        return self

    @model_validator(mode="after")
    def _a_range(self) -> MethodGuidance:
        if self.scale_low > self.scale_high:
            raise fault("scale_low", f"{self.scale_low:g} is above scale_high {self.scale_high:g}")
        return self


class MethodLcm(FewSteps):
    """Latent consistency distillation: the student jumps from any time to the clean sample."""

    name: Literal["lcm"] = note("lcm", "this method")
    teacher_steps: int = note(50, "steps of the teacher's grid", "steps", ge=1, le=1000)
    skip: int = note(1, "grid steps the teacher goes at once", "steps", ge=1)
    guidance_low: float = note(2.0, "smallest guidance scale of the teacher; 1 means none", "times", ge=0, le=100)
    guidance_high: float = note(2.0, "largest guidance scale of the teacher", "times", ge=0, le=100)
    condition: str | None = note(None, "the condition it is guided by; the family's when left out")
    huber_c: float = note(0.001, "where the pseudo-Huber distance turns from square to absolute", "latent", gt=0)
    solver: Literal["ddim", "heun"] = note("ddim", "solver of the teacher's step")
    embed_guidance: bool = note(False, "give the scale to the student as an input, so that it stays a dial")

    @model_validator(mode="after")
    def _numbers_fit(self) -> MethodLcm:
        if self.guidance_low > self.guidance_high:
            raise fault("guidance_low", f"{self.guidance_low:g} is above guidance_high {self.guidance_high:g}")
        if self.skip > self.teacher_steps:
            raise fault("skip", f"{self.skip} steps at once on a grid of teacher_steps {self.teacher_steps}")
        return self


class MethodDmd2(GoesOn):
    """Distribution matching (DMD2): follow teacher minus critic on the student's own samples, with a GAN if wished."""

    name: Literal["dmd2"] = note("dmd2", "this method")
    guidance: GuidanceSpec = note(GuidanceSpec(), "guidance of the teacher")
    critic_per_student: int = note(5, "critic updates for each of the student's", "updates", ge=1)
    t_min: Share = note(0.02, "smallest time at which teacher and critic are compared", "t, 1 = noise")
    t_max: Share = note(0.98, "largest time at which teacher and critic are compared", "t, 1 = noise")
    floor: float = note(0.05, "smallest t in the critic's loss weight 1 / t^2", "t, 1 = noise", gt=0, le=1)
    objective: Literal["dmd", "sid"] = note(
        "dmd", "dmd: reverse KL; sid: score identity (Fisher divergence), with gradients through teacher and critic"
    )
    divergence: Literal[
        "reverse_kl", "softened_reverse_kl", "jensen_shannon", "hellinger", "forward_kl", "jeffreys"
    ] = note(
        "reverse_kl",
        "f-divergence of objective: dmd (f-distill); any but reverse_kl weighs samples by the teacher's density over "
        "their own, which a judge tells; forward_kl and jeffreys keep most modes",
    )
    sid_alpha: float = note(1.0, "alpha of objective: sid; 0.5 is the divergence itself", ge=0, le=2)
    inputs: Literal["backward", "data", "mix", "bank", "rollout"] = note(
        "backward",
        "what the student denoises: its own sampling, noised data (of a causal student every block at a step of its "
        "own, CausVid), one of them by chance, where data is a bank states of the clip's own trajectory, or, of a "
        "causal student, its own rollout (Self-Forcing)",
    )
    data_weight: Share = note(0.5, "chance of noised data with inputs: mix", "share")
    gan_weight: float = note(0.0, "weight of the GAN term in the student's loss; 0: no GAN", ge=0)
    gan_watch_weight: float = note(0.01, "weight of the GAN term in the critic's loss", ge=0)
    gan_loss: Literal["ns", "minimax", "hinge", "lsgan", "wgan", "relativistic"] = note("ns", "kind of the GAN loss")
    gan_layers: Counts = note((), "critic's blocks that feed the GAN; middle and last when left out", "block, from 0")
    judge: Judge | None = note(None, "a discriminator of more kinds, in place of the gan_ keys")
    critic_lr: float | None = note(None, "learning rate of the critic; optim's when left out", gt=0)

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        later = {"judge": None, "divergence": "reverse_kl", "start": None}
        return {k: v for k, v in whole(self).items() if k not in later or v != later[k]}

    @model_validator(mode="after")
    def _one_judge(self) -> MethodDmd2:
        fields = MethodDmd2.model_fields
        gan = [key for key in fields if key.startswith("gan_") and getattr(self, key) != fields[key].default]
        if self.judge is not None and gan:
            raise fault(gan[0], "and judge are two ways to say one thing; say it in judge")
        return self

    @model_validator(mode="after")
    def _numbers_fit(self) -> MethodDmd2:
        if self.t_min >= self.t_max:
            raise fault("t_min", f"{self.t_min:g} is not below t_max {self.t_max:g}")
        if "sid_alpha" in self.model_fields_set and self.sid_alpha != 1.0 and self.objective != "sid":
            raise fault("sid_alpha", "has no effect with objective: dmd; it belongs to objective: sid")
        if self.divergence != "reverse_kl":
            self._ratio_is_known()
        if self.gan_layers and not self.gan_weight:
            raise fault("gan_layers", "has no effect while gan_weight is 0")
        if "data_weight" in self.model_fields_set and self.data_weight != 0.5 and self.inputs != "mix":
            raise fault("data_weight", f"has no effect with inputs: {self.inputs}; it belongs to inputs: mix")
        return self

    def _ratio_is_known(self) -> None:
        """Only a logistic judge that meets nothing else than real and generated samples tells their ratio."""
        judge, key = self.judge, "divergence"
        if self.objective != "dmd":
            raise fault(key, f"has no effect with objective: {self.objective}; it belongs to objective: dmd")
        if judge is None and not self.gan_weight:
            raise fault(key, f"{self.divergence} needs a judge: add judge: {{}} or gan_weight")
        loss = self.gan_loss if judge is None else judge.loss
        if loss not in ("ns", "minimax"):
            raise fault(key, f"{self.divergence} needs a judge whose logit is a log ratio: ns or minimax, not {loss}")
        if judge is not None and judge.mismatched:
            raise fault(key, f"{self.divergence} needs a judge of samples alone; leave mismatched out")


Method = Annotated[
    MethodFlow
    | MethodForcing
    | MethodOdeInit
    | MethodCausalConsistency
    | MethodGuidance
    | MethodMixed
    | MethodLcm
    | MethodDmd2
    | MethodAdversarial
    | MethodProgressive
    | MethodRegression
    | MethodJudgedConsistency
    | MethodAdd
    | MethodFrameMatching,
    Field(discriminator="name"),
]
