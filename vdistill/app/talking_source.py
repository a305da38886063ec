"""The user's own talking clips as training data: checked, cut, encoded, heard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from ..avatar.conditions import Conditions
from ..core.codec import Codec
from ..core.cond import Cond
from ..core.losses.mixed import QUALITY
from ..core.step import Batch
from ..data.bad_items import DataError, Policy, counted
from ..data.buckets import Bucket
from ..data.talking import Survey, TalkingData, stacked, survey
from ..data.talking_check import MASKS, TalkRule
from ..data.talking_clip import TalkClip
from ..data.talking_manifest import read_manifest
from .schema_avatar import DataTalking
from .talker_source import along_time


@dataclass(frozen=True)
class Joined:
    """Clips -> Batch: latents of the frames, conditions of sound, reference and text, shares of the regions.

    graded: whether some clips are poor; then the field "quality" [B] is there.
    """

    codec: Codec
    conditions: Conditions
    text: Callable[[Sequence[str]], Cond]
    graded: bool = False

    def __call__(self, clips: Sequence[TalkClip]) -> Batch:
        parts = stacked(clips)
        device = next(self.codec.vae.parameters(), torch.zeros(())).device  # type: ignore[attr-defined]
        x = self.codec.encode(parts["frames"].to(device))
        reference = self.codec.encode(parts["reference"][:, :, None].to(device))[:, :, 0].to("cpu")
        text = self.text([clip.text for clip in clips]).to("cpu")
        if "speakers" in parts:
            cond = self.conditions.several(parts["sound"], parts["speakers"], reference, text)
        else:
            cond = self.conditions(parts["sound"], reference, text, parts["valid"])
        if self.graded:
            cond = cond.with_field(QUALITY, parts["quality"])
        regions = {name: self.region(parts[name], x) for name in MASKS if name in parts}
        return Batch(x.to("cpu"), cond, keys=tuple(clip.key for clip in clips), regions=regions)

    def region(self, mask: Tensor, x: Tensor) -> Tensor:
        """[B, T, H, W] -> [B, 1, T', h, w]."""
        share = adaptive_avg_pool3d(mask[:, None], (mask.shape[1], x.shape[-2], x.shape[-1]))[:, 0]
        return along_time(share, self.codec)


def rule_of(d: DataTalking, clip: tuple[int, int, int]) -> TalkRule:
    """clip: frames, height and width of the family's clips."""
    frames, height, width = clip
    shape = Bucket(width, height)
    return TalkRule(frames, d.stride or frames, shape, d.grow, d.masks, d.clipped, d.tolerance, d.max_seconds)


def surveyed(d: DataTalking, clip: tuple[int, int, int]) -> Survey:
    """Every item of the manifest looked at; what is known of it lies beside it. UserError as the policy has it."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    path = Path(d.path)
    out = Path(d.out) if d.out else path.with_suffix(".checked")
    found = survey(path, rule_of(d, clip), Policy(d.policy, d.limit_bad), out, d.split, d.workers, say)
    clips = sum(len(each.starts) for each in found.items)
    skipped = f"; skipped {counted(found.bad)}, see {out}" if found.bad else ""
    say(f"{path}: {clips} clips of {len(found.items)} items{skipped}")
    items = (replace(each, item=replace(each.item, text=each.item.text or d.caption)) for each in found.items)
    return replace(found, items=tuple(items))


def talking_data(
    d: DataTalking,
    clip: tuple[int, int, int],
    codec: Codec,
    conditions: Conditions,
    text: Callable[[Sequence[str]], Cond],
    seed: int,
) -> TalkingData:
    """The clips of a manifest for a family that hears. UserError as the policy has it."""
    found = surveyed(d, clip)
    make = Joined(codec, conditions, text, any(each.item.quality < 1 for each in found.items))
    return TalkingData(found, rule_of(d, clip), make, tuple(codec.shape(*clip)), seed)


def talking_captions(d: DataTalking) -> list[str]:
    """What the manifest says of its clips."""
    lines = read_manifest(Path(d.path), d.split)
    return [line.text or d.caption for line in lines if not isinstance(line, DataError)] or [d.caption]
