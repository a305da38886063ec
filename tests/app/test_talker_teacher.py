"""A teacher of talking heads from a config: trained, saved, opened, exported, sampled under a chain of scales."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor

from vdistill.app import cli
from vdistill.app import config as configs
from vdistill.app.build import build, make_roles
from vdistill.app.build_avatar import adapters_of, conditions_of
from vdistill.app.build_family import make_family
from vdistill.app.models import open_model
from vdistill.app.talk_clips import held_out, measured, talking, told
from vdistill.app.talker_source import TalkerSource, along_time, silent
from vdistill.app.train import train
from vdistill.avatar.adapter_tokens import LISTENS
from vdistill.core import checkpoint
from vdistill.core.errors import UserError
from vdistill.core.guidance import chain

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/avatar/talker_teacher_tiny.yaml"
QUICK = ["train.steps=4", "data.takes=2", "train.checkpoint_every=2", "train.batch=2"]


def load(*changes: str) -> Any:
    return configs.load(TINY, [*QUICK, *changes])


@cache
def trained() -> Path:
    """A run of a few steps."""
    out = Path(mkdtemp()) / "run"
    train(load(), out)
    return out


def second(tmp_path: Path, *sections: str) -> Any:
    """A config that goes on from a folder."""
    common = (
        "name: second",
        "data: {name: talker, takes: 2, take: 17}",
        "method: {name: flow, drop: {audio: 0.2}}",
        "train: {steps: 2, batch: 2}",
        "optim: {lr: 0.01}",
    )
    path = tmp_path / "second.yaml"
    path.write_text("\n".join((*common, *sections)))
    return configs.load(path)


def source(*changes: str) -> TalkerSource:
    found = build(load(*changes)).source
    assert isinstance(found, TalkerSource)
    return found


# -- data -----------------------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_its_step() -> None:
    a, b, other = source()(3, 0), source()(3, 0), source()(4, 0)
    assert a.keys == b.keys != other.keys
    assert torch.equal(a.x, b.x) and torch.equal(a.cond.along["audio"], b.cond.along["audio"])
    assert torch.equal(a.cond.fields["ref"], b.cond.fields["ref"])


def test_latents_decode_to_the_frames_that_were_shown_and_the_sound_is_theirs() -> None:
    made = source("data.edge=1.0")
    batch = made(0, 0)
    name, start = batch.keys[0].rsplit("@", 1)
    clip = made.worlds[0].clip(int(name.rsplit("/", 1)[1])).window(int(start), made.frames)
    assert (made.codec.decode(batch.x)[0] - clip.frames).abs().max() < 2 / 255
    ref = made.codec.encode(clip.reference[None, :, None])[:, :, 0]
    assert (batch.cond.fields["ref"][:1] - ref).abs().max() < 0.02
    # features of a clip alone know no sound before it, those of the take do; frames 1 to 6 are the same
    own = made.conditions.windows(made.conditions.encoder.features(clip.sound[None]))
    assert torch.allclose(batch.cond.along["audio"][0, 1, 2:], own[0, 1, 2:], atol=1e-4)


def test_clips_out_of_a_take_hear_what_was_before_and_after_them_unless_they_are_alone() -> None:
    within, alone = source("data.edge=0.0")(1, 0), source("data.edge=1.0")(1, 0)
    assert within.keys == alone.keys
    same = within.cond.along["audio"] == alone.cond.along["audio"]
    assert same[:, 1, 1:].all() and not same[:, 0].all() and not same[:, -1].all()


def test_regions_are_shares_of_latent_positions_and_the_first_frame_has_one_of_its_own() -> None:
    made = source()
    shares = made(0, 0).regions
    assert {*shares} == {"face", "lip", "person"} and shares["lip"].shape == (2, 1, 3, 4, 4)
    assert bool((shares["lip"] <= shares["person"] + 0.02).all()) and shares["person"].max() <= 1
    steps = torch.arange(9.0).view(1, 9, 1, 1)
    assert along_time(steps, made.codec).flatten().tolist() == [0.0, 2.5, 6.5]


def test_some_of_the_silence_is_told_as_listening() -> None:
    made = source("data.listen=1.0", "data.takes=1")
    cond = made(0, 0).cond
    take = made.take(0)
    sound = torch.cat([take.features[:3], torch.full((6, 160), -1.0)])[None]  # frames 5 to 8 are a position's own
    heard = made.conditions.windows(sound.clamp_min(0.5).where(torch.arange(9)[:, None] < 5, sound))
    assert silent(heard, made.conditions.windows).tolist() == [[False, False, True]]
    is_silent = silent(cond.along["audio"], made.conditions.windows)
    assert torch.equal(cond.along["audio.on"] == LISTENS, is_silent)
    assert bool((source("data.listen=0.0", "data.takes=1")(0, 0).cond.along["audio.on"] == 1).all())


def test_damaged_takes_are_of_other_people_and_say_so() -> None:
    batch = source("data.mq=1.0")(0, 0)
    assert batch.cond.fields["quality"].tolist() == [0.0, 0.0] and "talker/mq" in batch.keys[0]
    assert "quality" not in source()(0, 0).cond.fields


# -- training --------------------------------------------------------------------------------------------------------


def test_a_new_model_begins_as_the_same_model_without_adapters() -> None:
    config = load()
    deaf = config.model_copy(update={"family": config.family.model_copy(update={"adapters": None})})
    batch = source()(0, 0)
    x, t = batch.x, torch.tensor([0.2, 0.7])
    hears, plain = (make_family(c).net.x0(x, t, batch.cond) for c in (config, deaf))
    assert torch.equal(hears, plain)


def test_the_run_leaves_a_folder_that_opens_with_its_adapters() -> None:
    opened = open_model(trained())
    made = adapters_of(opened)
    assert made is not None and made.blocks[0].audio.to_v.weight.abs().max() > 0
    assert conditions_of(opened).size == (8, 160)
    folder = {p.name for p in (trained() / "student").iterdir()}
    assert {"talk_adapters.json", "talk_adapters.safetensors"} <= folder
    transformer = checkpoint.read_tensors(trained() / "student/transformer/diffusion_pytorch_model.safetensors")
    assert not [name for name in transformer if "beside" in name or "audio" in name]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    train(load("train.steps=2"), tmp_path / "run")
    train(load(), tmp_path / "run")
    a, b = (checkpoint.read_tensors(run / "student/talk_adapters.safetensors") for run in (trained(), tmp_path / "run"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_second_stage_goes_on_from_the_first_one_with_low_rank_adapters(tmp_path: Path) -> None:
    lora = "scope: {name: lora, rank: 2, targets: [to_q, to_k, to_v]}"
    train(second(tmp_path, f"family: {{name: tiny, path: {trained()}, size: 32, frames: 9}}", lora), tmp_path / "run")
    lora = checkpoint.read_tensors(tmp_path / "run/student/pytorch_lora_weights.safetensors")
    assert lora and not [name for name in lora if "beside" in name]
    before, after = (adapters_of(open_model(run)) for run in (trained(), tmp_path / "run"))
    assert before is not None and after is not None
    assert not torch.equal(before.blocks[0].audio.to_v.weight, after.blocks[0].audio.to_v.weight)


def test_new_adapters_on_a_frozen_network_are_trained_whole(tmp_path: Path) -> None:
    plain = make_family(load().model_copy(update={"family": load().family.model_copy(update={"adapters": None})}))
    plain.save(plain.net, tmp_path / "deaf")
    hears = f"family: {{name: tiny, path: {tmp_path / 'deaf'}, size: 32, frames: 9, adapters: {{width: 16}}}}"
    config = second(tmp_path, hears, "scope: {name: lora, rank: 2}")
    family = make_family(config)
    roles, _ = make_roles(config, family)
    trained_names = [name for name, _ in roles.modules["student"].named_parameters()]
    assert any("place" in name for name in trained_names) and any("lora_A" in name for name in trained_names)


def test_halved_and_exported_it_is_nearly_the_same(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "half"
    assert cli.main(["export", str(trained()), str(out), "--to", "diffusers", "--dtype", "bfloat16"]) == 0
    a, b = clips(open_model(trained())), clips(open_model(out))
    assert (a - b).abs().mean() < 0.05


# -- sampling --------------------------------------------------------------------------------------------------------


def clips(family: Any, scales: dict[str, float] | None = None, drop: tuple[str, ...] = ()) -> Tensor:
    shown, captions = held_out("open", 9, 32)
    cond = told(family, shown[:2], captions[:2]).drop(drop)
    return talking(family, cond, family.codec.shape(9, 32, 32), 2, scales)


def test_scales_of_one_are_none_and_others_are_not() -> None:
    family = open_model(trained())
    plain = clips(family)
    assert torch.equal(clips(family, {"ref": 1.0, "audio": 1.0}), plain)
    assert (clips(family, {"ref": 2.0, "audio": 4.0}) - plain).abs().max() > 1e-4


def test_a_chain_of_scales_is_three_passes() -> None:
    family = open_model(trained())
    shown, captions = held_out("seen", 9, 32)
    cond = told(family, shown[:2], captions[:2])
    x, t = torch.randn(2, *family.codec.shape(9, 32, 32)), torch.tensor([0.4, 0.9])
    p = [family.net.x0(x, t, cond.drop(gone)) for gone in (("ref", "audio"), ("audio",), ())]
    expected = p[0] + 2 * (p[1] - p[0]) + 4 * (p[2] - p[1])
    assert torch.allclose(chain(("ref", 2.0), ("audio", 4.0)).x0(family.net, x, t, cond), expected, atol=1e-4)


def test_the_truth_measures_best() -> None:
    shown, _ = held_out("open", 9, 32)
    truth = torch.stack([clip.frames for clip in shown])
    found = measured(shown, truth)
    assert found["colour"] == 0 and found["sync"] > measured(shown, truth.flip(2))["sync"]


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method.drop={ref: 0.6, audio: 0.6}", "at most 1"),
        ("method.drop={voice: 0.1}", "no condition 'voice'"),
        ("method={name: forcing, drop: {ref: 0.6, audio: 0.6}}", "at most 1"),
        ("method={name: forcing, drop: {voice: 0.1}}; causal={block: 1}", "no condition 'voice'"),
        ("data.take=5", "shorter than a clip"),
        ("family.adapters.bands=8", "at least 20"),
        ("family.adapters.ahead=5", "at most 4"),
        ("validation.scales={ref: -1.0}", "at least 0"),
    ],
)
def test_a_mistake_in_a_config_is_one_line(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(*change.split("; "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("family.adapters=null", "method.drop=null", "method.drop_text=0.1"), "does not hear"),
        (("method.regions={nose: 1.0}",), "nose"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(load(*changes), tmp_path / "run")


def test_a_folder_that_has_adapters_takes_no_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has adapters already"):
        build(second(tmp_path, f"family: {{name: tiny, path: {trained()}, size: 32, frames: 9, adapters: {{}}}}"))
