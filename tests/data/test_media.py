"""Time, orientation, shape and cost of decoding; what hostile files get; and the encoder."""

from __future__ import annotations

import gc
import itertools
import random
import resource
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vdistill.core.errors import BadMedia, UserError
from vdistill.data import decord_media
from vdistill.data.media import (
    Limits,
    cut,
    picture,
    pictures,
    rate,
    read_video,
    resample,
    to_bytes,
    to_float,
    upright,
    write_video,
)

Encode = Callable[..., Path]
EIGHT = Fraction(8)


def numbers(path: Path, fps: Fraction) -> list[int]:
    """Which source frames were chosen, by their brightness."""
    return [round(float(p.pixels.float().mean()) / 8) for p in pictures(path, fps)]


def grey(count: int) -> list[np.ndarray]:
    return [np.full((32, 48, 3), 8 * i, np.uint8) for i in range(count)]


def test_the_source_rate_gives_every_frame_once(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", grey(24))
    assert numbers(path, Fraction(24)) == list(range(24))


def test_a_third_of_the_rate_gives_every_third_frame_and_double_each_twice(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mp4", grey(24))
    assert numbers(path, EIGHT) == list(range(0, 24, 3))
    assert numbers(path, Fraction(48))[:6] == [0, 0, 1, 1, 2, 2]  # a tie goes to the earlier frame


def test_resampling_is_never_more_than_half_a_source_frame_off() -> None:
    draw = random.Random(1)
    for _ in range(20):
        steps = (Fraction(draw.randint(1, 200), 1000) for _ in range(40))
        times = list(itertools.accumulate(steps, initial=Fraction(3)))
        fps = Fraction(draw.choice(["8", "23.976", "30", "12.5"]))
        chosen = list(resample(((t, t) for t in times), fps))
        gaps = [b - a for a, b in itertools.pairwise(times)]
        for k, t in enumerate(chosen):
            i, error = times.index(t), abs(times[0] + k / fps - t)
            assert error <= max(gaps[max(i - 1, 0)], gaps[min(i, len(gaps) - 1)]) / 2
            assert error == min(abs(times[0] + k / fps - u) for u in times)
        assert times[-1] - (times[0] + (len(chosen) - 1) / fps) < 1 / fps  # nothing of the end is lost


def test_variable_rate_is_read_by_timestamps_not_by_rate_or_count(tmp_path: Path, encode: Encode) -> None:
    times = list(itertools.accumulate([0.04, 0.04, 0.12] * 8, initial=0.0))
    path = encode(tmp_path / "v.mkv", grey(len(times)), times=times)
    wanted = [min(range(len(times)), key=lambda i, k=k: (abs(times[i] - k / 25), i)) for k in range(42)]
    assert numbers(path, Fraction(25)) == wanted


@pytest.mark.parametrize("text", ["30000/1001", "24000/1001"])
def test_ntsc_rates_do_not_drift(tmp_path: Path, encode: Encode, text: str) -> None:
    path = encode(tmp_path / "n.mp4", grey(30), fps=Fraction(text))
    assert numbers(path, Fraction(text)) == list(range(30))


def test_real_clips_have_the_length_their_timestamps_say(real: dict[str, Path]) -> None:
    assert read_video(real["phone"], "30000/1001").shape == (3, 120, 144, 176)
    assert read_video(real["phone"], 8).shape == (3, 32, 144, 176)
    assert read_video(real["bikes"], 8).shape == (3, 80, 272, 640)
    clip = read_video(real["phone"], 4)
    assert -1 <= clip.min() < -0.5 < 0.5 < clip.max() <= 1


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_video_comes_upright(tmp_path: Path, encode: Encode, quarters: np.ndarray, degrees: int) -> None:
    path = encode(tmp_path / "t.mp4", [quarters] * 2, turn=(degrees, False, False))
    with av.open(str(path)) as container:
        said = next(container.decode(video=0)).rotation  # counter-clockwise, by the library's own reading
    got = next(pictures(path, EIGHT)).pixels.permute(1, 2, 0).numpy().astype(int)
    assert np.abs(got - np.rot90(quarters, said // 90)).max() <= 12


def test_every_quarter_turn_and_mirror_moves_pixels_as_its_matrix_says() -> None:
    pixels = torch.arange(6).view(1, 2, 3).expand(3, 2, 3)  # [3, H=2, W=3]
    signs = list(itertools.product((1, -1), repeat=2))
    for a, b, c, d in [(s, 0, 0, t) for s, t in signs] + [(0, s, t, 0) for s, t in signs]:
        corner = min(a * 2, 0) + min(c * 1, 0), min(b * 2, 0) + min(d * 1, 0)
        turned = upright(pixels, 2.0, (a << 16, b << 16, c << 16, d << 16))
        for x, y in itertools.product(range(3), range(2)):
            assert turned.pixels[0, b * x + d * y - corner[1], a * x + c * y - corner[0]] == pixels[0, y, x]
        assert turned.aspect == (2.0 if a else 0.5)


def test_pixel_aspect_is_reported_and_turned_along(tmp_path: Path, encode: Encode, real: dict[str, Path]) -> None:
    assert next(pictures(encode(tmp_path / "s.mp4", grey(2), sar=Fraction(2)), EIGHT)).shown == 3.0
    turned = encode(tmp_path / "t.mp4", grey(2), sar=Fraction(2), turn=(90, False, False))
    assert next(pictures(turned, EIGHT)).shown == pytest.approx(1 / 3)
    assert next(pictures(real["phone"], EIGHT)).shown == pytest.approx(4 / 3, abs=0.005)


def test_every_animal_of_the_zoo_gets_its_verdict(zoo: dict[Path, str]) -> None:
    assert len(zoo) >= 38
    found = {}
    for path in zoo:
        try:
            count = sum(1 for _ in cut(pictures(path, EIGHT), 5, 5))
            found[path] = "" if count else "need 5"
        except BadMedia as error:
            found[path] = str(error)
    wrong = {p.name: (found[p], want) for p, want in zoo.items() if (want not in found[p] if want else found[p])}
    assert not wrong


def test_a_video_that_says_it_is_long_or_large_is_refused_before_decoding(
    tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mp4", grey(24))
    decoded: list[int] = []
    monkeypatch.setattr("vdistill.data.media.show", lambda shot: decoded.append(1))
    for limits, reason in ((Limits(seconds=0.5), "longer than 0.5 s"), (Limits(pixels=1000), "48x32 is more")):
        with pytest.raises(BadMedia, match=reason):
            list(pictures(path, EIGHT, limits))
    assert not decoded


def test_limits_also_hold_when_the_header_says_nothing(tmp_path: Path, encode: Encode) -> None:
    path = encode(tmp_path / "a.mkv", grey(24), times=[i / 2 for i in range(24)], options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    with pytest.raises(BadMedia, match="longer than 3 s"):
        list(pictures(path, EIGHT, Limits(seconds=3)))


def test_an_image_is_turned_by_its_exif_and_bounded(tmp_path: Path, quarters: np.ndarray) -> None:
    image = Image.fromarray(quarters)
    exif = image.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(picture(tmp_path / "a.png").pixels.permute(1, 2, 0).numpy(), np.rot90(quarters, -1))
    with pytest.raises(BadMedia, match="more than 1000 pixels"):
        picture(tmp_path / "a.png", Limits(pixels=1000))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:120])
    with pytest.raises(BadMedia, match="not a readable image"):
        picture(tmp_path / "b.png")


def test_floats_and_bytes_are_inverse() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    assert torch.equal(to_bytes(to_float([every]))[:, 0], every)


@pytest.mark.parametrize("value", ["0", "-3", "fast", "1/0", "nan", "1000"])
def test_a_senseless_rate_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="--fps"):
        rate(value)


def test_what_is_written_is_read_back(tmp_path: Path, real: dict[str, Path], quarters: np.ndarray) -> None:
    clip = read_video(real["phone"], 8)[:, :9]
    write_video(tmp_path / "a.mp4", clip, 8)
    again = read_video(tmp_path / "a.mp4", 8)
    assert again.shape == clip.shape
    assert (again - clip).square().mean() < 4 * 10**-3.6  # 36 dB at a peak-to-peak of 2
    flat = to_float([torch.from_numpy(quarters).permute(2, 0, 1)] * 3)
    write_video(tmp_path / "b.mp4", flat, 24, scale=4)
    blocks = read_video(tmp_path / "b.mp4", 24)[:, :, 2::4, 2::4]
    assert (blocks - flat).abs().max() < 0.06  # colours survive, edges do not bleed


def test_the_same_pixels_give_the_same_file_and_odd_sides_are_padded(tmp_path: Path) -> None:
    clip = torch.rand(3, 4, 15, 17) * 2 - 1
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, clip, 12.5)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_video(tmp_path / "a.mp4", 12.5).shape == (3, 4, 16, 18)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_decoding_holds_no_frames_it_has_given(real: dict[str, Path]) -> None:
    gc.disable()
    try:
        begin = resident()
        for _ in pictures(real["bunny"], Fraction(25)):  # 132 frames of 2.6 MiB
            pass
        assert resident() - begin < 100
    finally:
        gc.enable()


def resident() -> float:
    """MiB of memory held now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_decord_gives_the_same_pictures(real: dict[str, Path], tmp_path: Path, encode: Encode, quarters: Any) -> None:
    pytest.importorskip("decord")
    turned = encode(tmp_path / "t.mp4", [quarters] * 24, turn=(90, False, False), sar=Fraction(2), pix_fmt="yuv420p")
    for path in (real["phone"], turned):
        for ours, theirs in zip(pictures(path, EIGHT), decord_media.pictures(path, EIGHT), strict=True):
            assert torch.equal(ours.pixels, theirs.pixels) and ours.aspect == theirs.aspect
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BadMedia, match="cannot be decoded"):
        list(decord_media.pictures(tmp_path / "text.mp4", EIGHT))


def test_without_decord_the_option_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UserError, match=r"decord is not installed; pip install 'vdistill\[media\]'"):
        list(decord_media.pictures(tmp_path / "a.mp4", EIGHT))


@pytest.mark.slow
def test_two_thousand_mutations_neither_crash_nor_hang(tmp_path: Path, zoo: dict[Path, str]) -> None:
    draw, sources = random.Random(7), [p.read_bytes() for p, why in zoo.items() if not why]
    for _ in range(2000):
        data = bytearray(draw.choice(sources))
        for _ in range(draw.randint(1, 20)):
            at = draw.randrange(min(len(data), 4000) if draw.random() < 0.7 else len(data))
            data[at] = draw.randrange(256)
        if draw.random() < 0.2:
            del data[draw.randrange(len(data)) :]
        path = tmp_path / "m.mp4"
        path.write_bytes(data)
        try:
            for _ in itertools.islice(pictures(path, EIGHT, Limits(60, 1 << 20)), 200):
                pass
        except BadMedia:
            continue
