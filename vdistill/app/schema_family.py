"""The `family:` section of a config: the model. A new small one, a test bed, or a published teacher."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from .schema_avatar import AdaptersSpec
from .section import REQUIRED, LocalPath, Section, Triple, fault, note

Attention = Literal[
    "native", "_native_math", "_native_efficient", "_native_flash", "_native_cudnn", "flex", "flash", "_flash_3",
    "sage", "xformers",
]  # fmt: skip
"""Backends of diffusers that are already on the machine; those it would fetch from the hub are left out."""
Stock = Literal[
    "wan", "cogvideox", "hunyuan", "hunyuan15", "ltx", "animatediff", "sd", "sdxl", "sd3", "flux", "pixart", "dit"
]  # fmt: skip
"""Families over published pipelines."""
IMAGES = ("sd", "sdxl", "sd3", "flux", "pixart", "dit")


class Adaptable(Section):
    """A family whose network may get adapters, written down only where it does, so that runs from before go on."""

    adapters: AdaptersSpec | None = note(None, "new adapters, by which the network hears and looks at a reference")

    @model_serializer(mode="wrap")
    def _without_none(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in whole(self).items() if k != "adapters" or v is not None}


class FamilyTiny(Adaptable):
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

    @property
    def clip(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.frames, self.size, self.size

    @model_validator(mode="after")
    def _dimensions_fit(self) -> FamilyTiny:
        if self.path is not None:
            fixed = set(FamilyTiny.model_fields) - {"name", "path", "frames", "size", "attention", "adapters"}
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


class FamilyStock(Adaptable):
    """A published teacher: a folder of its stock diffusers pipeline."""

    name: Stock = note(REQUIRED, "this family")
    path: LocalPath | None = note(None, "diffusers folder of the teacher")
    random_tiny: str | None = note(None, "instead of a folder, random weights of this tiny variant: to try a recipe")
    frames: int = note(1, "length of a clip; images have one frame", "frames", ge=1)
    height: int = note(REQUIRED, "height of a clip", "pixels", ge=8)
    width: int = note(REQUIRED, "width of a clip", "pixels", ge=8)
    shift: float | None = note(None, "time shift of the schedule; the folder's scheduler says it when left out", gt=0)
    negative: str = note("", "the negative prompt that stands for no caption")
    dtype: Literal["float32", "bfloat16"] = note("float32", "type of the frozen weights")
    fp8: bool = note(False, "keep the frozen weights in 8 bits and compute in dtype")
    offload: Literal["none", "block", "leaf"] = note("none", "keep frozen weights in host memory, by groups")
    attention: Attention | None = note(None, "attention backend by diffusers' name; PyTorch chooses when left out")
    tiling: bool = note(False, "encode and decode in tiles, to save memory")
    long_text: Literal["refuse", "cut"] = note("refuse", "captions longer than the model reads")
    frame_rate: float | None = note(
        None, "ltx: rate of the clips, which its network is told; 25 when left out", "frames a second", gt=0, le=480
    )
    dynamic_guidance: bool = note(False, "guidance that grows on the way, as CogVideoX's pipeline can")

    @property
    def clip(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    @model_validator(mode="after")
    def _one_source(self) -> FamilyStock:
        if (self.path is None) == (self.random_tiny is None):
            raise fault("path", "name the teacher's folder in path, or a tiny variant in random_tiny, one of them")
        if self.name in IMAGES and self.frames != 1:
            raise fault("frames", f"{self.name} makes images; frames must be 1, found {self.frames}")
        if self.frame_rate is not None and self.name != "ltx":
            raise fault("frame_rate", f"{self.name} is told no frame rate, ltx is; leave it out")
        if self.fp8 and self.dtype == "float32":
            raise fault("dtype", "fp8 weights are computed with in bfloat16; say dtype: bfloat16")
        return self
