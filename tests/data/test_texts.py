"""Text embeddings made once: exactly what the encoders say, resumable, checked, and enough to train with."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vdistill.app import prepare
from vdistill.app.build import build, engine_of
from vdistill.app.build_family import make_family
from vdistill.app.config import load
from vdistill.app.models import open_model
from vdistill.app.texts import encode_texts, settings_of
from vdistill.core.engine import Report
from vdistill.core.errors import UserError
from vdistill.data.texts import Texts, TextWriter, code
from vdistill.families.random_tiny import random_tiny
from vdistill.families.stock import StockFamily

CAPTIONS = ["a red cat", "a dog that runs", "a lamp", 'a sign: "é" \u4e2d']


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tiny pipelines: wan; sd3 with pooled text; ltx with masks."""
    root = tmp_path_factory.mktemp("teachers")
    for name in ("wan", "sd3", "ltx"):
        random_tiny(name).save_pretrained(root / name)
    return root


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*")) if p.is_file()}


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    prepare.arguments(parser)
    return prepare.run(parser.parse_args([str(w) for w in words]))


@pytest.mark.parametrize("name", ["wan", "sd3", "ltx"])
def test_what_is_stored_is_what_the_encoders_say(teachers: Path, tmp_path: Path, name: str) -> None:
    family = open_model(teachers / name)
    encode_texts(tmp_path, CAPTIONS, family, "float32")
    stored = Texts(tmp_path)
    fresh = open_model(teachers / name)
    for caption in CAPTIONS:
        said, found = fresh.text([caption]).fields, stored(caption)
        assert found is not None and found.keys() == said.keys()
        assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in said.items())
    null = stored(None)
    assert null is not None and all(torch.equal(null[k], v) for k, v in fresh.null().items())
    assert stored("unheard of") is None and "unheard of" not in stored and CAPTIONS[0] in stored
    fresh.remember(stored)
    fresh.release_encoders()
    again, whole = fresh.text(CAPTIONS), family.text(CAPTIONS)
    assert all(torch.equal(again.fields[k], v) for k, v in whole.fields.items())
    assert all(torch.equal(again.null[k], v) for k, v in whole.null.items())


def test_half_precision_halves_numbers_and_keeps_masks(teachers: Path, tmp_path: Path) -> None:
    family = open_model(teachers / "ltx")
    encode_texts(tmp_path, CAPTIONS, family, "bfloat16")
    found = Texts(tmp_path)(CAPTIONS[0])
    said = family.text(CAPTIONS[:1]).fields
    assert found is not None and torch.equal(found["text"], said["text"].bfloat16())
    assert found["text.mask"].dtype == said["text.mask"].dtype and torch.equal(found["text.mask"], said["text.mask"])


class Counted:
    """Embeddings of a caption: its length; counts how many were asked for, and stops at `until`."""

    def __init__(self, until: int = 99) -> None:
        self.until, self.made = until, 0

    def __call__(self, caption: str) -> dict[str, torch.Tensor]:
        if self.made == self.until:
            raise KeyboardInterrupt
        self.made += 1
        return {"text": torch.full((1, 4), float(len(caption))), "text.mask": torch.ones(1, 4, dtype=torch.bool)}


def write(folder: Path, encode: Counted, shard_bytes: int = 1, **settings: Any) -> TextWriter:
    writer = TextWriter(folder, {"dtype": "float32", **settings}, shard_bytes)
    for caption in writer.missing(CAPTIONS):
        writer.add(caption, encode(str(caption)))
    writer.finish()
    return writer


def test_stopped_and_run_again_encodes_every_caption_once_and_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second, third = Counted(until=2), Counted(), Counted()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", first)
    with pytest.raises(UserError, match="was not finished; run the same"):
        Texts(tmp_path / "out")
    write(tmp_path / "out", second)
    assert (first.made, second.made) == (2, 2)
    write(tmp_path / "whole", Counted())
    assert content(tmp_path / "out" / "text") == content(tmp_path / "whole" / "text")
    before = content(tmp_path / "out" / "text")
    write(tmp_path / "out", third)
    assert third.made == 0 and content(tmp_path / "out" / "text") == before


def test_new_captions_alone_are_encoded_and_equal_ones_share_a_row(tmp_path: Path) -> None:
    write(tmp_path, Counted(), shard_bytes=1 << 20)
    writer = TextWriter(tmp_path, {"dtype": "float32"})
    assert writer.missing([*CAPTIONS, "new", "new", None]) == ["new", None]
    writer.add("new", Counted()("new"))
    assert writer.missing(["new"]) == [] and writer.finish() == len(CAPTIONS) + 1
    stored = Texts(tmp_path)
    assert all(float(stored(c)["text"].mean()) == len(c) for c in [*CAPTIONS, "new"])  # type: ignore[index]
    assert len(list((tmp_path / "text").glob("*.safetensors"))) == 2


def test_damage_is_named_and_made_again(tmp_path: Path) -> None:
    write(tmp_path, Counted())
    before = content(tmp_path / "text")
    name = Texts(tmp_path).home[code(CAPTIONS[1])]
    for damage in ("flip", "cut", "gone"):
        data = bytearray(before[name])
        data[-3] ^= 1
        (tmp_path / "text" / name).write_bytes(data if damage == "flip" else data[:-9])
        if damage == "gone":
            (tmp_path / "text" / name).unlink()
        with pytest.raises(UserError, match=f"{name}.*(digest|missing).*prepare --text"):
            Texts(tmp_path)(CAPTIONS[1])
        encode = Counted()
        assert len(write(tmp_path, encode).news) == (damage != "gone")
        assert encode.made == 1 and content(tmp_path / "text").keys() == before.keys()
        assert Texts(tmp_path)(CAPTIONS[1]) is not None


def test_other_settings_and_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write(tmp_path, Counted(), negative="")
    with pytest.raises(UserError, match=r"negative  \(now blurry\)"):
        TextWriter(tmp_path, {"dtype": "float32", "negative": "blurry"})
    with pytest.raises(UserError, match="with another negative"):
        Texts(tmp_path).check({"dtype": "bfloat16", "negative": "blurry"})
    Texts(tmp_path).check({"dtype": "bfloat16", "negative": ""})
    with pytest.raises(UserError, match="not finite"):
        TextWriter(tmp_path / "new", {"dtype": "float16"}).add("a", {"text": torch.full((1, 2), 1e6)})


@pytest.mark.parametrize("index", ["", "[]", '{"format": 1, "kind": "text", "complete": true}', "\0", '{"format": 1}'])
def test_a_damaged_index_is_one_clear_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "index.json").write_text(index)
    with pytest.raises(UserError, match="index.json"):
        Texts(tmp_path)


def test_an_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, Counted())
    path = tmp_path / "text" / "index.json"
    path.write_text(path.read_text().replace('"files": {"', '"files": {"../'))
    with pytest.raises(UserError, match="not beside the index"):
        Texts(tmp_path)


# -- the command, and training from it -----------------------------------------------------------------------------

FLOW = """\
name: tiny
family: {{name: wan, path: {teacher}, frames: 9, height: 32, width: 32}}
data: {{name: latents, path: {data}}}
method: {{name: flow, drop_text: 0.5}}
scope: {{name: lora, rank: 2}}
train: {{steps: 2, batch: 2}}
{more}
"""


@pytest.fixture
def prepared(teachers: Path, tmp_path: Path, encode: Any) -> Path:
    """Three clips, latents and text, by the command."""
    (tmp_path / "src").mkdir()
    for k, caption in enumerate(CAPTIONS[:3]):
        encode(tmp_path / "src" / f"{k}.mp4", [np.full((32, 48, 3), 60 * k + i, np.uint8) for i in range(30)])
        (tmp_path / "src" / f"{k}.txt").write_text(caption)
    words = ("--out", tmp_path / "out", "--family", teachers / "wan", "--frames", 9, "--size", "32x32", "--text")
    assert run(tmp_path / "src", *words) == 0
    assert run(tmp_path / "src", *words) == 0
    return tmp_path / "out"


def config_of(teachers: Path, data: Path, more: str = "") -> Any:
    path = data.parent / "c.yaml"
    path.write_text(FLOW.format(teacher=teachers / "wan", data=data, more=more))
    return load(path)


def losses(config: Any, out: Path) -> list[float]:
    built, reports = build(config), list[Report]()
    engine_of(config, built, out).run(reports.append)
    return [v for r in reports for k, v in r.values.items() if "loss" in k]


def test_training_without_encoders_is_training_with_them_bit_for_bit(
    teachers: Path, prepared: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(prepared, plain)
    shutil.rmtree(plain / "text")
    with_text, without = config_of(teachers, plain), config_of(teachers, prepared)
    families = [make_family(c) for c in (with_text, without)]
    assert [f.released for f in families if isinstance(f, StockFamily)] == [(), ("text_encoder",)]
    built = [build(c) for c in (with_text, without)]
    for step in range(4):
        one, other = (b.source(step, 0) for b in built)
        assert one.keys == other.keys and torch.equal(one.x, other.x)
        assert torch.equal(one.cond.fields["text"], other.cond.fields["text"])
    ours, theirs = losses(without, tmp_path / "a"), losses(with_text, tmp_path / "b")
    assert ours and ours == theirs


def test_prompts_of_the_validation_are_known_too_and_unprepared_captions_are_named(
    teachers: Path, prepared: Path
) -> None:
    family = make_family(config_of(teachers, prepared, "validation: {prompts: [a boat]}"))
    assert isinstance(family, StockFamily) and family.released
    fresh = open_model(teachers / "wan")
    assert torch.equal(family.text(["a boat"]).fields["text"], fresh.text(["a boat"]).fields["text"])
    index = json.loads((prepared / "index.json").read_text())
    index["shards"][0]["clips"][0]["caption"] = "another caption"
    (prepared / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"1 captions have no text embedding, the first \['another caption'\]"):
        make_family(config_of(teachers, prepared))


def test_embeddings_of_another_encoder_or_negative_prompt_are_refused(
    teachers: Path, prepared: Path, tmp_path: Path
) -> None:
    random_tiny("wan", seed=1).save_pretrained(tmp_path / "t" / "wan")
    with pytest.raises(UserError, match="by another text encoder"):
        make_family(config_of(tmp_path / "t", prepared))
    config = config_of(teachers, prepared)
    blurry = config.model_copy(update={"family": config.family.model_copy(update={"negative": "blurry"})})
    with pytest.raises(UserError, match="with another negative"):
        make_family(blurry)
    assert settings_of(open_model(teachers / "wan")) == settings_of(open_model(teachers / "wan"))


def test_prompts_alone_can_have_their_embeddings(teachers: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(CAPTIONS))
    words = ("--out", tmp_path / "out", "--family", teachers / "sd3", "--frames", 1, "--size", "64x64", "--text")
    assert run(tmp_path / "prompts.txt", *words) == 0
    assert all(c in Texts(tmp_path / "out") for c in CAPTIONS)


def test_what_cannot_be_encoded_is_said_before_any_file_is_opened(teachers: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("word " * 600)
    words = (tmp_path / "prompts.txt", "--out", tmp_path / "out", "--text", "--frames", 5)
    with pytest.raises(UserError, match="tiny has no text encoder yet"):
        run(*words)
    with pytest.raises(UserError, match=r"\d+ tokens, wan reads"):
        run(*words, "--family", teachers / "wan")
    assert not (tmp_path / "out").exists()
