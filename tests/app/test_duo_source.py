"""Batches of two people: told as `vdistill talk` tells a scene, beside batches of one that are what they were."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from talkers import model
from torch import Tensor

from vdistill.app import cli
from vdistill.app import config as configs
from vdistill.app.build import build
from vdistill.app.build_family import make_family
from vdistill.app.duo_source import DuoSource, DuoTake
from vdistill.app.models import open_model
from vdistill.app.scene import Scene
from vdistill.app.scene import told as told_scene
from vdistill.app.speaker import speaker_of
from vdistill.app.talker_source import TalkerSource
from vdistill.avatar.adapter_tokens import LISTENS, NULL, SPEAKS
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.step import Batch
from vdistill.worlds.talker.duo import Duo

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs/avatar/talker_teacher_tiny.yaml"
DEMO = ROOT / "vdistill/assets/demo_talk.yaml"
QUICK = ["train.steps=2", "train.batch=2", "data.takes=2", "data.take=25"]


def load(*changes: str) -> Any:
    return configs.load(TINY, [*QUICK, *changes])


@cache
def source(*changes: str) -> Any:
    return build(load(*changes)).source


def tensors(batch: Batch) -> dict[str, Tensor]:
    return {"x": batch.x, **batch.cond.fields, **batch.cond.along, **batch.regions}


def same(a: Batch, b: Batch) -> bool:
    one, other = tensors(a), tensors(b)
    return a.keys == b.keys and one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# -- which batches ---------------------------------------------------------------------------------------------------


def test_without_a_share_and_in_all_other_batches_nothing_changes() -> None:
    plain, some = source(), source("data.duo=0.5")
    assert isinstance(plain, TalkerSource) and isinstance(source("data.duo=0.0"), TalkerSource)
    of_one = [step for step in range(8) if "duo" not in some(step, 0).keys[0]]
    assert 0 < len(of_one) < 8 and all(same(some(step, 0), plain(step, 0)) for step in of_one)
    assert all(same(replace(some, share=0.0)(step, 0), plain(step, 0)) for step in range(4))


def test_the_share_holds_over_many_steps_and_a_batch_is_of_one_kind() -> None:
    some = source("data.duo=0.3")
    kinds = [{"duo" in key for key in some(step, micro).keys} for step in range(150) for micro in (0, 1)]
    assert all(len(kind) == 1 for kind in kinds)
    assert sum(True in kind for kind in kinds) / len(kinds) == pytest.approx(0.3, abs=0.06)


def test_a_batch_is_a_function_of_seed_step_and_micro() -> None:
    two = source("data.duo=1.0")
    assert same(two(3, 1), build(load("data.duo=1.0")).source(3, 1))
    assert len({str(source("data.duo=1.0", f"seed={seed}")(step, 0).keys) for seed in (0, 1) for step in (0, 1)}) == 4


def test_what_is_usual_is_not_written_down() -> None:
    assert "duo" not in load().model_dump()["data"] and load("data.duo=0.5").model_dump()["data"]["duo"] == 0.5


# -- what they say ---------------------------------------------------------------------------------------------------


def test_shapes_of_both_kinds() -> None:
    one, two = source()(0, 0), source("data.duo=1.0")(0, 0)
    c, t, side = one.x.shape[1:4]
    assert one.x.shape == (2, c, t, side, side) and two.x.shape == (2, c, t, side, 2 * side)
    assert one.cond.fields["ref"].shape == (2, c, side, side) and two.cond.fields["ref"].shape == (2, c, side, 2 * side)
    assert one.cond.along["audio"].shape == (2, t, 8, 160) and two.cond.along["audio"].shape == (2, t, 2, 8, 160)
    assert one.cond.along["audio.on"].shape == (2, t) and two.cond.along["audio.on"].shape == (2, t, 2)
    assert "speakers" not in one.cond.along and two.cond.along["speakers"].shape == (2, t, 2, side, 2 * side)
    assert {k: v.shape for k, v in two.regions.items()} == dict.fromkeys(one.regions, (2, 1, t, side, 2 * side))


def test_latents_are_of_the_picture_and_regions_of_both_faces() -> None:
    two = source("data.duo=1.0")
    batch = two(0, 0)
    index, start = (int(part) for part in batch.keys[0].rsplit("/", 1)[1].split("@"))
    clip = two.world.clip(index)
    assert (two.one.codec.decode(batch.x)[0] - clip.frames[:, start : start + 9]).abs().max() < 2 / 255
    lip = batch.regions["lip"]
    assert lip[..., :4].amax() > 0.05 and lip[..., 4:].amax() > 0.05
    assert bool((lip <= batch.regions["person"] + 0.02).all())


def test_a_window_is_told_as_vdistill_talk_tells_the_scene_it_is_of() -> None:
    two, family = source("data.duo=1.0"), open_model(str(model()))
    clip, take = two.world.clip(0), two.take(0)
    speaker = speaker_of(family, clip.reference, 9, take.caption, scales={})
    scene = told_scene(speaker, Scene(clip.reference, clip.masks["person"].amax(1), clip.tracks), 25)
    cond = two.told([(take, slice(8, 17))], [False], speaker.ref)  # its positions 1 and 2 are 3 and 4 of the scene
    for name in ("audio", "audio.on", "speakers"):
        assert torch.allclose(cond.along[name][:, 1:], scene.along[name][:, 3:5], atol=1e-5), name
    assert cond.null.keys() == scene.null.keys() and cond.fields.keys() == scene.fields.keys()
    assert torch.allclose(cond.fields["ref"], scene.fields["ref"])


def test_whoever_is_silent_listens() -> None:
    two = source("data.duo=1.0")
    take: DuoTake = two.take(0)
    on = two.told([(take, slice(0, 25))], [True], torch.zeros(1, 1, 4, 8)).along["audio.on"][0]
    assert {*on.flatten().tolist()} == {SPEAKS, LISTENS}
    heard = take.speaks[:, 1:].unflatten(1, (-1, 4)).sum(2).T >= 2
    assert torch.equal(on[1:] == SPEAKS, heard)


def test_edges_hear_nothing_beyond_themselves() -> None:
    within, alone = (source("data.duo=1.0", f"data.edge={share}")(1, 0) for share in (0.0, 1.0))
    same_there = within.cond.along["audio"] == alone.cond.along["audio"]
    assert within.keys == alone.keys and same_there[:, 1, :, 1:].all() and not same_there.all()


def test_takes_of_two_are_clean_and_of_people_nobody_is_measured_on() -> None:
    batch = source("data.duo=1.0", "data.mq=1.0")(0, 0)
    assert batch.cond.fields["quality"].tolist() == [1.0, 1.0]
    assert "quality" not in source("data.duo=1.0")(0, 0).cond.fields
    assert not torch.equal(source("data.duo=1.0").world.who(0)[0].face, Duo().who(0)[0].face)


def test_dropping_the_sound_drops_that_of_all_speakers() -> None:
    cond = source("data.duo=1.0")(0, 0).cond
    gone, some = cond.drop(["audio"]), cond.drop_by([(("ref", "audio"), 0.5)], torch.tensor([0.2, 0.9]))
    assert not gone.along["audio"].any() and bool((gone.along["audio.on"] == NULL).all())
    assert not some.along["audio.on"][0].any() and torch.equal(some.along["audio.on"][1], cond.along["audio.on"][1])
    assert some.fields["ref.on"].tolist() == [0, 1] and not some.along["audio"][0].any()


# -- the network -----------------------------------------------------------------------------------------------------


def test_who_is_named_first_does_not_matter_and_whose_mask_is_whose_does() -> None:
    batch, net = source("data.duo=1.0")(1, 0), open_model(str(model())).net
    assert isinstance(net, torch.nn.Module)

    def said(*names: str) -> Tensor:
        along = {k: v.flip(2) if k in names else v for k, v in batch.cond.along.items()}
        with torch.no_grad():
            return net.x0(batch.x, torch.tensor([0.6, 0.6]), replace(batch.cond, along=along))  # type: ignore[no-any-return]

    plain = said()
    assert torch.equal(plain, said("audio", "audio.on", "speakers"))
    assert not torch.equal(plain, said("audio", "audio.on"))


def test_a_new_model_says_of_two_what_it_says_without_adapters() -> None:
    batch, family = source("data.duo=1.0")(0, 0), make_family(load())
    t = torch.tensor([0.2, 0.7])
    deaf = Cond({k: v for k, v in batch.cond.fields.items() if "ref" not in k})
    with torch.no_grad():
        assert torch.equal(family.net.x0(batch.x, t, batch.cond), family.net.x0(batch.x, t, deaf))


# -- runs ------------------------------------------------------------------------------------------------------------


def runs(config: Path, out: Path, *changes: str) -> list[dict[str, Any]]:
    """The metrics of a run from the command line whose config has these changes."""
    sets = [word for change in changes for word in ("--set", change)]
    assert cli.main(["train", str(config), "--out", str(out), *sets]) == 0
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_teacher_is_trained_on_both_kinds(tmp_path: Path) -> None:
    some = source("data.duo=0.5")
    assert isinstance(some, DuoSource)
    assert len({"duo" in some(step, 0).keys[0] for step in range(3)}) == 2
    log = runs(TINY, tmp_path / "run", *QUICK, "data.duo=0.5", "train.steps=3", "method.begin.share=1")
    assert len(log) == 3 and all(math.isfinite(row["student/loss"]) for row in log)


def test_a_student_that_is_told_scales_is_distilled_on_both_kinds(tmp_path: Path) -> None:
    small = ["family.size=32", "family.frames=9", "train.precision='no'", "optim.warmup=1", "data.duo=0.5"]
    log = runs(DEMO, tmp_path / "run", *QUICK, f"family.path={model()}", *small, "train.steps=3")
    assert len(log) == 3 and all(math.isfinite(row["student/loss"]) for row in log)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.duo=1.5", "duo"),
        ("data.duo=some", "duo"),
        ("data.duos=0.5", "duos"),
        ("data.duo=0.5; method.sync=0.1", "the one mouth of a picture"),
    ],
)
def test_a_mistake_in_a_config_is_one_line(change: str, message: str, capsys: Any) -> None:
    sets = [word for one in change.split("; ") for word in ("--set", one)]
    assert cli.main(["check", str(TINY), *sets]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    with pytest.raises(UserError, match=message):
        load(*change.split("; "))
