"""Real clips to latents and back; kills, changes, damage and bad files on the way; what training then reads."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from vdistill.app import prepare
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.data.buckets import parse
from vdistill.data.clips import Plan
from vdistill.data.latents import LatentData
from vdistill.data.loader import Feed, RememberedText, open_data
from vdistill.data.manifest import scan
from vdistill.data.media import Limits, read_video
from vdistill.data.prompts import PromptData

Encode = Callable[..., Path]


class Pixels:
    """Latents that are the pixels: a codec whose every answer is known. slow: seconds a clip takes."""

    def __init__(self, slow: float = 0.0, gain: float = 1.0) -> None:
        self.slow, self.gain, self.clips = slow, gain, 0

    def encode(self, pixels: Tensor) -> Tensor:
        time.sleep(self.slow)
        self.clips += 1
        return pixels * self.gain

    def decode(self, latents: Tensor) -> Tensor:
        return latents / self.gain

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return 3, frames, height, width

    def stream(self) -> Callable[[Tensor], Tensor]:
        return self.decode


def text(captions: Sequence[str]) -> Cond:
    """One number a caption: its length."""
    return Cond({"text": torch.tensor([[float(len(c))] for c in captions])}, null={"text": torch.zeros(1, 1)})


def plan(codec: Any = None, **change: Any) -> Plan:
    given: dict[str, Any] = {
        "codec": codec or Pixels(),
        "frames": 5,
        "fps": Fraction(8),
        "stride": 5,
        "buckets": parse("32x32,48x32"),
        "limits": Limits(),
        "dtype": "float32",
        "device": "cpu",
    }
    return Plan(**given | change)


def make(source: Path, out: Path, how: Plan | None = None, **args: Any) -> Plan:
    how = how or plan()
    options = argparse.Namespace(**{"limit_bad": 0.05, "allow_bad": False, **args})
    prepare.prepare_media(out, scan(source, caption="c", without=out), how, options)
    return how


def content(out: Path) -> dict[str, bytes]:
    files = [p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


@pytest.fixture
def folder(tmp_path: Path, encode: Encode) -> Path:
    """Six short videos of two shapes, clip k of brightness about 20 k."""
    (tmp_path / "src").mkdir()
    for k in range(6):
        size = (32, 48) if k % 3 else (32, 32)
        encode(tmp_path / "src" / f"{k}.mp4", [np.full((*size, 3), 20 * k + i, np.uint8) for i in range(36)])
        (tmp_path / "src" / f"{k}.txt").write_text("x" * (k + 1))
    return tmp_path / "src"


def test_latents_are_the_codecs_answer_on_the_real_clips(real: dict[str, Path], tmp_path: Path) -> None:
    for path in real.values():
        shutil.copy(path, tmp_path)
    args = argparse.ArgumentParser()
    prepare.arguments(args)
    out = tmp_path / "out"
    command = [str(tmp_path), "--out", str(out), "--frames", "17", "--fps", "8", "--caption", "a clip"]
    assert prepare.run(args.parse_args(command)) == 0
    codec = prepare.open_family("tiny")[1]
    data = open_data(out, text, codec)
    assert len(data) == 2 + 4 + 1 and data.shape == (768, 5, 4, 4)
    batch = data.batch([0, 6])
    assert batch.keys == ("bigbuckbunny.mp4@0.000", "carphone_pristine.mp4@0.000")
    pixels = codec.decode(batch.x)
    assert pixels.shape == (2, 3, 17, 32, 32)
    source = read_video(real["phone"], 8)[:, :17, :, 22:154]  # 132 columns of 128/117 are as wide as 144 rows are high
    assert (pixels[1].mean((2, 3)) - source.mean((2, 3))).abs().max() < 0.003  # every frame is the right one
    assert float((pixels[1, :, 1:] - pixels[1, :, :-1]).abs().mean()) > 0.01  # he does talk
    index = json.loads((out / "index.json").read_text())
    assert {c["caption"] for s in index["shards"] for c in s["clips"]} == {"a clip"}


def test_running_again_does_nothing_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    assert make(folder, tmp_path / "out").codec.clips == 1 + 6 * 2
    before = content(tmp_path / "out")
    assert make(folder, tmp_path / "out").codec.clips == 1  # the fingerprint alone
    assert content(tmp_path / "out") == before


def test_killed_anywhere_and_run_again_equals_never_killed(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "whole")
    for round_ in range(6):
        pid = os.fork()
        if pid == 0:  # dies where it stands
            os.setsid()
            make(folder, tmp_path / "out", plan(Pixels(slow=0.02)))
            os._exit(0)
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "out").rglob("*.safetensors"))) < round_ and time.monotonic() < deadline:
            time.sleep(0.005)  # a busy machine gets as far as a quick one
        time.sleep(0.01 * round_)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert list((tmp_path / "out" / "latents").glob("*.safetensors"))
    assert make(folder, tmp_path / "out").codec.clips < 1 + 2 * 6  # something had stayed
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_unfinished_folder_is_not_trained_on_and_finished_clips_are_kept(folder: Path, tmp_path: Path) -> None:
    class Stops(Pixels):
        def encode(self, pixels: Tensor) -> Tensor:
            if self.clips == 6:
                raise KeyboardInterrupt
            return super().encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        make(folder, tmp_path / "out", plan(Stops()))
    with pytest.raises(UserError, match="was not finished; run the same"):
        open_data(tmp_path / "out", text)
    assert make(folder, tmp_path / "out").codec.clips == 1 + 4 * 2  # two of six sources were done
    make(folder, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_only_what_changed_is_made_again(folder: Path, tmp_path: Path, encode: Encode) -> None:
    make(folder, tmp_path / "out")
    encode(folder / "2.mp4", [np.full((32, 48, 3), 200, np.uint8)] * 36)
    (folder / "5.mp4").unlink()
    (folder / "1.txt").write_text("another caption")
    encode(folder / "7.mp4", [np.full((32, 48, 3), 90, np.uint8)] * 36)
    assert make(folder, tmp_path / "out").codec.clips == 1 + 2 * 2
    data = LatentData(tmp_path / "out", text)
    by_key = {c.key: i for i, c in enumerate(data.clips)}
    assert {k.split("@")[0] for k in by_key} == {f"{k}.mp4" for k in (0, 1, 2, 3, 4, 7)}
    assert float(data.batch([by_key["2.mp4@0.000"]]).x.mean()) == pytest.approx(200 / 127.5 - 1, abs=0.02)
    assert data.clips[by_key["1.mp4@0.625"]].caption == "another caption"


def test_small_files_become_shards_and_large_ones_stay(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    make(folder, tmp_path / "out")
    assert len(list((tmp_path / "out" / "latents").iterdir())) == 2  # one a shape
    monkeypatch.setattr("vdistill.data.store.Store.__init__.__defaults__", (400_000,))
    make(folder, tmp_path / "many")
    assert len(list((tmp_path / "many" / "latents").iterdir())) > 2
    one, many = (LatentData(tmp_path / n, text) for n in ("out", "many"))
    assert [c.key for c in one.clips] == [c.key for c in many.clips]
    assert all(torch.equal(one.batch([i]).x, many.batch([i]).x) for i in range(len(one)))


def test_killed_between_a_merge_and_the_removal_of_all_its_parts(
    folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    make(folder, tmp_path / "whole")
    unlink, gone = Path.unlink, list[Path]()

    def dies(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "latents" and not path.name.startswith("."):
            gone.append(path)
            if len(gone) > 1:
                raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            make(folder, tmp_path / "out")
    make(folder, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_other_settings_other_codec_and_other_sources_are_refused(folder: Path, tmp_path: Path, encode: Encode) -> None:
    make(folder, tmp_path / "out")
    before = content(tmp_path / "out")
    for change, said in (({"fps": Fraction(4)}, r"fps 8 \(now 4\)"), ({"codec": Pixels(gain=2.0)}, "probe")):
        with pytest.raises(UserError, match=said):
            make(folder, tmp_path / "out", plan(**change))
    (tmp_path / "other").mkdir()
    encode(tmp_path / "other" / "z.mp4", [np.zeros((32, 48, 3), np.uint8)] * 36)
    with pytest.raises(UserError, match="6 other sources and none of these"):
        make(tmp_path / "other", tmp_path / "out")
    assert content(tmp_path / "out") == before
    with pytest.raises(UserError, match="by another codec"):
        open_data(tmp_path / "out", text, Pixels(gain=2.0))  # type: ignore[arg-type]


def test_a_damaged_shard_is_named_and_made_again(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    before = content(tmp_path / "out")
    shard = max((tmp_path / "out" / "latents").iterdir(), key=lambda p: p.stat().st_size)
    for damage in ("flip", "cut", "gone"):
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data if damage == "flip" else data[:-100])
        if damage == "gone":
            shard.unlink()
        with pytest.raises(UserError, match=f"{shard.name}.*(digest|missing).*run the same"):
            data_ = LatentData(tmp_path / "out", text)
            for i in range(len(data_)):
                data_.batch([i])
        make(folder, tmp_path / "out")
        assert content(tmp_path / "out") == before


def test_a_forged_shard_is_refused_even_when_its_digest_fits(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    name = index["shards"][0]["file"]
    whole = (tmp_path / "out" / "latents" / name).read_bytes()
    long_header = (1 << 40).to_bytes(8, "little") + whole[8:]
    other_shape = save({"x": torch.zeros(4, 3, 5, 8, 8)})
    for data, reason in (
        (b"", "not a file of latents"),
        (whole[:-1], "not a file of latents"),
        (long_header, "not a file of latents"),
        (pickle.dumps({"x": 1}), "not a file of latents"),
        (save({"y": torch.zeros(2)}), "not a file of latents"),
        (other_shape, "the index says"),
    ):
        forged = f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.safetensors"
        (tmp_path / "out" / "latents" / forged).write_bytes(data)
        text_ = json.dumps(index).replace(name, forged)
        (tmp_path / "out" / "index.json").write_text(text_)
        with pytest.raises(UserError, match=reason):
            LatentData(tmp_path / "out", text).batch([0])


def test_bad_files_are_skipped_listed_and_stop_above_the_limit(
    zoo: dict[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = next(iter(zoo)).parent
    bad = {p.name for p, reason in zoo.items() if reason}
    with pytest.raises(UserError, match=rf"3 of {len(zoo)} files are bad, more than 5%.*--allow-bad"):
        make(source, tmp_path / "out")
    capsys.readouterr()
    codec = make(source, tmp_path / "out", allow_bad=True).codec
    listed = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {row["source"] for row in listed} == bad
    assert all(zoo.get(source / row["source"], "") in row["reason"] for row in listed)
    assert capsys.readouterr().err.count("skipped ") == len(bad)
    assert {c.key.split("@")[0] for c in LatentData(tmp_path / "out", text).clips} == {
        p.name for p, reason in zoo.items() if not reason
    }
    assert codec.clips > 1


def test_a_codec_that_gives_nan_does_not_reach_the_disk(folder: Path, tmp_path: Path) -> None:
    class Breaks(Pixels):
        def encode(self, pixels: Tensor) -> Tensor:
            return pixels / (pixels.mean() > -0.9)  # the darkest clips become infinite

    make(folder, tmp_path / "out", plan(Breaks()), limit_bad=0.5)
    assert "not finite" in (tmp_path / "out" / "skipped.jsonl").read_text()
    assert all(torch.isfinite(LatentData(tmp_path / "out", text).batch([i]).x).all() for i in range(10))


def test_one_prepare_at_a_time(folder: Path, tmp_path: Path) -> None:
    from vdistill.data.files import alone

    with alone(tmp_path / "out"), pytest.raises(UserError, match="another .* is at work"), alone(tmp_path / "out"):
        pass


def test_half_precision_on_disk_is_float32_in_training(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out", plan(dtype="float16"))
    make(folder, tmp_path / "full")
    half, full = (LatentData(tmp_path / n, text).batch([0]).x for n in ("out", "full"))
    assert half.dtype == torch.float32 and (half - full).abs().max() < 1e-3


def test_a_feed_gives_every_clip_with_its_caption(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    data = open_data(tmp_path / "out", text)
    feed = Feed(data, batch=2, micro=2, seed=4)
    seen = []
    for step in range(len(data) // 4 * 4):
        for micro in range(2):
            batch = feed(step, micro)
            assert torch.equal(feed(step, micro).x, batch.x)
            for key, length in zip(batch.keys, batch.cond.fields["text"], strict=True):
                assert int(length) == int(key[0]) + 1
            seen += batch.keys
    assert set(seen) == {c.key for c in data.clips}  # type: ignore[union-attr]
    assert sorted(data.groups) == [4, 8]


def test_captions_are_encoded_alone_once_and_within_bounds() -> None:
    asked: list[list[str]] = []

    def noted(captions: Sequence[str]) -> Cond:
        asked.append(list(captions))
        return text(captions)

    remembered = RememberedText(noted, limit=8)  # two captions of four bytes
    assert remembered(["a", "bb", "a"]).fields["text"].flatten().tolist() == [1, 2, 1]
    assert asked == [["a"], ["bb"]]
    remembered(["ccc"])  # "bb" goes: "a" was used after it
    assert remembered.size == 8
    remembered(["a", "ccc", "bb"])
    assert asked == [["a"], ["bb"], ["ccc"], ["bb"]]


def test_prompts_alone_become_data_without_clips(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\nthree\n")
    args = argparse.ArgumentParser()
    prepare.arguments(args)
    prepare.run(args.parse_args([str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")]))
    data = open_data(tmp_path / "out", text)
    assert isinstance(data, PromptData) and data.shape == (768, 5, 4, 4)
    batch = data.batch([1, 0])
    assert batch.x.shape == (2, 768, 5, 4, 4) and not batch.x.any()
    assert batch.cond.fields["text"].flatten().tolist() == [5, 3]


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--frames 16", "must be 1 \\+ k"),
        ("--size 30x30", "multiples of"),
        ("--size big", "WIDTHxHEIGHT"),
        ("--fps x", "not a number"),
        ("--limit-bad 5", "not a share"),
        ("--family nobody", "no family or model folder"),
        ("--frames 0", "at least 1"),
    ],
)
def test_a_mistyped_option_is_said_before_any_file_is_opened(tmp_path: Path, option: str, reason: str) -> None:
    args = argparse.ArgumentParser()
    prepare.arguments(args)
    with pytest.raises(UserError, match=reason):
        prepare.run(args.parse_args([str(tmp_path), "--out", str(tmp_path / "out"), *option.split()]))
    assert not (tmp_path / "out").exists()


def test_a_config_names_the_codec_of_the_model_it_will_make(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "name: mine\nfamily: {name: tiny, std: 0.25, patch_size: 4}\ndata: {name: latents, path: not/yet}\n"
        "method: {name: flow}\ntrain: {steps: 1}\n"
    )
    mine, plain = prepare.open_family(str(config))[1], prepare.open_family("tiny")[1]
    assert mine.shape(17, 32, 32) == (192, 5, 8, 8)
    clip = torch.rand(1, 3, 5, 32, 32)
    assert mine.encode(clip).std() == pytest.approx(2 * float(plain.encode(clip).std()), rel=1e-4)
    with pytest.raises(UserError):
        prepare.open_family(str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"format": 1, "kind": "latents", "complete": true}', "\0"])
def test_a_damaged_index_is_one_clear_line(tmp_path: Path, index: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(UserError, match="index.json"):
        open_data(tmp_path, text)


def test_an_index_cannot_name_files_elsewhere(folder: Path, tmp_path: Path) -> None:
    make(folder, tmp_path / "out")
    path = tmp_path / "out" / "index.json"
    index = json.loads(path.read_text())
    index["shards"][0]["file"] = "../../secret.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="not beside the index"):
        open_data(tmp_path / "out", text)
