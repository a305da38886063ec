"""Causal students that hear: a live session is the rollout over all the sound, to the bit; it hears nothing early."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from sounds import write_sound
from torch import Tensor

import vdistill
from vdistill.app import cli
from vdistill.app import config as configs
from vdistill.app.about import About
from vdistill.app.build_avatar import conditions_of
from vdistill.app.build_family import make_family
from vdistill.app.causal_file import Saved, read_causal
from vdistill.app.causal_speaker import CausalSpeaker, causal
from vdistill.app.models import open_model
from vdistill.app.scene import Scene, told
from vdistill.app.scene import spoken as spoken_scene
from vdistill.app.speaker import session_of, speaker_of
from vdistill.app.talk_clips import talking
from vdistill.app.train import train
from vdistill.avatar.rates import SAMPLES
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.rollout import make_block, part
from vdistill.causal.stream import Stream
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import EachRng, Rng
from vdistill.data.encode import png
from vdistill.families.stock import StockFamily
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.talker import Talker

ROOT = Path(__file__).resolve().parents[2]
TEXT = "a person speaks"
SPECS = {
    "one": Saved(1, 3, 1, "anchored", times=(1.0, 0.6)),
    "three": Saved(2, 4, first_block=3, times=(1.0, 0.6), first=(1.0, 0.8, 0.4), commit_sigma=0.1),
    "anew": Saved(1, 3, times=(1.0, 0.6), commit="recompute"),
}


@cache
def model() -> Path:
    """A folder of an untrained model that hears, its outputs not all one."""
    folder = Path(mkdtemp()) / "model"
    family = make_family(configs.load(ROOT / "configs/avatar/talker_teacher_tiny.yaml"))
    assert isinstance(family, StockFamily)
    for i, (name, p) in enumerate(sorted(family.net.named_parameters())):
        if not p.any():
            p.data = 0.02 * Rng(i).normal(name, p.shape)
    family.save(family.net, folder)
    About(9, 32, 32, steps=2).write(folder)
    return folder


@cache
def clip() -> Clip:
    return Talker("open", 32, 49, 1).clip(3)


def speaker(kind: str = "one", **changed: object) -> CausalSpeaker:
    family = open_model(model())
    return causal(speaker_of(family, clip().reference, 9, TEXT, scales={}), replace(SPECS[kind], **changed))  # type: ignore[arg-type]


def spoken(sound: Tensor, pieces: int = 1 << 20, kind: str = "one") -> Tensor:
    session, made = session_of(speaker(kind)), []
    for piece in sound.split(pieces):
        made += session.push(piece)
    return torch.cat([chunk.frames for chunk in made + session.finish()], 1)


def whole(one: CausalSpeaker, sound: Tensor) -> Cond:
    """Conditions of a sound of 4 k + 1 frames, at once."""
    return conditions_of(one.family)(sound[None], one.ref, one.text)


@pytest.mark.parametrize("kind", SPECS)
def test_a_causal_model_says_the_same_whatever_the_pieces(kind: str) -> None:
    sound = clip().sound
    at_once = spoken(sound, kind=kind)
    assert at_once.shape == (3, 49, 32, 32) and at_once.isfinite().all() and at_once.std() > 0.05
    for pieces in (777, SAMPLES):
        assert torch.equal(spoken(sound, pieces, kind), at_once)


def test_a_session_is_the_rollout_over_the_whole_sound_to_the_bit() -> None:
    one, sound = speaker(), clip().sound
    cond, plan, cache = whole(one, sound), one.stream.plan, Cache(one.stream.plan.layout)
    made = []
    with torch.no_grad():
        for start, count in plan.layout.spans(13):
            rng = EachRng(0, turn=f"stream/{start}", seeds=(0,))
            noise = rng.normal("noise", (1, one.shape[0], count, *one.shape[2:]))
            here, ids = part(cond, plan, start, count), range(start, start + count)
            made.append(make_block(one.net, noise, here, cache, plan, rng, ids))
    assert torch.equal(one.family.codec.decode(torch.cat(made, 2))[0], spoken(sound))


@pytest.mark.parametrize("kind", SPECS)
def test_told_all_at_once_a_stream_makes_what_it_makes_told_block_by_block(kind: str) -> None:
    one = speaker(kind)
    cond, plan = whole(one, clip().sound), one.stream.plan
    told = Stream(one.net, plan, one.stream.shape, cond, recompute=kind == "anew")
    frames = one.family.codec.decode(torch.cat([next(told) for _ in plan.layout.spans(13)], 2))[0]
    assert torch.equal(frames, spoken(clip().sound, kind=kind))
    assert told.heard.start == told.heard.end == 13 and len(told.followed) <= 4  # what is past is dropped
    with pytest.raises(UserError, match="latents 13 to 1[34] are asked for, told are 13 to 12"):
        next(told)


def test_what_is_said_later_changes_nothing_before_and_what_is_said_is_heard() -> None:
    """Frame 4 j is the last of its position, which hears two frames more and 40 samples that their features see."""
    sound, heard = clip().sound, 27 * SAMPLES + 40
    other = torch.cat([sound[:heard], 0.3 * Rng(0).normal("other", (49 * SAMPLES - heard,))])
    one, two = spoken(sound), spoken(other)
    assert torch.equal(one[:, :25], two[:, :25])
    assert all(not torch.equal(one[:, i], two[:, i]) for i in range(25, 49))


def test_a_stream_that_is_kept_goes_on_to_the_bit() -> None:
    one = speaker("anew")
    cond, plan, shape = whole(one, clip().sound), one.stream.plan, one.stream.shape
    kept = Stream(one.net, plan, shape, cond, recompute=True)
    for _ in range(5):
        next(kept)
    state, after = kept.state(), torch.cat([next(kept) for _ in range(4)], 2)
    again = Stream(one.net, plan, shape, replace(cond, along={}), recompute=True)
    again.restore(state)
    assert torch.equal(torch.cat([next(again) for _ in range(4)], 2), after)


@pytest.mark.parametrize("kind", SPECS)
def test_a_session_that_is_kept_goes_on_to_the_bit(kind: str) -> None:
    sound, first, other = clip().sound, session_of(speaker(kind)), session_of(speaker(kind))
    first.push(sound[:17_777]), other.push(sound[-9000:])
    kept = {name: value.clone() for name, value in first.state().items()}
    rest = torch.cat([chunk.frames for chunk in first.push(sound[17_777:]) + first.finish()], 1)
    other.restore(kept)
    again = torch.cat([chunk.frames for chunk in other.push(sound[17_777:]) + other.finish()], 1)
    assert rest.shape[1] > 20 and torch.equal(again, rest)
    with pytest.raises(UserError, match="this session has"):
        session_of(speaker("three" if kind == "one" else "one")).restore(kept)


def test_another_text_is_told_between_blocks_and_the_sound_goes_on() -> None:
    one = speaker()
    cond, plan, shape = whole(one, clip().sound), one.stream.plan, one.stream.shape
    stream = Stream(one.net, plan, shape, cond)
    next(stream), next(stream)
    same = Stream(one.net, plan, shape, cond)
    next(same), next(same)
    same.switch(replace(cond, along={}))  # remembered anew, under the same text and each under its own sound
    assert torch.allclose(next(stream), next(same), atol=1e-5)
    with pytest.raises(UserError, match=r"audio follows the sequence"):
        stream.switch(cond)


def test_two_people_talk_each_with_a_sound_of_their_own() -> None:
    one = speaker()
    tracks = torch.stack([clip().sound, clip().sound.flip(0)])
    masks = torch.zeros(2, 32, 32)
    masks[0, :, :16], masks[1, :, 16:] = 1, 1
    scene = Scene(clip().reference, masks, tracks)
    made = torch.cat([*spoken_scene(one, scene)], 1)
    stream = Stream(one.net, one.stream.plan, one.stream.shape, told(one, scene, 49))
    assert torch.equal(one.family.codec.decode(torch.cat([next(stream) for _ in range(13)], 2))[0], made)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="denoises 2 blocks together"):
        speaker(rolling=2)
    with pytest.raises(UserError, match="makes 1 positions at a time, found 2"):
        session_of(speaker(), 2)
    one = speaker()
    with pytest.raises(UserError, match="tell the same things"):
        one.stream.hear({"audio": torch.zeros(1, 1, 8, 160)})
        one.stream.hear({"text": torch.zeros(1, 1, 8, 160)})


def test_vdistill_talk_takes_a_causal_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, face, sound = tmp_path / "student", tmp_path / "face.png", tmp_path / "speech.wav"
    family = open_model(model())
    family.save(family.net, folder, (1.0, 0.6))
    About(9, 32, 32).write(folder)
    SPECS["one"].write(folder)
    face.write_bytes(png(clip().reference, 1))
    write_sound(sound, clip().sound.numpy())
    given = ["talk", str(folder), "--image", str(face), "--audio", str(sound)]
    assert cli.main([*given, "--out", str(tmp_path / "a.mp4")]) == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["frames"] == 49 and told["passes"] == 13 * 3  # blocks, two steps and one to remember
    capsys.readouterr()
    for more, says in (
        (["--block", "2"], "--block: this student makes 1 positions at a time, found 2"),
        (["--long", "windows"], "--long windows: is for models that see their whole clip"),
        (["--audio-scale", "2"], "this few-step student has its guidance in its weights"),
    ):
        assert cli.main([*given, *more, "--out", str(tmp_path / "b.mp4")]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "b.mp4").exists()


def test_a_model_that_hears_does_not_stream_deaf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "student"
    shutil.copytree(model(), folder)
    SPECS["one"].write(folder)
    assert cli.main(["stream", str(folder), "--prompt", TEXT, "--seconds", "1", "--out", str(tmp_path / "a.mp4")]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"use vdistill talk {folder} --image FILE --audio FILE" in line and not (tmp_path / "a.mp4").exists()
    with pytest.raises(UserError, match="this model hears, and a stream has no sound"):
        vdistill.stream(folder, TEXT)


STAGES = {
    "talker_causal_forcing": [],
    "talker_causal_init": ["method.teacher_steps=6", "method.steps=2"],
    "ode_init": ["method={name: ode_init, teacher_steps: 4, steps: 2, scale: 1.0}"],
    "talker_causal": ["method.critic_per_student=2", "method.steps=2", "causal.start=null"],
}
SMALL = ["family.size=32", "data.takes=4", "data.take=17", "train.batch=2", "train.precision=no",
         "train.checkpoint_every=2", "validation.every=3"]  # fmt: skip


@pytest.mark.parametrize("stage", [pytest.param(s, marks=pytest.mark.slow) for s in STAGES])
def test_stages_train_and_resume_bit_for_bit(stage: str, tmp_path: Path) -> None:
    path = ROOT / f"configs/avatar/{stage if stage.startswith('talker') else 'talker_causal_forcing'}.yaml"
    more = [f"family.path={model()}", *SMALL, *STAGES[stage]]
    train(configs.load(path, [*more, "train.steps=3"]), tmp_path / "a")
    train(configs.load(path, [*more, "train.steps=2"]), tmp_path / "b")
    train(configs.load(path, [*more, "train.steps=3"]), tmp_path / "b")
    one, two = ((tmp_path / run / "metrics.jsonl").read_text() for run in "ab")
    assert one == two and "nan" not in one


@pytest.mark.parametrize("kind", SPECS)
def test_clips_made_while_training_are_made_block_by_block(kind: str) -> None:
    """Silence from the second block on changes nothing in the first, where a network that sees it all would tell."""
    one = speaker(kind)
    cond, shape, first = whole(one, clip().sound), (one.shape[0], 13, *one.shape[2:]), one.stream.next_count
    audio = cond.along["audio"].clone()
    audio[:, first:] = 0
    how = (shape, 2, None, 0, None, (1.0, 0.6))
    made, other = (
        talking(one.family, c, *how, SPECS[kind]) for c in (cond, replace(cond, along={**cond.along, "audio": audio}))
    )
    seen = 1 + 4 * (first - 1)
    assert made.shape == (1, 3, 49, 32, 32) and torch.equal(made[:, :, :seen], other[:, :, :seen])
    assert not torch.equal(made[:, :, seen:], other[:, :, seen:])


def test_the_tiny_recipe_trains_and_speaks(tmp_path: Path) -> None:
    config = configs.load(
        ROOT / "configs/avatar/talker_causal_tiny.yaml",
        [f"family.path={model()}", "train.steps=2"],
    )
    train(config, tmp_path / "run")
    spec = read_causal(tmp_path / "run" / "student")
    assert spec is not None and spec.layout() == Layout(1, None, 5, 1, "relative")
    family = open_model(tmp_path / "run")
    session = session_of(causal(speaker_of(family, clip().reference, 17, TEXT, scales={}), spec))
    made = session.push(clip().sound[: 21 * SAMPLES]) + session.finish()
    assert torch.cat([chunk.frames for chunk in made], 1).shape == (3, 21, 32, 32)
