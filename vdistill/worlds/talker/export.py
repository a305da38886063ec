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
    """Write clips into a folder: NAME.mp4, NAME.wav, NAME.png (the reference), NAME.npz (face boxes, masks), and one
    line each in manifest.jsonl, as the loader of real talking clips reads it. "meta" has what only a world knows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in clips:
        name = clip.key.replace("/", "_").replace("@", "_")
        film(folder / f"{name}.mp4", clip.frames, clip.sound)
        wav(folder / f"{name}.wav", clip.sound)
        picture(folder / f"{name}.png", clip.reference)
        files: dict[str, object] = {"id": name, "video": f"{name}.mp4", "audio": f"{name}.wav", "image": f"{name}.png"}
        times = {"start": 0.0, "end": clip.frames.shape[1] / FPS, "fps": FPS, "sr": wave.RATE}
        said = _alone(clip, folder, name) if isinstance(clip, Clip) else _together(clip, folder, name)
        lines.append(files | times | said | {"split": split})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")
    return lines


def _alone(clip: Clip, folder: Path, name: str) -> dict[str, object]:
    face, lip, person = (_mask(clip.masks[key]) for key in ("face", "lip", "person"))
    np.savez_compressed(folder / f"{name}.npz", bbox=clip.box.numpy(), face=face, lip=lip, person=person)
    meta = {"person": clip.person, "voice": clip.voice, "damage": clip.damage, "phonemes": clip.phonemes}
    quality = "hq" if clip.damage is None else "mq"
    return {"bbox": f"{name}.npz", "masks": f"{name}.npz", "quality": quality, "text": clip.text, "meta": meta}


def _together(clip: DuoClip, folder: Path, name: str) -> dict[str, object]:
    speakers = []
    for i in range(len(clip.people)):
        own = f"{name}_{i}"
        wav(folder / f"{own}.wav", clip.tracks[i])
        np.savez_compressed(folder / f"{own}.npz", mask=_mask(clip.masks["person"][i]), bbox=clip.box[i].numpy())
        speakers.append({"id": str(i), "mask": f"{own}.npz", "audio": f"{own}.wav"})
    meta = {"turns": [asdict(turn) for turn in clip.turns], "text": [one.text for one in clip.people]}
    return {"faces": len(speakers), "quality": "hq", "speakers": speakers, "meta": meta}


def _mask(mask: Tensor) -> np.ndarray:
    """[0, 1] -> bytes."""
    return (mask * 255).round().byte().numpy()
