"""What a config may say: every key with its meaning, unit, default and bounds. `vdistill check --keys` prints it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .fits import misfits
from .schema_method import Method
from .section import REQUIRED, Decay, LocalPath, Section, Share, Triple, Words, fault, faults, note

Attention = Literal[
    "native", "_native_math", "_native_efficient", "_native_flash", "_native_cudnn", "flex", "flash", "_flash_3",
    "sage", "xformers",
]  # fmt: skip
"""Backends of diffusers that are already on the machine; those it would fetch from the hub are left out."""
Count = Annotated[int, Field(ge=1)]


class FamilyTiny(Section):
    """A stock Wan pipeline of small dimensions, made new or opened from a folder."""

    name: Literal["tiny"] = note("tiny", "this family")
    path: LocalPath | None = note(None, "diffusers folder to start from, or 'shapes', the shipped teacher")
    dim: int = note(256, "width of the transformer", "channels", ge=8, le=16384)
    heads: int = note(8, "attention heads", "heads", ge=1)
    layers: int = note(6, "transformer blocks", "blocks", ge=1, le=256)
    ffn: int = note(768, "width inside the feed-forward layers", "channels", ge=1)
    text_dim: int = note(64, "width of the text encoder", "channels", ge=8)
    text_layers: int = note(1, "blocks of the text encoder", "blocks", ge=1)
    text_length: int = note(16, "longest caption", "tokens", ge=2, le=4096)
    patch_frames: int = note(4, "frames in one latent position of the pixel codec", "frames", ge=1)
    patch_size: int = note(8, "edge of one latent position of the pixel codec", "pixels", ge=1)
    codec: Literal["pixel", "wan"] = note("pixel", "pixel: exact patches; wan: a small AutoencoderKLWan, 4 x 8 x 8")
    mean: Triple = note((0.0, 0.0, 0.0), "pixel mean that the pixel codec takes off", "[-1, 1], R G B")
    std: float = note(0.5, "pixel deviation that the pixel codec divides by", "[-1, 1]", gt=0)
    frames: int = note(17, "length of a clip", "frames", ge=1)
    size: int = note(32, "height and width of a clip", "pixels", ge=1)
    shift: float = note(3.0, "time shift of the schedule; 1 is none", gt=0)
    predicts: Literal["x0", "flow"] = note("x0", "what the network says")
    attention: Attention | None = note(None, "attention backend by diffusers' name; PyTorch chooses when left out")

    @model_validator(mode="after")
    def _dimensions_fit(self) -> FamilyTiny:
        if self.path is not None:
            fixed = set(FamilyTiny.model_fields) - {"name", "path", "frames", "size", "attention"}
            changed = [f for f in fixed if getattr(self, f) != FamilyTiny.model_fields[f].default]
            if changed:
                raise fault(min(changed), f"is fixed by the folder {self.path!r}; leave it out")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise fault("heads", f"dim {self.dim} does not split into {self.heads} heads of an even width")
        if self.dim // self.heads < 8:
            raise fault("heads", f"{self.heads} heads of dim {self.dim} are narrower than 8 channels")
        return self


class FamilyAnalytic(Section):
    """A teacher known in closed form, with a small student beside it: the test bed of every method."""

    name: Literal["analytic"] = note("analytic", "this family")
    target: Literal["gaussian", "mixture", "ar1", "classes"] = note("mixture", "the law to learn")
    hidden: int = note(64, "width of the student", "channels", ge=1)
    layers: int = note(3, "hidden layers of the student", "layers", ge=1)
    schedule: Literal["rf", "vp", "trig", "edm"] = note("rf", "the path from data to noise")


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
    targets: Words = note(("to_q", "to_k", "to_v", "to_out.0"), "names of the linear layers that get one", min_length=1)


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
    critic_lr: float | None = note(None, "learning rate of the critic; lr when left out", gt=0, le=10)


class Train(Section):
    """How long, how much at once, and what is kept."""

    steps: int = note(REQUIRED, "optimizer steps", "steps", ge=1)
    batch: int = note(16, "samples in a micro-batch", "samples", ge=1)
    micro: int = note(1, "micro-batches per process and step", "micro-batches", ge=1)
    precision: Literal["no", "bf16"] = note("no", "arithmetic of the networks; no: float32")
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


Family = Annotated[FamilyTiny | FamilyAnalytic, Field(discriminator="name")]
Data = Annotated[DataShapes | DataLatents | DataPrompts | DataAnalytic, Field(discriminator="name")]
Scope = Annotated[ScopeFull | ScopeLora, Field(discriminator="name")]


class Config(Section):
    """A whole run."""

    name: str = note(REQUIRED, "name of the run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    seed: int = note(0, "of every draw; a run is a function of its config and seed", ge=0, lt=2**63)
    family: Family = note(REQUIRED, "the model")
    data: Data = note(REQUIRED, "what it learns from")
    method: Method = note(REQUIRED, "how it is taught")
    scope: Scope = note(ScopeFull(), "which weights are trained")
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
        family, data = (given.get(k) if isinstance(given, dict) else None for k in ("family", "data"))
        if not (isinstance(family, dict) and isinstance(data, dict) and family.get("name") == "tiny"):
            return given
        if data.get("name") not in ("shapes", "prompts"):
            return given
        keys = ("frames", "size")
        return {
            **given,
            "family": {**{k: data[k] for k in keys if k in data}, **family},
            "data": {**{k: family[k] for k in keys if k in family}, **data},
        }

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        found = [*misfits(self)]
        if found:
            raise faults(found)
        return self
