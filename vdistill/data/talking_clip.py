"""One talking clip as tensors, out of an item that was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadMedia
from .face_box import around, cropped, read_track
from .face_image import read_face
from .media import Picture, Shot, show, to_float
from .sound import Sound
from .talking_check import FPS, SAMPLES, Checked, TalkRule, begins, numbered, read_mask, read_masks, sound_of, tracks


@dataclass(frozen=True)
class TalkClip:
    """key: id@seconds; frames [3, T, H, W] and reference [3, H, W] in [-1, 1]; sound [640 T] in [-1, 1], or
    [N, 640 T] of N speakers; valid [T]: 1 where there is sound, else silence was put; masks: face, lip, person
    [T, H, W] in [0, 1], those there are, and "speakers" [N, T, H, W]; quality: 1 good, 0 poor."""

    key: str
    frames: Tensor
    sound: Tensor
    valid: Tensor
    reference: Tensor
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    quality: float = 1.0
    text: str = ""


def read_clip(found: Checked, start: int, rule: TalkRule, reference: int) -> TalkClip:
    """The clip that begins at frame `start`; reference: the frame that shows the face. BadMedia when it has changed."""
    item = found.item
    sources, shots = _shots(found, range(start, start + rule.frames), reference, rule)
    cut = _Cut(found, show(shots[start]), rule)
    crop = cut.around([sources[k] for k in range(start, start + rule.frames)])
    frames = to_float([cut(show(shots[k]).pixels, crop) for k in range(start, start + rule.frames)])
    if item.image is not None:
        face = read_face(item.image, rule.shape, grow=rule.grow).pixels
    else:
        face = cut(show(shots[reference]).pixels, cut.around([sources[reference]]))
    sound, valid = _heard(found, start, rule)
    masks = _masks(found, cut, crop, [sources[k] for k in range(start, start + rule.frames)])
    key, still = f"{item.id}@{start / FPS:.2f}", to_float([face])[:, 0]
    return TalkClip(key, frames, sound, valid, still, masks, item.quality, item.text)


def _shots(found: Checked, wanted: range, reference: int, rule: TalkRule) -> tuple[dict[int, int], dict[int, Shot]]:
    """(number in the file, frame as decoded) of the wanted frames at 25 a second and the reference."""
    sources, shots = dict[int, int](), dict[int, Shot]()
    last = wanted[-1] if found.item.image is not None else max(wanted[-1], reference)
    for k, (number, shot) in enumerate(numbered(found.item, rule)):
        if k in wanted or k == reference:
            sources[k], shots[k] = number, shot
        if k == last or number >= found.count:
            break
    if last not in shots or sources[last] >= found.count:
        raise BadMedia(f"has other frames than the {found.count} it had", found.item.video.name)
    return sources, shots


class _Cut:
    """How pictures of an item are cut. first: one of them."""

    def __init__(self, found: Checked, first: Picture, rule: TalkRule) -> None:
        self.rule, self.aspect = rule, first.aspect
        self.height, self.width = first.pixels.shape[-2:]
        box = found.item.box
        self.boxes = read_track(box, found.count).tolist() if isinstance(box, Path) else [box] * found.count

    def around(self, numbers: Sequence[int]) -> tuple[int, ...] | None:
        """The crop that holds the face in all these frames of the file; None without a box."""
        boxes = [box for box in (self.boxes[i] for i in numbers) if box is not None]
        return around(boxes, self.width, self.height, self.rule.shape, self.rule.grow) if boxes else None

    def __call__(self, picture: Tensor, crop: tuple[int, ...] | None) -> Tensor:
        """uint8 [C, H, W] -> [C, height, width]."""
        return cropped(picture, crop, self.aspect, self.rule.shape)


def _heard(found: Checked, start: int, rule: TalkRule) -> tuple[Tensor, Tensor]:
    """(sound [640 T] or [N, 640 T], valid [T])."""
    item, begin = found.item, begins(found.item.video)
    sounds = [_part(sound_of(path, item, rule, begin), start, rule.frames) for path in tracks(item)]
    valid = (torch.arange(start, start + rule.frames) < found.sound).float()
    return (torch.stack(sounds) if item.speakers else sounds[0]), valid


def _part(sound: Sound, start: int, frames: int) -> Tensor:
    part = sound.samples[SAMPLES * start : SAMPLES * (start + frames)]
    return torch.nn.functional.pad(part, (0, SAMPLES * frames - len(part)))


def _masks(found: Checked, cut: _Cut, crop: tuple[int, ...] | None, sources: Sequence[int]) -> dict[str, Tensor]:
    """Cut like the frames, float32 [T, H, W] in [0, 1]."""
    item, size = found.item, (cut.width, cut.height)

    def fitted(values: np.ndarray) -> Tensor:
        chosen = values[[*sources]] if len(values) > 1 else values.repeat(len(sources), 0)
        return torch.stack([cut(torch.from_numpy(one)[None], crop)[0] for one in chosen]).float() / 255

    masks = {}
    if item.masks is not None:
        masks = {k: fitted(v) for k, v in read_masks(item.masks, found.count, size).items()}
    own = [fitted(read_mask(each.mask, found.count, size)) for each in item.speakers if each.mask is not None]
    return {**masks, "speakers": torch.stack(own)} if own else masks
