"""Clips as files: films with sound, and a manifest that a loader of real data reads."""

from __future__ import annotations

import json
import wave as riff
from collections.abc import Iterable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from PIL import Image
from torch import Tensor

from . import sound as wave
from .clips import Clip
from .duo import DuoClip
from .picture_faults import to_bytes
from .speech import FPS


def film(path: Path, frames: Tensor, sound: Tensor) -> None:
    """Write frames [3, T, H, W] in [-1, 1] and sound [640 T] as mp4: x264 without visible loss, AAC."""
    pictures = to_bytes(frames)
    with av.open(str(path), mode="w") as container:
        video = cast(av.VideoStream, container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "12"}))
        video.height, video.width, video.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        audio = cast(av.AudioStream, container.add_stream("aac", rate=wave.RATE, layout="mono"))
        audio.bit_rate = 64_000
        for picture in [*map(av.VideoFrame.from_ndarray, pictures), None]:
            container.mux(video.encode(picture))
        for piece in [wave.to_frame(sound, wave.RATE), None]:
            container.mux(audio.encode(piece))


def wav(path: Path, sound: Tensor) -> None:
    """Write float32 [N] at 16 kHz as 16-bit WAV, exactly."""
    with riff.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(wave.RATE)
        file.writeframes((sound * 32767).round().clamp(-32768, 32767).short().numpy().astype("<i2").tobytes())


def picture(path: Path, image: Tensor) -> None:
    """Write an image [3, H, W] in [-1, 1]."""
    Image.fromarray(np.ascontiguousarray(to_bytes(image[:, None])[0])).save(path)


def write(clips: Iterable[Clip | DuoClip], folder: Path, split: str) -> list[dict[str, object]]:
    """Write clips into a folder: NAME.mp4, NAME.wav, NAME.png (the reference), and one line each in manifest.jsonl.

    A line: {id, video, audio, reference, start, end, fps, sr, bbox, quality, text, split, speakers}, boxes in pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in clips:
        name = clip.key.replace("/", "_").replace("@", "_")
        film(folder / f"{name}.mp4", clip.frames, clip.sound)
        wav(folder / f"{name}.wav", clip.sound)
        picture(folder / f"{name}.png", clip.reference)
        files = {"id": name, "video": f"{name}.mp4", "audio": f"{name}.wav", "reference": f"{name}.png"}
        times = {"start": 0.0, "end": clip.frames.shape[1] / FPS, "fps": FPS, "sr": wave.RATE}
        lines.append(files | times | _said(clip, folder, name) | {"split": split})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
    return lines


def _said(clip: Clip | DuoClip, folder: Path, name: str) -> dict[str, object]:
    if isinstance(clip, Clip):
        quality = "hq" if clip.damage is None else "mq"
        return {"bbox": around(clip.box), "quality": quality, "text": clip.text, "damage": clip.damage}
    speakers = []
    for i, one in enumerate(clip.people):
        wav(folder / f"{name}_{i}.wav", clip.tracks[i])
        speakers.append({"id": i, "bbox": around(clip.box[i]), "audio": f"{name}_{i}.wav", "text": one.text})
    return {"quality": "hq", "speakers": speakers, "turns": [asdict(turn) for turn in clip.turns]}


def around(box: Tensor) -> list[float]:
    """The box that holds boxes [T, 4]."""
    low, high = box[:, :2].amin(0), box[:, 2:].amax(0)
    return [round(float(v), 2) for v in (*low, *high)]
