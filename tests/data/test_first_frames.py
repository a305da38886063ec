"""Teachers that start from an image: conditions of the first frame beside the latents, and from every kind of data."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vdistill.app import prepare
from vdistill.app.build import build, engine_of
from vdistill.app.config import load
from vdistill.core.cond import Cond
from vdistill.core.engine import Report
from vdistill.core.errors import UserError
from vdistill.core.step import Batch
from vdistill.data.buckets import fit
from vdistill.data.clips import Plan, clip
from vdistill.data.latents import LatentData
from vdistill.data.manifest import scan
from vdistill.data.media import pictures, to_float
from vdistill.families.stock import StockFamily

CONFIG = """\
name: tiny
family: {{name: {family}, random_tiny: {variant}, frames: 9, height: {height}, width: {width}, long_text: cut}}
data: {data}
method: {{name: {method}}}
scope: {{name: lora, rank: 2}}
train: {{steps: 2, batch: 2}}
"""
VARIANTS = {"wan-i2v": ("first", "image"), "cogvideox-i2v": ("first",)}
SIZES = {"wan": (32, 32), "wan-i2v": (32, 32), "cogvideox-i2v": (48, 64)}


def config(tmp_path: Path, data: str, variant: str, method: str = "flow") -> Path:
    path = tmp_path / f"{variant}.yaml"
    width, height = SIZES[variant]
    family = variant.split("-")[0]
    text = CONFIG.format(family=family, variant=variant, width=width, height=height, data=data, method=method)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path, encode: Callable[..., Path]) -> Path:
    """Three videos whose frames all differ, and so do their clips."""
    (tmp_path / "src").mkdir()
    draw = np.random.default_rng(0)
    for k in range(3):
        small = draw.integers(0, 255, (60, 6, 6, 3), np.uint8)
        encode(tmp_path / "src" / f"{k}.mp4", list(small.repeat(8, 1).repeat(8, 2)))
    return tmp_path / "src"


def namespace(folder: Path, out: Path, family: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    prepare.arguments(parser)
    width, height = SIZES[family.stem]
    words = f"{folder} --out {out} --frames 9 --size {width}x{height} --caption cat --family {family}"
    return parser.parse_args([*words.split(), *more])


def prepared(folder: Path, out: Path, family: Path, *more: str) -> LatentData:
    assert prepare.run(namespace(folder, out, family, *more)) == 0
    return LatentData(out, text)


def text(captions: Sequence[str]) -> Cond:
    return Cond({"text": torch.zeros(len(captions), 1)})


def family_of(path: Path) -> StockFamily:
    family, _ = prepare.open_family(str(path))
    assert family is not None
    return family


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_stored_is_what_the_family_says_of_each_clips_first_frame(
    folder: Path, tmp_path: Path, variant: str
) -> None:
    path = config(tmp_path, f"{{name: latents, path: {tmp_path}/out}}", variant)
    data, family = prepared(folder, tmp_path / "out", path), family_of(path)
    assert sorted(data.fields) == sorted(VARIANTS[variant]) and len(data) == 6
    items = {item.key: item for item in scan(folder, caption="cat").items}
    _, plan = prepare.make_plan(namespace(folder, tmp_path / "out", path))
    seen = set()
    for i in range(len(data)):
        batch = data.batch([i])
        source, start = batch.keys[0].split("@")
        whole = clip(items[source], round(float(start) * 8) // 9, plan.buckets[0], plan)
        pixels = pixels_of(items[source].path, round(float(start) * 8), plan)
        again = family.from_image(pixels[:, :, 0], tuple(batch.x.shape[1:]))
        for name in VARIANTS[variant]:
            assert torch.equal(batch.cond.fields[name], again[name])
            assert torch.equal(batch.cond.fields[name], whole[name])
        assert torch.equal(batch.x, family.codec.encode(pixels))
        seen.add(float(batch.cond.fields["first"].double().sum()))
    assert len(seen) == 6  # each clip has its own


def pixels_of(path: Path, begin: int, plan: Plan) -> torch.Tensor:
    """The nine frames from `begin` on, read and fitted here."""
    shots = list(pictures(path, plan.fps))[begin : begin + 9]
    return to_float([fit(shot.pixels, shot.aspect, plan.buckets[0]) for shot in shots])[None]


@pytest.mark.parametrize(
    ("variant", "kind"),
    [*((v, kind) for v in VARIANTS for kind in ("latents", "media")), ("wan-i2v", "shapes")],  # the world is square
)
def test_an_image_to_video_teacher_trains_on_every_kind_of_data(
    folder: Path, tmp_path: Path, variant: str, kind: str
) -> None:
    data = {
        "latents": f"{{name: latents, path: {tmp_path}/out}}",
        "media": f"{{name: media, path: {folder}, caption: cat}}",
        "shapes": "{name: shapes}",
    }[kind]
    path = config(tmp_path, data, variant, "dmd2, steps: 2" if kind == "latents" else "flow")
    if kind == "latents":
        prepared(folder, tmp_path / "out", path, "--text")
    found = load(path)
    built, reports = build(found), list[Report]()
    batch: Batch = built.source(0, 0)
    assert {*VARIANTS[variant]} <= batch.cond.fields.keys()
    engine_of(found, built, tmp_path / "run").run(reports.append)
    assert len(reports) == 2 and all(np.isfinite(v) for r in reports for v in r.values.values())


def test_the_shapes_world_gives_the_first_frame_of_its_own_clip(tmp_path: Path) -> None:
    path = config(tmp_path, "{name: shapes}", "wan-i2v")
    built = build(load(path))
    family, world = built.family, built.source.world  # type: ignore[attr-defined]
    assert isinstance(family, StockFamily)
    for step in range(2):
        batch = built.source(step, 0)
        frames = torch.stack([world.clip(2 * step + i)[:, 0] for i in range(2)])
        fields = family.from_image(frames, tuple(batch.x.shape[1:]))
        assert all(torch.equal(batch.cond.fields[k], v) for k, v in fields.items())


def test_text_to_video_has_none_of_them(folder: Path, tmp_path: Path) -> None:
    path = config(tmp_path, "{name: shapes}", "wan")
    assert build(load(path)).source(0, 0).cond.fields.keys() == {"text"}
    assert prepared(folder, tmp_path / "out", path).fields == ()


def test_half_precision_resumed_and_merged_shards_keep_fields_with_their_clips(folder: Path, tmp_path: Path) -> None:
    path = config(tmp_path, "{name: shapes}", "wan-i2v")
    aside = (folder / "0.mp4").rename(tmp_path / "0.mp4")
    shutil.copy(folder / "1.mp4", folder / "0.mp4")
    prepared(folder, tmp_path / "out", path)  # one shard of three sources, of which the first changes
    aside.replace(folder / "0.mp4")
    data, whole = prepared(folder, tmp_path / "out", path), prepared(folder, tmp_path / "whole", path)
    assert [c.key for c in data.clips] == [c.key for c in whole.clips]
    half = prepared(folder, tmp_path / "half", path, "--dtype", "bfloat16")
    for i in range(len(data)):
        one, other, rounded = (d.batch([i]).cond.fields for d in (data, whole, half))
        for name in ("first", "image"):
            assert torch.equal(one[name], other[name]) and torch.equal(one[name].bfloat16().float(), rounded[name])


def opening(first: torch.Tensor, shape: Sequence[int]) -> dict[str, torch.Tensor]:
    """The conditions of some other teacher."""
    return {"first": first[:, :, None]}


def test_data_and_teacher_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    image, plain = (config(tmp_path, "{name: shapes}", variant) for variant in ("wan-i2v", "wan"))
    for variant, fields in ((image, False), (plain, True)):  # of the other kind, by the right codec
        args = namespace(folder, tmp_path / variant.stem, variant)
        _, plan = prepare.make_plan(args)
        plan = replace(plan, image_fields=opening if fields else None)
        prepare.prepare_media(args.out, scan(folder, caption="cat"), plan, args)
    (tmp_path / "prompts.txt").write_text("a cat")
    for family, data, says in (
        (image, "{name: latents, path: OUT}", "starts from an image; this data has none"),
        (plain, "{name: latents, path: OUT}", r"prepared for a teacher that starts from an image \(first\)"),
    ):
        mistaken = tmp_path / "mistaken.yaml"
        mistaken.write_text(
            family.read_text().replace("{name: shapes}", data.replace("OUT", f"{tmp_path}/{family.stem}"))
        )
        with pytest.raises(UserError, match=says):
            build(load(mistaken))
    mistaken.write_text(
        image.read_text()
        .replace("{name: shapes}", f"{{name: prompts, path: {tmp_path}/prompts.txt}}")
        .replace("{name: flow}", "{name: dmd2, steps: 2}")
    )
    with pytest.raises(UserError, match="starts from an image; this data has none"):
        build(load(mistaken))
    with pytest.raises(UserError, match=r"was prepared with fields \['first'\] \(now None\)"):
        prepared(folder, tmp_path / "wan", plain)


def test_a_shard_that_lacks_a_field_is_named(folder: Path, tmp_path: Path) -> None:
    data = prepared(folder, tmp_path / "out", config(tmp_path, "{name: shapes}", "wan-i2v"))
    index = json.loads((data.folder / "index.json").read_text())
    index["settings"]["fields"].append("audio")
    (data.folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not a file of latents"):
        LatentData(data.folder, lambda captions: text(captions)).batch([0])
