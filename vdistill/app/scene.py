"""Several people in one picture, each with a sound and a mask: `vdistill talk --speaker AUDIO:MASK.png`, repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ..avatar.rates import RATE, SAMPLES
from ..avatar.session import Meter
from ..core.cond import Cond
from ..core.errors import BadMedia, UserError
from ..data.buckets import Bucket
from ..data.face_box import cropped
from ..data.face_image import read_face
from ..data.media import Limits, bound, reason
from ..data.paths import open_regular
from ..data.sound import Sound, read_sound
from ..families.stock import StockFamily
from .build_avatar import conditions_of, smallest
from .speaker import Speaker

LONGEST = 600.0  # seconds: masks and sound of a whole scene are held at once
WIDEST = 4  # times as wide as high, or the other way
SHOWN = 1e-3  # share of the picture below which a mask shows nobody


@dataclass(frozen=True)
class Voice:
    """Who speaks: the file of what is said, and the PNG that is white where they are."""

    sound: Path
    mask: Path


@dataclass(frozen=True)
class Scene:
    """picture: [3, H, W] in [-1, 1]; masks: [N, H, W] in [0, 1]; tracks: [N, samples] at 16 kHz; remarks: to tell."""

    picture: Tensor
    masks: Tensor
    tracks: Tensor
    remarks: tuple[str, ...] = ()

    @property
    def sound(self) -> Tensor:
        """What is heard of all, [samples]."""
        return self.tracks.sum(0).clamp(-1, 1)


def voices_of(told: Sequence[str]) -> list[Voice]:
    """ "a.wav:a.png" -> whose sound and mask. UserError for anything else."""
    found = []
    for text in told:
        sound, colon, mask = text.rpartition(":")
        if not colon or not sound or not mask:
            raise UserError(f"expected AUDIO:MASK.png such as ann.wav:ann.png, found {text!r}", "--speaker")
        found.append(Voice(Path(sound), Path(mask)))
    return found


def read_scene(image: Path, voices: Sequence[Voice], family: StockFamily, side: int) -> Scene:
    """A picture of several people with what each says. side: pixels of the model's height, which the picture gets.

    BadMedia, in one line: a picture, a sound or a mask that does not open, a mask of another size or of nobody, two of
    the same place.
    """
    width, height = size_of(image)
    shape = scene_shape(width, height, side, smallest(family), image)
    face = read_face(image, shape, (0, 0, width, height), grow=1.0, faces=len(voices), masks=True)
    masks = torch.stack([read_mask(voice.mask, (width, height), face.crop, shape) for voice in voices])
    for i in range(1, len(masks)):
        shared = torch.minimum(masks[:i], masks[i]).sum((1, 2)) / masks[i].sum()
        if float(shared.max()) > 0.5:
            raise BadMedia(f"lies on that of {voices[int(shared.argmax())].mask.name}", voices[i].mask.name)
    sounds = [read_sound(voice.sound, seconds=LONGEST) for voice in voices]
    said = [*face.remarks, *(f"{v.sound}: {r.text}" for v, s in zip(voices, sounds, strict=True) for r in s.remarks)]
    return Scene(face.pixels.float() / 127.5 - 1, masks, together(sounds), tuple(said))


def size_of(image: Path) -> tuple[int, int]:
    """(width, height) of a picture as it is looked at. BadMedia for none."""
    try:
        with open_regular(image) as handle, Image.open(handle) as opened:
            bound(opened.width, opened.height, Limits(), image)
            turned = ImageOps.exif_transpose(opened)
            return turned.width, turned.height
    except UserError:
        raise
    except FileNotFoundError as error:
        raise BadMedia("no such file", str(image)) from error
    except Exception as error:  # hostile files raise what they like
        raise BadMedia(f"is not a readable image ({reason(error)})", image.name) from error


def scene_shape(width: int, height: int, side: int, token: tuple[int, int], image: Path) -> Bucket:
    """The model's height, and the width nearest the picture's aspect that tokens (high, wide) tile."""
    if max(width / height, height / width) > WIDEST:
        what = f"is {width}x{height}, more than {WIDEST} times as long one way as the other"
        raise BadMedia(what, image.name, "cut it around the people")
    return Bucket(max(1, round(side * width / height / token[1])) * token[1], side)


def read_mask(path: Path, size: tuple[int, int], crop: tuple[int, ...] | None, shape: Bucket) -> Tensor:
    """[H, W] of the model's picture, 1 where a mask as large as the file's picture is white."""
    found = size_of(path)
    if found != size:
        what = f"is {found[0]}x{found[1]}, the picture {size[0]}x{size[1]}"
        raise BadMedia(what, path.name, "a mask has the size of the picture")
    with open_regular(path) as handle, Image.open(handle) as image:
        grey = ImageOps.exif_transpose(image).convert("L")
        levels = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8).view(1, size[1], size[0])
    mask = cropped(levels, crop, 1.0, shape)[0].float() / 255
    if float(mask.mean()) < SHOWN:
        raise BadMedia("shows nobody", path.name, "white is where the one who speaks is")
    return mask


def together(sounds: Sequence[Sound]) -> Tensor:
    """[N, samples]: all as long as the longest, followed by silence."""
    longest = max(len(sound.samples) for sound in sounds)
    return torch.stack([pad(sound.samples, (0, longest - len(sound.samples))) for sound in sounds])


@torch.no_grad()
def spoken(speaker: Speaker, scene: Scene, block: int | None = None, meter: Meter | None = None) -> Iterator[Tensor]:
    """Frames [3, n, H, W] of a scene, block after block, as many as the sound has whole frames. UserError for less than
    one. speaker: made for the scene's picture; meter: is told what each block took. The past is shown as it is here:
    noise on it hides that a silent mouth is closed (docs/log.md)."""
    total, meter = scene.tracks.shape[1] // SAMPLES, meter or Meter(0.0)
    if not total:
        raise UserError(f"lasts {scene.tracks.shape[1] / RATE:.3f} s, less than one frame", "--speaker")
    speaker = replace(speaker, level=0.0)
    first, block, back = speaker.room(block, None)
    cond = told(speaker, scene, total)
    at = 0
    while meter.frames < total:
        count, known = (block, back) if at else (first, 0)
        begun = time.perf_counter()
        frames = speaker.block(cond.narrow(at - known, known + count), at, known, count)
        meter.spent.append(time.perf_counter() - begun)
        left = total - meter.frames
        meter.frames += min(frames.shape[1], left)
        at += count
        yield frames[:, :left]


def told(speaker: Speaker, scene: Scene, total: int) -> Cond:
    """Conditions of the whole scene, and of one clip more, which is silent."""
    stride, length = speaker.family.codec.temporal, speaker.shape[1]
    frames = 1 + stride * (-(-(total - 1) // stride) + length)
    tracks = pad(scene.tracks[:, : total * SAMPLES], (0, (frames - total) * SAMPLES))
    shares = adaptive_avg_pool2d(scene.masks, (speaker.shape[2], speaker.shape[3]))  # [N, h, w]
    masks = shares[None, :, None].expand(-1, -1, frames, -1, -1)
    return conditions_of(speaker.family).several(tracks[None], masks, speaker.ref, speaker.text)
