"""Clips encoded while training are bit for bit those that `prepare` would have stored, in the same order."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vdistill.app import prepare
from vdistill.app.build import build, engine_of
from vdistill.app.config import load
from vdistill.core.cond import Cond
from vdistill.core.engine import Report
from vdistill.core.errors import UserError
from vdistill.data.buckets import parse
from vdistill.data.clips import Plan
from vdistill.data.latents import LatentData
from vdistill.data.loader import Feed
from vdistill.data.manifest import scan
from vdistill.data.on_the_fly import MediaData

Encode = Callable[..., Path]


class Pixels:
    """Latents that are the pixels."""

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return 3, frames, height, width

    def stream(self) -> Callable[[Tensor], Tensor]:
        return self.decode


def text(captions: Sequence[str]) -> Cond:
    """One number a caption: its length."""
    return Cond({"text": torch.tensor([[float(len(c))] for c in captions])}, null={"text": torch.zeros(1, 1)})


def opening(first: Tensor, shape: Sequence[int]) -> dict[str, Tensor]:
    """A teacher's conditions of a first frame: the frame at every time, and a whole number a sample."""
    return {"first": first[:, :, None].expand(-1, -1, shape[1], -1, -1), "image": torch.full((len(first), 2), 7)}


def plan(**change: Any) -> Plan:
    given: dict[str, Any] = {
        "codec": Pixels(),
        "frames": 5,
        "fps": Fraction(8),
        "stride": 5,
        "buckets": parse("32x32,48x32,32x48"),
    }
    return Plan(**given | change)


def both(source: Path, out: Path, how: Plan, images: bool = False) -> tuple[MediaData, LatentData]:
    """The same listing encoded on the way, and prepared."""
    listing = scan(source, images=images, caption="c", without=out)
    prepare.prepare_media(out, listing, how, argparse.Namespace(limit_bad=1.0, allow_bad=True))
    return MediaData(listing, how, text, limit_bad=1.0, say=lambda line: None), LatentData(out, text)


def equal(ours: MediaData, prepared: LatentData) -> None:
    """Same clips, same bits, same conditions; the order within a shape is that of the files."""
    assert ours.groups == prepared.groups and ours.shapes == prepared.shapes and ours.shape == prepared.shape
    stored = {clip.key: i for i, clip in enumerate(prepared.clips)}
    for i in range(len(ours)):
        one = ours.batch([i])
        other = prepared.batch([stored.pop(one.keys[0])])
        assert torch.equal(one.x, other.x) and one.x.dtype == other.x.dtype and one.keys == other.keys
        assert one.cond.fields.keys() == other.cond.fields.keys()
        for name, value in one.cond.fields.items():
            assert torch.equal(value, other.cond.fields[name]) and value.dtype == other.cond.fields[name].dtype
    assert not stored


@pytest.mark.parametrize("fields", [None, opening], ids=["text", "image"])
@pytest.mark.parametrize("stride", [5, 3])
def test_every_clip_of_every_kind_of_file_is_the_prepared_one(
    zoo: dict[Path, str], tmp_path: Path, stride: int, fields: Any
) -> None:
    ours, prepared = both(next(iter(zoo)).parent, tmp_path, plan(stride=stride, image_fields=fields))
    assert len(ours) > 20 and len(ours.groups) == 2
    equal(ours, prepared)


def test_real_clips_and_images_together_are_the_prepared_ones(real: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    shutil.copy(real["phone"], tmp_path / "src")
    for k in range(3):
        picture = np.full((40, 60, 3), 50 * k, np.uint8)
        Image.fromarray(picture).save(tmp_path / "src" / f"{k}.png")
    how = plan(frames=9, fps=Fraction(12), stride=6)
    ours, prepared = both(tmp_path / "src", tmp_path / "out", how, images=True)
    equal(ours, prepared)
    feed = Feed(ours, batch=2, micro=2, seed=3)
    for step in range(8):
        one, other = feed(step, 0), feed(step, 1)
        assert one.x.shape == other.x.shape  # pictures go with pictures
        assert torch.equal(one.x, Feed(ours, batch=2, micro=2, seed=3)(step, 0).x)


@pytest.fixture
def folder(tmp_path: Path, encode: Encode) -> Path:
    """Four short videos, clip k of brightness about 40 k."""
    (tmp_path / "src").mkdir()
    for k in range(4):
        encode(tmp_path / "src" / f"{k}.mp4", [np.full((32, 32, 3), 40 * k + i, np.uint8) for i in range(36)])
        (tmp_path / "src" / f"{k}.txt").write_text("x" * (k + 1))
    return tmp_path / "src"


def test_bad_files_are_named_and_stop_above_the_limit(zoo: dict[Path, str]) -> None:
    listing, told = scan(next(iter(zoo)).parent, caption="c"), list[str]()
    with pytest.raises(UserError, match=r"of \d+ files are bad, more than 5%.*data.limit_bad"):
        MediaData(listing, plan(), text, say=told.append)
    bad = {path.name for path, why in zoo.items() if why}
    named = {line.removeprefix("skipped ").split(": ")[0] for line in told}
    found_later = {"cut_half.mp4", "cut_end.mp4", "cut.mkv"} & bad
    assert bad - found_later <= named <= bad


def test_a_file_that_is_damaged_later_gives_way_to_the_next_and_is_told_once(folder: Path) -> None:
    told: list[str] = []
    data = MediaData(scan(folder), plan(), text, say=told.append)
    assert told == [] and data.groups == (8,)
    whole = data.batch([2])
    (folder / "1.mp4").write_bytes(b"not a video")
    for _ in range(2):
        replaced = data.batch([2])
        assert replaced.keys == ("2.mp4@0.000",) and whole.keys == ("1.mp4@0.000",)
        assert replaced.cond.fields["text"].tolist() == [[3.0]]
    assert [line.split(": ")[0] for line in told] == ["skipped 1.mp4@0.000", "skipped 1.mp4@0.625"]
    for path in folder.glob("*.mp4"):
        path.unlink()
    with pytest.raises(UserError, match="no clip of this shape can be decoded"):
        data.batch([2])


def test_a_codec_that_gives_nan_does_not_reach_training(folder: Path) -> None:
    class Breaks(Pixels):
        def encode(self, pixels: Tensor) -> Tensor:
            return pixels / (pixels.mean() > -0.9)  # the darkest clips become infinite

    told: list[str] = []
    data = MediaData(scan(folder), plan(codec=Breaks()), text, say=told.append)
    assert data.batch([0]).keys == ("0.mp4@0.625",) and "not finite" in told[0]


CONFIG = """\
name: tiny
family: {{name: wan, random_tiny: {variant}, frames: 5, height: 32, width: 32, long_text: cut}}
data: {data}
method: {{name: flow}}
scope: {{name: lora, rank: 2}}
train: {{steps: 2, batch: 2}}
"""


def config(tmp_path: Path, data: str, variant: str = "wan") -> Any:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(data=data, variant=variant))
    return load(path)


def losses(found: Any, out: Path) -> list[float]:
    built, reports = build(found), list[Report]()
    engine_of(found, built, out).run(reports.append)
    return [v for r in reports for k, v in r.values.items() if "loss" in k]


@pytest.mark.parametrize("variant", ["wan", "wan-i2v"])
def test_a_config_trains_on_media_as_on_what_was_prepared_of_them(folder: Path, tmp_path: Path, variant: str) -> None:
    found = config(tmp_path, f"{{name: media, path: {folder}, stride: 3}}", variant)
    parser = argparse.ArgumentParser()
    prepare.arguments(parser)
    words = f"{folder} --out {tmp_path}/out --frames 5 --stride 3 --size 32x32 --family {tmp_path}/c.yaml"
    assert prepare.run(parser.parse_args(words.split())) == 0
    stored = config(tmp_path, f"{{name: latents, path: {tmp_path}/out}}", variant)
    one, other = losses(found, tmp_path / "a"), losses(stored, tmp_path / "b")
    assert one and one == other


def test_media_and_prepared_images_mix(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "stills").mkdir()
    for k in range(3):
        Image.fromarray(np.full((40, 40, 3), 80 * k, np.uint8)).save(tmp_path / "stills" / f"{k}.png")
    parts = f"[{{name: media, path: {folder}}}, {{name: media, path: {tmp_path}/stills, images: true, caption: grey}}]"
    source = build(config(tmp_path, f"{{name: mix, parts: {parts}, weights: [0.7, 0.3]}}")).source
    batches = [source(step, 0) for step in range(12)]
    assert {(batch.x.shape[2], batch.keys[0][1:5]) for batch in batches} == {(1, ".png"), (2, ".mp4")}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{{name: media, path: {0}, buckets: [30x30]}}", "multiples of"),
        ("{{name: media, path: {0}, buckets: [big]}}", "WIDTHxHEIGHT"),
        ("{{name: media, path: {0}/none}}", "no such folder"),
        ("{{name: media, path: {0}/prompts}}", r"say data: \{name: prompts\}"),
        ("{{name: media, path: {0}, fps: 0.1}}", "more than 5%"),
    ],
)
def test_what_cannot_be_is_said_before_training(folder: Path, tmp_path: Path, data: str, says: str) -> None:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "prompts.txt").write_text("a cat")
    with pytest.raises(UserError, match=says):
        build(config(tmp_path, data.format(folder)))
