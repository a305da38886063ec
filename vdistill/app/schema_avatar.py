"""The parts of a config that make talking heads: adapters beside a stock network, and clips that talk."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .section import REQUIRED, LocalPath, Section, Share, Words, fault, note

Scales = dict[str, Annotated[float, Field(ge=0, le=100)]]


class AdaptersSpec(Section):
    """New adapters: the network hears, and looks at a reference. A folder that has some opens with them."""

    bands: int = note(40, "mel bands of the sound's features", "bands", ge=20, le=128)
    causal: bool = note(False, "features of a frame see no sound after it")
    ahead: int = note(
        2, "frames after its own that a latent position hears; 0 of a causal window", "frames", ge=0, le=4
    )
    width: int = note(128, "width of the tokens that sound and reference become", "channels", ge=8)
    ref: bool = note(True, "whether a reference image is read")
    near: bool = note(True, "whether the reference is also added where it lies")
    every: int = note(1, "each how many-th block reads them", "blocks", ge=1)


class DataTalking(Section):
    """The user's own talking clips at 25 frames a second, encoded while training; every item is checked first."""

    name: Literal["talking"] = note("talking", "this data")
    path: LocalPath = note(REQUIRED, "manifest, a .jsonl of one clip a line")
    split: str = note("", "take only lines of this split, and those that name none")
    stride: int | None = note(None, "from one clip of an item to the next; its length when left out", "frames", ge=1)
    grow: float = note(1.4, "crop over face box", "times", ge=1, le=4)
    masks: Words = note((), "masks each item must have: face, lip, person")
    caption: str = note("a person speaks", "caption of items that say none")
    policy: Literal["skip", "strict"] = note("skip", "of bad items: skip and list them, or stop at the first")
    limit_bad: Share = note(0.05, "share of bad items that stops", "share")
    clipped: Share = note(0.05, "share of samples at full scale above which sound is refused", "share")
    tolerance: int = note(2, "by how much sound and picture may differ in length unsaid", "frames", ge=0)
    max_seconds: float = note(600.0, "longest file taken", "seconds", gt=0)
    out: str | None = note(None, "folder for bad_items.jsonl and what is known of each item; else beside the manifest")
    workers: int = note(2, "items looked at side by side", "threads", ge=1, le=64)


class DataTalker(Section):
    """The talker world: synthesised speech and the face that speaks it, cut at random out of a stock of takes."""

    later: ClassVar[tuple[str, ...]] = ("listen", "duo")
    name: Literal["talker"] = note("talker", "this data")
    frames: int = note(17, "length of a clip; the family's when left out", "frames", ge=1)
    size: int = note(64, "height and width; the family's when left out", "pixels", ge=16)
    takes: int = note(1024, "how many takes there are to cut from, each made when it is first wanted", "takes", ge=1)
    take: int = note(97, "length of a take", "frames", ge=1)
    edge: Share = note(0.25, "share of clips that hear nothing of what was before and after them", "share")
    listen: Share = note(0.5, "share of silent positions told as a speaker who listens", "share")
    duo: Share = note(
        0.0, "share of batches of two people side by side, twice as wide; damaged takes are of one person", "share"
    )
    mq: Share = note(0.0, "share of takes of people nobody else is, damaged; the others show a fixed cast", "share")
    damage: dict[str, Share] | None = note(
        None, "fault -> how often damaged takes have it; the world's own when left out, () for open people undamaged"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is not the usual, so that runs from before go on."""
        usual = {key for key in self.later if getattr(self, key) == DataTalker.model_fields[key].default}
        return {k: v for k, v in whole(self).items() if k not in usual}

    @model_validator(mode="after")
    def _a_clip_fits(self) -> DataTalker:
        if self.take < self.frames:
            raise fault("take", f"of {self.take} frames is shorter than a clip of {self.frames}")
        return self
