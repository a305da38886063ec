"""Talking clips out of a manifest: the policy for bad items line by line, and what good ones become."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sounds import cut_short, tone, write_sound

import vdistill
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.step import Batch
from vdistill.data.bad_items import DataError, Policy
from vdistill.data.buckets import Bucket
from vdistill.data.loader import Feed
from vdistill.data.sound import read_sound
from vdistill.data.talking import TalkingData, stacked, survey
from vdistill.data.talking_check import Checked, TalkRule, check
from vdistill.data.talking_clip import TalkClip
from vdistill.data.talking_manifest import TalkItem, read_manifest

RULE = TalkRule(frames=9, stride=8, shape=Bucket(32, 32))
SPEECH = Path(vdistill.__file__).parent / "assets/talker_speech/espeak-en-f1.ogg"
Row = dict[str, Any]
Encode = Callable[..., Path]


class Studio:
    """Makes items: 32 grey frames of 48x48, frame i of brightness 8 i, with a tone as long."""

    kept: ClassVar[dict[str, bytes]] = {}  # videos that were encoded before

    def __init__(self, root: Path, encode: Encode) -> None:
        self.root, self.encode = root, encode

    def video(self, name: str, count: int = 32, size: tuple[int, int] = (48, 48), **how: Any) -> str:
        path, key = self.root / name, f"{Path(name).suffix} {count} {size} {how}"
        if key not in self.kept:
            grey = [np.full((size[1], size[0], 3), 8 * i % 256, np.uint8) for i in range(count)]
            self.kept[key] = self.encode(path, grey, **{"fps": Fraction(25), **how}).read_bytes()
        path.write_bytes(self.kept[key])
        return name

    def sound(self, name: str, sound: np.ndarray | None = None, rate: int = 16_000) -> str:
        write_sound(self.root / name, tone(32 / 25, rate) if sound is None else sound, rate)
        return name

    def row(self, id: str = "a", sound: np.ndarray | None = None, rate: int = 16_000, **said: Any) -> Row:
        """A good item, with some things said otherwise."""
        row = {"id": id, "video": said.pop("video", "") or self.video(f"{id}.mkv")}
        if "audio" not in said:
            row["audio"] = self.sound(f"{id}.wav", sound, rate)
        return {**row, **said}

    def manifest(self, *rows: Row | str) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.root / "m.jsonl").write_text("\n".join(lines) + "\n")
        return self.root / "m.jsonl"

    def item(self, row: Row | str) -> TalkItem:
        found = read_manifest(self.manifest(row))[0]
        if isinstance(found, DataError):
            raise found
        return found

    def check(self, row: Row | str, rule: TalkRule = RULE) -> Checked:
        return check(self.item(row), rule)

    def masks(self, name: str, **arrays: np.ndarray) -> str:
        np.savez(self.root / name, **arrays)
        return name


@pytest.fixture
def studio(tmp_path: Path, encode: Encode) -> Studio:
    return Studio(tmp_path, encode)


def short(name: str, share: float) -> Callable[[Studio], str]:
    def make(studio: Studio) -> str:
        studio.video(name, 200)
        cut_short(studio.root / name, share)
        return name

    return make


def empty(name: str) -> Callable[[Studio], str]:
    def make(studio: Studio) -> str:
        (studio.root / name).write_bytes(b"")
        return name

    return make


def damaged(sound: np.ndarray, value: float, share: float) -> np.ndarray:
    out = sound.copy()
    out[: max(1, round(share * len(out)))] = value
    return out


def cut_wav(studio: Studio) -> str:
    return cut_short(studio.root / studio.sound("cut.wav"), 0.5).name


def gif(studio: Studio) -> str:
    frames = [Image.new("RGB", (48, 48), (i, 0, 0)) for i in (0, 200)]
    frames[0].save(studio.root / "a.gif", save_all=True, append_images=frames[1:])
    return "a.gif"


def picture(name: str, width: int, height: int, mode: str = "RGB") -> Callable[[Studio], str]:
    def make(studio: Studio) -> str:
        Image.new(mode, (width, height), (9, 9, 9, 9)[: len(mode)]).save(studio.root / name)
        return name

    return make


ONES = np.ones((48, 48), np.float32)
POLICY: list[tuple[str, str, Callable[[Studio], Row | str]]] = [
    ("video", "is truncated", lambda s: s.row(video=short("cut.mkv", 0.4)(s))),
    ("video", "is empty", lambda s: s.row(video=empty("none.mkv")(s))),
    ("video", "sound but no picture", lambda s: s.row(video=s.sound("only.mkv", None))),
    ("video", "cannot be decoded", lambda s: s.row(video=Path(s.masks("no.npz", face=ONES)).name)),
    ("audio", "is truncated", lambda s: s.row(audio=cut_wav(s))),
    ("audio", "is empty", lambda s: s.row(audio=empty("none.wav")(s))),
    ("audio", "has a picture but no sound track", lambda s: s.row(audio=None)),
    ("audio", "1 of 20480 samples are not finite", lambda s: s.row(sound=damaged(tone(1.28), np.nan, 0))),
    ("audio", "its sound ends at 0.00 s", lambda s: s.row(sound=tone(0.03))),
    ("silent", "nothing is to be heard", lambda s: s.row(sound=np.zeros(20_480, np.float32))),
    ("clipped", "20.0% of its samples are at full scale", lambda s: s.row(sound=damaged(tone(1.28), 1.0, 0.2))),
    ("short", "8 frames at 25 a second, need 9", lambda s: s.row(video=s.video("short.mkv", 8))),
    ("short", "7 frames at 25 a second, need 9", lambda s: s.row(start=0.4, end=0.7)),
    ("short", "0 frames at 25 a second", lambda s: s.row(start=9.0)),
    ("box", "leaves the picture of 48x48", lambda s: s.row(bbox=[0, 0, 49, 40])),
    ("box", "is empty", lambda s: s.row(bbox=[20, 20, 20, 40])),
    ("box", "smaller than 16 pixels", lambda s: s.row(bbox=[20, 20, 24, 40])),
    ("box", "expected [x0, y0, x1, y1]", lambda s: s.row(bbox=[1, 2, 3])),
    ("box", "a track of [9, 4] for 32 frames", lambda s: s.row(bbox=s.masks("t.npz", bbox=np.ones((9, 4))))),
    ("box", "no face box, and 64x48 has not the aspect", lambda s: s.row(video=s.video("w.mkv", size=(64, 48)))),
    ("mask", "mask face is [47, 48]", lambda s: s.row(masks=s.masks("k.npz", face=ONES[1:]))),
    (
        "mask",
        "mask lip is [5, 48, 48], the video 32",
        lambda s: s.row(masks=s.masks("k.npz", lip=ONES[None].repeat(5, 0))),
    ),
    ("mask", "has values outside 0 to 1", lambda s: s.row(masks=s.masks("k.npz", face=2 * ONES))),
    ("mask", "holds none of face, lip, person", lambda s: s.row(masks=s.masks("k.npz", nose=ONES))),
    ("faces", "2 faces and no mask says who speaks", lambda s: s.row(faces=2)),
    ("faces", "2 faces and no mask", lambda s: s.row(speakers=[{"id": "l"}, {"id": "r"}])),
    ("image", "transparent", lambda s: s.row(image=picture("a.png", 48, 48, "RGBA")(s))),
    ("image", "is animated", lambda s: s.row(image=gif(s))),
    ("image", "is 64x48, the model 32x32", lambda s: s.row(image=picture("a.png", 64, 48)(s))),
    ("file", "no such file", lambda s: s.row(audio="none.wav")),
    ("file", "absolute path", lambda s: s.row(audio="/etc/hosts")),
    ("file", "leaves the manifest's folder", lambda s: s.row(video="../a.mkv")),
    ("manifest", "not a line of JSON", lambda s: '{"id": "a", '),
    ("manifest", "expected an object, found list", lambda s: "[1]"),
    ("manifest", "unknown key 'bbbox'; did you mean 'bbox'?", lambda s: s.row(bbbox=[0, 0, 9, 9])),
    ("manifest", "video: expected text", lambda s: '{"id": "a"}'),
    ("manifest", "not after its start", lambda s: s.row(start=2, end=1)),
    ("manifest", "start: expected a number", lambda s: s.row(start="soon")),
    ("manifest", "quality: expected", lambda s: s.row(quality="good")),
    ("manifest", "speakers[0]: expected id, mask and audio", lambda s: s.row(speakers=[{"voice": "x"}])),
]


@pytest.mark.parametrize(("kind", "reason", "make"), POLICY, ids=[f"{k}-{r[:24]}" for k, r, _ in POLICY])
def test_a_bad_item_is_refused_with_its_kind_and_one_line(
    studio: Studio, kind: str, reason: str, make: Callable[[Studio], Row | str]
) -> None:
    with pytest.raises(DataError) as caught:
        studio.check(make(studio))
    assert (caught.value.kind, reason in str(caught.value)) == (kind, True), str(caught.value)
    assert "\n" not in str(caught.value) and ("a" in caught.value.id or "m.jsonl:1" in str(caught.value))


def test_a_needed_mask_that_is_not_there_is_refused(studio: Studio) -> None:
    with pytest.raises(DataError, match="no mask of lip"):
        studio.check(studio.row(masks=studio.masks("k.npz", face=ONES)), TalkRule(9, 8, Bucket(32, 32), masks=("lip",)))


def test_a_good_item_has_nothing_to_say(studio: Studio) -> None:
    found = studio.check(studio.row())
    assert (found.count, found.frames, found.sound, found.starts, found.remarks) == (32, (0, 32), 32, (0, 8, 16), ())


@pytest.mark.parametrize(
    ("said", "make"),
    [
        ("40 frames of the video became 32 at 25", lambda s: s.row(video=s.video("f.mkv", 40, fps=Fraction(125, 4)))),
        ("17 frames of the video became 34 at 25", lambda s: s.row(video=s.video("f.mkv", 17, times=VFR))),
        ("sound of 48000 Hz and 1 channels became", lambda s: s.row(rate=48_000)),
        (
            "sound of 16000 Hz and 2 channels became",
            lambda s: s.row(sound=np.stack([tone(1.28), tone(1.28, hertz=300)])),
        ),
        ("sound: 2.0% of its samples are at full", lambda s: s.row(sound=damaged(tone(1.28), 1.0, 0.02))),
        ("sound: its mean is +0.20, which is taken", lambda s: s.row(sound=tone(1.28) + np.float32(0.2))),
        ("its sound is 0.12 s longer than its picture", lambda s: s.row(sound=tone(1.40))),
        ("its sound is 0.28 s shorter", lambda s: s.row(sound=tone(1.00))),
    ],
)
def test_what_can_be_mended_is_said(studio: Studio, said: str, make: Callable[[Studio], Row]) -> None:
    found = studio.check(make(studio))
    assert [r for r in found.remarks if r.startswith(said)], found.remarks
    assert found.starts[:3] == (0, 8, 16)


VFR = [i * 0.04 for i in range(8)] + [0.32 + i * 0.12 for i in range(9)]


@pytest.mark.parametrize("more", [2, -2])
def test_two_frames_of_difference_are_no_word_worth(studio: Studio, more: int) -> None:
    assert studio.check(studio.row(sound=tone((32 + more) / 25))).remarks == ()


def data(studio: Studio, *rows: Row, rule: TalkRule = RULE) -> TalkingData:
    found = survey(studio.manifest(*rows), rule, Policy("strict"), say=lambda line: None)
    return TalkingData(found, rule, lambda clips: Batch(stacked(clips)["frames"], Cond()), (3, 9, 32, 32))


def shade(clip: TalkClip) -> list[int]:
    """Which frame of the file each frame shows."""
    return (clip.frames.mean((0, 2, 3)).add(1).mul(127.5) / 8).round().int().tolist()


def test_clips_hold_their_frames_and_the_sound_that_belongs_to_them(studio: Studio) -> None:
    ramp = (np.arange(20_480) / 40_960).astype(np.float32)
    clip = data(studio, studio.row(sound=ramp - np.float32(ramp.mean()), text=" says  a ", quality=0.25)).clip(1)
    assert shade(clip) == [*range(8, 17)] and clip.key == "a@0.32"
    assert clip.sound.shape == (640 * 9,) and clip.valid.tolist() == [1] * 9
    assert torch.allclose(clip.sound, torch.from_numpy(ramp - ramp.mean())[640 * 8 : 640 * 17], atol=1e-6)
    assert (clip.quality, clip.text) == (0.25, "says a")
    assert clip.reference.shape == (3, 32, 32)
    shown = round(float(clip.reference.mean() + 1) * 127.5 / 8)
    assert shown not in range(8, 17)


def test_another_rate_is_read_by_its_timestamps(studio: Studio) -> None:
    made = data(
        studio, studio.row(video=studio.video("f.mkv", 64, fps=Fraction(50))), rule=TalkRule(9, 8, Bucket(32, 32))
    )
    assert shade(made.clip(0)) == [2 * i for i in range(9)]


def test_sound_that_ends_early_is_silence_that_is_marked(studio: Studio) -> None:
    made = data(studio, studio.row(sound=tone(20 / 25)))
    assert [start for _, start in made.clips] == [0, 8, 16]
    last = made.clip(2)
    assert last.valid.tolist() == [1] * 4 + [0] * 5
    assert last.sound[: 640 * 4].abs().max() > 0.4 and not last.sound[640 * 4 :].any()
    fewer = data(studio, studio.row(sound=tone(16 / 25)))
    assert [start for _, start in fewer.clips] == [0, 8]  # a clip without any sound is none


def test_a_part_of_a_file_is_cut_by_seconds(studio: Studio) -> None:
    made = data(studio, studio.row(start=0.4, end=0.9))
    assert made.clips[0][1] == 10 and len(made) == 1 and shade(made.clip(0)) == [*range(10, 19)]
    assert made.clips[0][0].frames == (10, 22)


@pytest.mark.parametrize("late", [0.0, 0.2])
def test_the_sound_of_the_video_itself_is_heard_by_its_clock(studio: Studio, late: float) -> None:
    clap, click = 10, np.zeros(20_480, np.float32)
    click[640 * clap - round(late * 16_000) + 100] = 0.9
    with av.open(str(studio.root / "clap.mkv"), "w") as container:
        picture, sound = container.add_stream("ffv1", rate=25), container.add_stream("pcm_f32le", rate=16_000)
        picture.height = picture.width = 48
        picture.pix_fmt = "bgr0"
        for i in range(32):
            image = np.full((48, 48, 3), 255 * (i == clap), np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        frame = av.AudioFrame.from_ndarray(click[None], "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, round(late * 16_000), Fraction(1, 16_000)
        container.mux([*sound.encode(frame), *sound.encode(), *picture.encode()])
    clip = data(studio, {"id": "a", "video": "clap.mkv"}).clip(1)
    assert int(clip.frames.mean((0, 2, 3)).argmax()) == clap - 8
    assert int(clip.sound.abs().argmax()) == 640 * (clap - 8) + 100


@pytest.mark.slow
def test_a_real_video_has_its_own_sound(studio: Studio, real: dict[str, Path]) -> None:
    (studio.root / "bunny.mp4").write_bytes(real["bunny"].read_bytes())
    made = data(studio, {"id": "b", "video": "bunny.mp4"}, rule=TalkRule(9, 40, Bucket(64, 36)))
    clip = made.clip(2)
    assert clip.frames.shape == (3, 9, 36, 64)
    assert torch.equal(clip.sound, read_sound(real["bunny"]).samples[640 * 80 : 640 * 89])


def test_a_face_is_cut_by_its_box_and_its_masks_with_it(studio: Studio) -> None:
    half = np.zeros((48, 48), np.uint8)
    half[:, 24:] = 1
    rising = np.arange(32)[:, None, None] / 31 * np.ones((48, 48))
    row = studio.row(bbox=[8, 8, 40, 40], masks=studio.masks("k.npz", face=half, lip=rising))
    clip = data(studio, row, rule=TalkRule(9, 8, Bucket(32, 32), grow=1.0)).clip(1)
    assert set(clip.masks) == {"face", "lip"} and clip.masks["lip"].shape == (9, 32, 32)
    assert torch.allclose(clip.masks["lip"].mean((1, 2)), torch.arange(8, 17) / 31, atol=0.003)
    assert torch.equal(clip.masks["face"][3], torch.from_numpy(half[8:40, 8:40]).float())


def test_a_moving_box_is_one_crop(studio: Studio) -> None:
    track = np.array([[i * 0.5, 4, 20 + i * 0.5, 24] for i in range(32)])
    x = np.broadcast_to(np.arange(48, dtype=np.uint8)[None, :, None] * 4, (48, 48, 3))
    studio.encode(studio.root / "x.mkv", [np.ascontiguousarray(x)] * 32, fps=Fraction(25), pix_fmt="yuv444p")
    row = studio.row(video="x.mkv", bbox=studio.masks("t.npz", bbox=track))
    clip = data(studio, row, rule=TalkRule(9, 8, Bucket(24, 24), grow=1.0)).clip(1)
    left = clip.frames[0, :, 12, 0].add(1).mul(127.5) / 4
    assert float(left.std()) < 0.5 and abs(float(left.mean()) - 4) < 1.5  # of frames 8 to 16: left is 4


def test_several_speakers_have_each_their_track_and_mask(studio: Studio) -> None:
    left = np.zeros((48, 96), bool)
    left[:, :48] = True
    Image.fromarray((~left * 255).astype(np.uint8)).save(studio.root / "right.png")
    speakers = [
        {"id": "l", "mask": studio.masks("left.npz", mask=left), "audio": studio.sound("l.wav", tone(1.28))},
        {"id": "r", "mask": "right.png", "audio": studio.sound("r.wav", np.zeros(20_480, np.float32))},  # listens
    ]
    row = studio.row(video=studio.video("duo.mkv", size=(96, 48)), faces=2, speakers=speakers)
    clip = data(studio, row, rule=TalkRule(9, 8, Bucket(64, 32))).clip(0)
    assert clip.sound.shape == (2, 640 * 9) and clip.masks["speakers"].shape == (2, 9, 32, 64)
    assert float((clip.masks["speakers"].sum(0) - 1).abs().max()) < 0.01
    assert torch.equal(clip.sound[0], torch.from_numpy(tone(1.28))[: 640 * 9])


def test_an_image_of_the_face_is_the_reference(studio: Studio) -> None:
    clip = data(studio, studio.row(image=picture("face.png", 48, 48)(studio))).clip(0)
    assert torch.allclose(clip.reference, torch.full((3, 32, 32), 9 / 127.5 - 1), atol=1e-6)


# -- many items -----------------------------------------------------------------------------------------------------


def many(studio: Studio, good: int, bad: Sequence[int] = ()) -> Path:
    """Items of which those at `bad` places have no sound."""
    video, sound = studio.video("v.mkv"), studio.sound("s.wav")
    silent = studio.sound("z.wav", np.zeros(20_480, np.float32))
    rows = [{"id": f"i{k}", "video": video, "audio": silent if k in bad else sound} for k in range(good)]
    return studio.manifest(*rows)


def test_strict_raises_for_the_first_bad_item(studio: Studio) -> None:
    with pytest.raises(DataError, match="item i2 .*nothing is to be heard"):
        survey(many(studio, 5, [2, 4]), RULE, Policy("strict"), say=lambda line: None)


def test_skipping_lists_every_bad_item_and_why(studio: Studio) -> None:
    said: list[str] = []
    out = studio.root / "out"
    found = survey(many(studio, 10, [2, 4]), RULE, Policy(max_bad=0.2), out, say=said.append)
    assert [each.item.id for each in found.items] == [f"i{k}" for k in range(10) if k not in (2, 4)]
    rows = [json.loads(line) for line in (out / "bad_items.jsonl").read_text().splitlines()]
    assert [(row["id"], row["kind"], row["path"]) for row in rows] == [
        ("i2", "silent", "z.wav"),
        ("i4", "silent", "z.wav"),
    ]
    assert said[0].startswith("skipped item i2 (z.wav): nothing is to be heard")


def test_more_than_a_twentieth_is_too_much_and_so_is_nothing_left(studio: Studio) -> None:
    path = many(studio, 20, [7])
    assert len(survey(path, RULE, say=lambda line: None).items) == 19
    path = many(studio, 20, [7, 9])
    with pytest.raises(UserError, match=r"2 of 20 items are bad \(2 silent\), more than 5%; the first: item i7"):
        survey(path, RULE, Policy(), studio.root / "out", say=lambda line: None)
    assert len((studio.root / "out/bad_items.jsonl").read_text().splitlines()) == 2
    with pytest.raises(UserError, match="none of 2 items could be used"):
        survey(many(studio, 2, [0, 1]), RULE, Policy(max_bad=1.0), say=lambda line: None)
    with pytest.raises(UserError, match="has no line"):
        survey(studio.manifest(""), RULE)


def test_what_was_mended_is_told_of_the_first_and_counted_of_the_others(studio: Studio) -> None:
    video, sound, said = studio.video("v.mkv"), studio.sound("s.wav", rate=48_000), list[str]()
    path = studio.manifest(*({"id": f"i{k}", "video": video, "audio": sound} for k in range(7)))
    survey(path, RULE, say=said.append)
    wanted = "sound of 48000 Hz and 1 channels became 16000 Hz and one"
    assert said == [*(f"item i{k}: {wanted}" for k in range(5)), "2 items more were mended"]


def test_an_id_is_used_once(studio: Studio) -> None:
    row = studio.row()
    found = survey(studio.manifest(row, row), RULE, Policy(max_bad=0.5), say=lambda line: None)
    assert len(found.items) == 1 and found.bad[0].kind == "duplicate"
    assert "id 'a' is that of line 1 already" in str(found.bad[0])


def test_only_lines_of_the_split_count(studio: Studio) -> None:
    rows = [studio.row("a", split="train"), studio.row("b", split="test"), studio.row("c")]
    found = survey(studio.manifest(*rows), RULE, split="train", say=lambda line: None)
    assert [each.item.id for each in found.items] == ["a", "c"]


def test_workers_change_nothing(studio: Studio) -> None:
    path, outs = many(studio, 8, [1, 3]), [studio.root / "one", studio.root / "four"]
    found = [
        survey(path, RULE, Policy(max_bad=0.5), o, workers=w, say=lambda line: None)
        for o, w in zip(outs, (1, 4), strict=True)
    ]
    assert found[0].items == found[1].items
    assert (outs[0] / "bad_items.jsonl").read_text() == (outs[1] / "bad_items.jsonl").read_text()


def test_a_check_that_was_broken_off_goes_on_where_it_was(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = many(studio, 6, [1]), studio.root / "out"
    whole = survey(path, RULE, Policy(max_bad=0.5), out, say=lambda line: None)
    lines = (out / "checked.jsonl").read_text().splitlines()
    (out / "checked.jsonl").write_text("\n".join(lines[:4]) + "\n" + lines[4][:30])  # killed while writing
    looked: list[str] = []
    from vdistill.data import talking

    monkeypatch.setattr(talking, "check", lambda item, rule: looked.append(item.id) or check(item, rule))
    again = survey(path, RULE, Policy(max_bad=0.5), out, say=lambda line: None)
    assert again.items == whole.items and [str(e) for e in again.bad] == [str(e) for e in whole.bad]
    assert looked == ["i3", "i4", "i5"]
    looked.clear()
    os.utime(studio.root / "z.wav", ns=(1, 1))
    survey(path, RULE, Policy(max_bad=0.5), out, say=lambda line: None)
    assert looked == ["i1"]  # what changed is looked at again


def test_a_file_that_vanished_stops_the_run_and_nothing_takes_its_place(studio: Studio) -> None:
    made = data(studio, studio.row("a"), studio.row("b"))
    (studio.root / "a.mkv").unlink()
    with pytest.raises(UserError, match="item a .*it was fine when it was checked"):
        made.clip(0)
    studio.video("b.mkv", 12)
    with pytest.raises(UserError, match="has other frames than the 32 it had"):
        made.clip(5)


def test_an_epoch_holds_every_clip_once_and_goes_on_anywhere(studio: Studio) -> None:
    made = data(studio, studio.row("a"), studio.row("b"))
    feed = Feed(made, batch=2, seed=1)
    keys = [key for step in range(3) for key in feed(step, 0).keys]
    assert sorted(keys) == sorted(f"{i}@{s / 25:.2f}" for i in "ab" for s in (0, 8, 16))
    one, two = Feed(made, 2, seed=1)(2, 0), feed(2, 0)
    assert torch.equal(one.x, two.x) and torch.equal(made.clip(3).reference, made.clip(3).reference)


def test_a_real_talking_head_with_speech_beside_it(studio: Studio, real: dict[str, Path]) -> None:
    (studio.root / "phone.mp4").write_bytes(real["phone"].read_bytes())
    (studio.root / SPEECH.name).write_bytes(SPEECH.read_bytes())
    row = {"id": "phone", "video": "phone.mp4", "audio": SPEECH.name, "bbox": [40, 20, 136, 132]}
    made = data(studio, row, rule=TalkRule(65, 64, Bucket(64, 64)))
    clip = made.clip(0)
    assert clip.frames.shape == (3, 65, 64, 64) and clip.sound.shape == (640 * 65,)
    assert float(clip.frames.std()) > 0.2 and float((clip.frames[:, 1:] - clip.frames[:, :-1]).abs().mean()) > 0.002
    batch = made.batch([0])
    assert float(clip.sound.abs().max()) > 0.1 and clip.valid.all()
    assert batch.keys == ("phone@0.00",) and batch.x.shape == (1, 3, 65, 64, 64)
