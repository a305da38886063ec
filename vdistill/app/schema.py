"""What a config may say: every key with its meaning, unit, default and bounds. `vdistill check --keys` prints it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .fits import misfits
from .schema_avatar import DataTalker, DataTalking, Scales
from .schema_causal import Causal
from .schema_family import FamilyAnalytic, FamilyStock, FamilyTiny
from .schema_method import Method
from .schema_scales import ScalesSpec
from .section import REQUIRED, Decay, LocalPath, Section, Share, Words, fault, faults, note

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]


class DataShapes(Section):
    """The shapes world: captioned clips made on the way, no two the same."""

    name: Literal["shapes"] = note("shapes", "this data")
    frames: int = note(17, "length of a clip; the family's when left out", "frames", ge=1)
    size: int = note(32, "height and width; the family's when left out", "pixels", ge=8)
    counts: Annotated[tuple[Count, ...], Field(strict=False)] = note(
        (1,), "how many things a clip shows, each equally likely", "things", min_length=1
    )
    open: Share = note(0.1, "chance that a caption leaves an attribute open", "share")
    images: Share = note(0.0, "share of one-frame clips", "share")
    turning: Share = note(0.0, "extra share of clips whose first thing rotates, the hardest motion to learn", "share")
    late: int = note(
        0, "clips begin at a random frame up to this one of endless scenes, in which movers bounce", "frames", ge=0
    )

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        return {k: v for k, v in whole(self).items() if k != "late" or v}


class DataLatents(Section):
    """Latents that `vdistill prepare` made of the user's own clips."""

    name: Literal["latents"] = note("latents", "this data")
    path: LocalPath = note(REQUIRED, "folder written by vdistill prepare")


class DataPrompts(Section):
    """Captions alone, for methods that need no clips. path: a text file, one caption a line, or a prepared folder."""

    name: Literal["prompts"] = note("prompts", "this data")
    path: LocalPath = note(REQUIRED, "text file with one caption a line, or a folder of vdistill prepare")
    frames: int = note(17, "length of the clips to generate; the family's when left out", "frames", ge=1)
    size: int = note(32, "height and width; the family's when left out", "pixels", ge=1)


class DataMedia(Section):
    """The user's own videos and images, encoded while training; `vdistill prepare` encodes them once instead."""

    name: Literal["media"] = note("media", "this data")
    path: LocalPath = note(REQUIRED, "folder of files, metadata.jsonl or metadata.csv")
    fps: float = note(8.0, "rate at which frames are taken, by timestamps", "frames a second", gt=0, le=480)
    stride: int | None = note(None, "from one clip of a video to the next; its length when left out", "frames", ge=1)
    buckets: Words = note((), "sizes WIDTHxHEIGHT, each file gets the nearest aspect; the family's when left out")
    images: bool = note(False, "take images too, as clips of one frame")
    caption: str | None = note(None, "caption of files that come without one")
    limit_bad: Share = note(0.05, "share of bad files that stops", "share")
    max_seconds: float = note(600.0, "longest video taken", "seconds", gt=0)
    max_pixels: int = note(4096 * 2304, "largest frame taken", "pixels", ge=1)


Part = Annotated[DataShapes | DataLatents | DataMedia, Field(discriminator="name")]


class DataMix(Section):
    """Several kinds of data, each micro-batch from one of them, drawn by weight; images with videos, for example."""

    name: Literal["mix"] = note("mix", "this data")
    parts: Annotated[tuple[Part, ...], Field(strict=False)] = note(REQUIRED, "sections like data itself", min_length=1)
    weights: Annotated[tuple[Weight, ...], Field(strict=False)] = note((), "how often each; equal when left out")

    @model_validator(mode="after")
    def _a_weight_for_each(self) -> DataMix:
        if self.weights and (len(self.weights) != len(self.parts) or not sum(self.weights)):
            raise fault("weights", f"{[*self.weights]} for {len(self.parts)} parts; one for each, such as [0.7, 0.3]")
        return self


class DataBank(Section):
    """A teacher's trajectories that `vdistill bank` wrote: their ends are the clips, their conditions the captions."""

    name: Literal["bank"] = note("bank", "this data")
    path: LocalPath = note(REQUIRED, "folder written by vdistill bank")


class DataAnalytic(Section):
    """Samples of the analytic family's own law."""

    name: Literal["analytic"] = note("analytic", "this data")


class ScopeFull(Section):
    """Train all weights; every role is a network of its own."""

    name: Literal["full"] = note("full", "this scope")


class ScopeLora(Section):
    """Train low-rank adapters; teacher, student and critic are one frozen base."""

    name: Literal["lora"] = note("lora", "this scope")
    rank: int = note(16, "rank of the adapters", ge=1, le=4096)
    alpha: float | None = note(None, "their strength is alpha / rank; alpha = rank when left out", gt=0)
    targets: Words | None = note(None, "names of the linear layers that get one; the family's when left out")


class Optim(Section):
    """How weights move."""

    name: Literal["adamw", "muon"] = note("adamw", "muon: Muon for the matrices inside blocks, AdamW for the rest")
    lr: float = note(1e-4, "peak learning rate", gt=0, le=10)
    betas: Annotated[tuple[Decay, Decay], Field(strict=False)] = note((0.9, 0.95), "AdamW's averaging of the gradient")
    weight_decay: float = note(0.0, "decoupled weight decay", ge=0)
    warmup: int = note(10, "steps over which lr rises", "steps", ge=0)
    decay: Share = note(0.0, "share of the run, at its end, over which lr falls", "share")
    clip: float = note(1.0, "largest gradient norm", gt=0)
    ema: float = note(0.99, "decay of the weight average that is validated and exported; 0 for none", ge=0, lt=1)
    ema_warmup: bool = note(
        True, "the average begins with a short memory and forgets what the run started from; false where that is good"
    )
    critic_lr: float | None = note(None, "learning rate of the critic; lr when left out", gt=0, le=10)

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        return {k: v for k, v in whole(self).items() if k != "ema_warmup" or not v}


class Train(Section):
    """How long, how much at once, and what is kept."""

    steps: int = note(REQUIRED, "optimizer steps", "steps", ge=1)
    batch: int = note(16, "samples in a micro-batch", "samples", ge=1)
    micro: int = note(1, "micro-batches per process and step", "micro-batches", ge=1)
    precision: Literal["no", "bf16"] = note(
        "no", "arithmetic of the networks; no: float32, which CPUs without bf16 take"
    )
    threads: int | None = note(None, "CPU threads; PyTorch decides when left out", "threads", ge=1)
    checkpoint_every: int = note(100, "steps between checkpoints; 0: at the end only", "steps", ge=0)
    keep: int = note(2, "checkpoints kept", "checkpoints", ge=1)
    guidance_batch: int | None = note(None, "most samples in one guided forward, to save memory", "samples", ge=1)
    max_bad: int = note(5, "updates that are not finite, in a row, before the run stops", "updates", ge=1)
    gradient_checkpointing: bool = note(False, "compute activations twice to save memory")


class Validation(Section):
    """Clips made while training."""

    every: int = note(0, "steps between validations; 0 for none", "steps", ge=0)
    prompts: Words = note((), "captions; the data's own when left out")
    steps: int = note(4, "passes, where the student's own number does not say", "passes", ge=1, le=1000)
    guidance: float = note(1.0, "guidance scale; 1 means none", "times", ge=0, le=100)
    seed: int = note(0, "of the first noise", ge=0)
    image: LocalPath | None = note(None, "first picture of all clips, for a teacher that starts from one")
    scales: Scales | None = note(
        None, "of talking heads: condition -> guidance scale, added in the order given", "times"
    )

    @model_serializer(mode="wrap")
    def _without_none(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in whole(self).items() if k != "scales" or v is not None}


Family = Annotated[FamilyTiny | FamilyStock | FamilyAnalytic, Field(discriminator="name")]
Data = Annotated[
    DataShapes | DataLatents | DataPrompts | DataMedia | DataMix | DataBank | DataTalker | DataTalking | DataAnalytic,
    Field(discriminator="name"),
]
Scope = Annotated[ScopeFull | ScopeLora, Field(discriminator="name")]


class Config(Section):
    """A whole run."""

    name: str = note(REQUIRED, "name of the run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    seed: int = note(0, "of every draw; a run is a function of its config and seed", ge=0, lt=2**63)
    family: Family = note(REQUIRED, "the model")
    data: Data = note(REQUIRED, "what it learns from")
    method: Method = note(REQUIRED, "how it is taught")
    scope: Scope = note(ScopeFull(), "which weights are trained")
    causal: Causal | None = note(None, "a student that makes a clip block by block; left out, it sees the whole clip")
    scales: ScalesSpec | None = note(None, "guidance by several conditions, whose scales the student is told")
    optim: Optim = note(Optim(), "how weights move")
    train: Train = note(REQUIRED, "how long")
    validation: Validation = note(Validation(), "clips made while training")
    report_to: Annotated[tuple[Literal["tensorboard", "wandb"], ...], Field(strict=False)] = note(
        (), "trackers beside metrics.jsonl, which is always written"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_length_and_size(cls, given: Any) -> Any:
        """frames and size are said once: data takes the family's, the family data's."""
        return _said_once(given)

    @model_serializer(mode="wrap")
    def _without_no_scales(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs without scales are written down as they were before there were any, and so go on."""
        return {k: v for k, v in whole(self).items() if k != "scales" or v is not None}

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        found = [*misfits(self)]
        if found:
            raise faults(found)
        return self


def _said_once(given: Any) -> Any:
    """A config whose family and data both have the frames and size that one of them says."""
    family, data = (given.get(k) if isinstance(given, dict) else None for k in ("family", "data"))
    if not (isinstance(family, dict) and isinstance(data, dict) and family.get("name") != "analytic"):
        return given
    if data.get("name") == "mix" and isinstance(data.get("parts"), list):  # its worlds take the family's
        parts = [_said_once({"family": family, "data": part})["data"] for part in data["parts"]]
        return {**given, "data": {**data, "parts": parts}}
    if data.get("name") not in ("shapes", "prompts", "talker"):
        return given
    keys = ("frames", "size")
    if family.get("name") != "tiny":  # height and width; the shapes world is square
        said = {"frames": family.get("frames", 1), "size": family.get("height")}
        return {**given, "data": {**({} if None in said.values() else said), **data}}
    return {
        **given,
        "family": {**{k: data[k] for k in keys if k in data}, **family},
        "data": {**{k: family[k] for k in keys if k in family}, **data},
    }
