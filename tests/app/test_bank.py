"""A bank holds what the teacher's solver says, whoever writes it and however often it is interrupted."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor
from toys import tiny_family

from vdistill.app import bank as command
from vdistill.app import config as configs
from vdistill.app.build import build, engine_of, make_roles
from vdistill.app.kept_times import times_of
from vdistill.app.trajectories import Trajectories, open_trajectories
from vdistill.core.bank import Bank
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided, PerSample, Told, guided_x0
from vdistill.core.inputs import Banked
from vdistill.core.losses.regression import weighted_x0
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import path, solve
from vdistill.core.step import Batch
from vdistill.data.bank import BankData, OnTrajectory
from vdistill.data.loader import Feed
from vdistill.data.media import write_video
from vdistill.data.prompts import save_prompts
from vdistill.families.tiny import TinyFamily
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation

ANALYTIC = {
    "name": "toy",
    "family": {"name": "analytic", "target": "classes"},
    "data": {"name": "analytic"},
    "method": {"name": "lcm", "steps": 2},
    "train": {"steps": 2, "batch": 2},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, folder)
    return folder


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    """A config whose teacher is known in closed form."""
    return written(tmp_path / "exact.yaml", ANALYTIC)


@pytest.fixture
def tiny(tmp_path: Path, teacher: Path) -> Path:
    """A config whose teacher makes clips from prompts."""
    (tmp_path / "prompts.txt").write_text("a red square moves left\na blue circle\na green cross rotates\n")
    family = {"name": "tiny", "path": str(teacher), "frames": 5, "size": 16}
    data = {"name": "prompts", "path": str(tmp_path / "prompts.txt"), "frames": 5, "size": 16}
    method = {"name": "dmd2", "steps": 2, "guidance": {"scale": 3.0}}
    return written(tmp_path / "tiny.yaml", {**ANALYTIC, "family": family, "data": data, "method": method})


def written(file: Path, config: dict[str, object]) -> Path:
    file.write_text(yaml.safe_dump(config))
    return file


def bank(config: Path, out: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return command.run(parser.parse_args([str(config), "--out", str(out), "--steps", "4", *words]))


def content(folder: Path) -> tuple[Tensor, Cond, tuple[str, ...]]:
    found = Bank.open(folder)
    return *found.read(range(len(found))), found.texts()


def assert_same(a: Path, b: Path) -> None:
    (x, c, texts), (y, d, others) = content(a), content(b)
    assert torch.equal(x, y) and texts == others
    for group in ("fields", "along", "null"):
        ours, theirs = getattr(c, group), getattr(d, group)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", command.SOLVERS)
def test_a_kept_pair_is_the_noise_and_what_the_solver_makes_of_it(tiny: Path, tmp_path: Path, solver: str) -> None:
    bank(tiny, tmp_path / "b", "--count", "3", "--solver", solver, "--seed", "7")
    states, cond, texts = content(tmp_path / "b")
    family = TinyFamily.load(configs.load(tiny).family.path or "")
    noise = torch.stack([Rng(7, i, turn="bank").normal("noise", states.shape[2:]) for i in range(3)])
    assert torch.equal(states[:, 0], noise)
    assert sorted(texts) == ["a blue circle", "a green cross rotates", "a red square moves left"]
    asked = family.text(texts)
    assert all(torch.equal(cond.fields[k], v) for k, v in asked.fields.items())
    with torch.no_grad():
        guided, grid = Guided(family.net, cfg(3.0, "text")), family.schedule.grid(4)
        assert torch.equal(states[:, 1], solve(guided, noise, grid, asked, solver))  # type: ignore[arg-type]


def test_a_kept_path_is_every_state_of_the_solver_and_labels_are_drawn(exact: Path, tmp_path: Path) -> None:
    bank(exact, tmp_path / "b", "--count", "64", "--keep", "path", "--shard", "64", "--batch", "64")
    states, cond, texts = content(tmp_path / "b")
    law = made_of(exact).guide(None)
    assert torch.equal(states, torch.stack(path(law, states[:, 0], law.schedule.grid(4), cond), 1)) and texts == ()
    assert set(cond.fields["label"].tolist()) == {0, 1, 2, 3}


def made_of(config: Path, keep: str = "pairs", steps: int = 4, scale: command.Scale = None) -> Trajectories:
    return open_trajectories(
        configs.load(config), steps=steps, keep=keep, solver="ddim", scale=scale, seed=0, dtype="float32"
    )


def test_students_times_are_kept_and_the_number_of_steps_stays(exact: Path) -> None:
    one = made_of(exact, "student", 5)
    assert one.keep == (1.0, 0.5, 0.0) and len(one.grid) == 6 and set(one.keep) <= set(one.grid)
    assert made_of(exact, "1,0.9,0.2").keep == (1.0, 0.9, 0.2, 0.0)
    config, schedule = configs.load(exact), Schedule("rf", shift=3.0)
    assert times_of("0.52,0.5", config, Schedule(), 4)[0] == (1.0, 0.52, 0.5, 0.25, 0.0)
    assert times_of("student", config, schedule, 4) == (tuple(schedule.grid(4).tolist()), (1.0, 0.75, 0.0))


def test_each_trajectory_draws_its_scale_from_a_range(exact: Path, tmp_path: Path) -> None:
    bank(exact, tmp_path / "b", "--count", "9", "--guidance", "1:6")
    states, cond, _ = content(tmp_path / "b")
    scale = cond.fields["guidance"]
    assert scale.min() >= 1 and scale.max() < 6 and len(scale.unique()) == 9
    drawn = torch.stack([Rng(0, i, turn="bank").uniform("scale", (), 1.0, 6.0) for i in range(9)])
    law = made_of(exact).guide(None)
    teacher = PerSample(law.denoiser, drawn, "label")  # type: ignore[attr-defined]
    assert torch.equal(states[:, 1], solve(teacher, states[:, 0], law.schedule.grid(4), cond))


def test_a_network_that_is_told_the_scale_is_told_it_and_guided_by_text_where_that_is_learned(tiny: Path) -> None:
    family = {"name": "flux", "random_tiny": "flux", "height": 64, "width": 64, "long_text": "cut"}
    config = {**yaml.safe_load(tiny.read_text()), "family": family, "data": {"name": "shapes", "frames": 1, "size": 64}}
    for method, one in (({"name": "dmd2"}, Told), ({"name": "guidance", "scale_low": 2.0, "scale_high": 2.0}, Guided)):
        made = made_of(written(tiny.parent / "flux.yaml", {**config, "method": method}))
        states, cond, _ = made.make([0, 1])
        assert isinstance(made.guide(None), one) and states.isfinite().all() and "guidance" not in cond.fields


def test_every_prompt_comes_once_before_any_comes_again(tiny: Path) -> None:
    texts = made_of(tiny).asked(range(9))[1]
    assert all(len(set(texts[i : i + 3])) == 3 for i in (0, 3, 6)) and len({texts[0:3], texts[3:6], texts[6:9]}) > 1


def test_half_precision_halves_the_bank_and_the_prediction_is_right(tiny: Path, tmp_path: Path) -> None:
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        bank(tiny, tmp_path / dtype, "--count", "4", "--dtype", dtype)
        states, cond, _ = content(tmp_path / dtype)
        assert states.element_size() == width and cond.fields["text"].element_size() == width
        made = replace(made_of(tiny), dtype=getattr(torch, dtype))
        each, once = made.bytes()
        file = tmp_path / dtype / "part-00000" / "shard-00000.safetensors"
        assert 0 <= file.stat().st_size - (4 * each + once) < 1024  # the header


def test_noise_labels_and_scales_do_not_depend_on_what_is_made_together(exact: Path, tmp_path: Path) -> None:
    for batch in ("1", "3", "8"):
        bank(exact, tmp_path / batch, "--count", "8", "--shard", "8", "--batch", batch, "--guidance", "1:2")
    (x, c, _), (y, d, _), (z, e, _) = (content(tmp_path / batch) for batch in ("1", "3", "8"))
    assert torch.equal(x[:, 0], y[:, 0]) and torch.equal(x[:, 0], z[:, 0]) and len(x[:, 0, 0, 0].unique()) == 8
    for name in ("label", "guidance"):
        assert torch.equal(c.fields[name], d.fields[name]) and torch.equal(c.fields[name], e.fields[name])


STARTS = {"family": {"name": "wan", "random_tiny": "wan-i2v", "frames": 5, "height": 32, "width": 32},
          "method": {"name": "dmd2", "steps": 2}, "train": {"steps": 1, "batch": 2}, "name": "toy"}  # fmt: skip


def test_a_teacher_that_starts_from_an_image_gets_the_worlds_and_no_prompts(tiny: Path, tmp_path: Path) -> None:
    shapes = written(tmp_path / "i2v.yaml", {**STARTS, "data": {"name": "shapes"}})
    bank(shapes, tmp_path / "b", "--count", "2", "--steps", "2")
    states, cond, texts = content(tmp_path / "b")
    assert {"first", "image", "text"} <= cond.fields.keys() and len(texts) == 2 and states.isfinite().all()
    assert not torch.equal(cond.fields["first"][0], cond.fields["first"][1])
    data = {"name": "prompts", "path": str(tmp_path / "prompts.txt")}
    with pytest.raises(UserError, match="starts from an image, prompts has none"):
        bank(written(tmp_path / "no.yaml", {**STARTS, "data": data}), tmp_path / "c", "--count", "2")


def test_first_images_come_from_the_users_own_clips(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name, grey in (("dark", -0.5), ("light", 0.5)):
        write_video(tmp_path / "clips" / f"{name}.mp4", torch.full((3, 5, 32, 32), grey), fps=8)
        (tmp_path / "clips" / f"{name}.txt").write_text(name)
    data = {"name": "media", "path": str(tmp_path / "clips")}
    bank(written(tmp_path / "i2v.yaml", {**STARTS, "data": data}), tmp_path / "b", "--count", "4", "--steps", "2")
    _, cond, texts = content(tmp_path / "b")
    assert sorted(texts) == ["dark", "dark", "light", "light"]
    first = dict(zip(texts, cond.fields["first"], strict=True))
    assert all(torch.equal(image, first[text]) for text, image in zip(texts, cond.fields["first"], strict=True))
    assert not torch.equal(first["dark"], first["light"])


def test_a_prepared_folder_of_prompts_says_the_shape(tiny: Path, tmp_path: Path) -> None:
    save_prompts(tmp_path / "prepared", ["a red square", "a blue circle"], made_of(tiny).shape)
    bank(tiny, tmp_path / "b", "--count", "2", "--set", f"data.path={tmp_path / 'prepared'}")
    assert sorted(content(tmp_path / "b")[2]) == ["a blue circle", "a red square"]


# -- whoever writes it -----------------------------------------------------------------------------------------------


def test_two_processes_write_what_one_does(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--count", "7", "--shard", "2", "--batch", "1")
    bank(tiny, tmp_path / "one", *words)
    bank(tiny, tmp_path / "two", *words, "--rank", "1", "--world", "2")
    with pytest.raises(UserError, match="holds 4 of 7|holds 3 of 7"):
        BankData(tmp_path / "two")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    bank(tiny, tmp_path / "two", *words)
    assert len(list((tmp_path / "two").glob("part-*/shard-*"))) == 4
    assert (tmp_path / "two" / "part-00001" / "shard-00003.safetensors").is_file()
    assert_same(tmp_path / "one", tmp_path / "two")


def test_going_on_with_more_processes_gives_the_same_bank(exact: Path, tmp_path: Path) -> None:
    bank(exact, tmp_path / "one", "--count", "12", "--shard", "2")
    bank(exact, tmp_path / "many", "--count", "5", "--shard", "2")
    for rank in range(3):
        bank(exact, tmp_path / "many", "--count", "12", "--shard", "2", "--rank", str(rank), "--world", "3")
    assert_same(tmp_path / "one", tmp_path / "many")


class Killed(BaseException):
    """As a signal would end the work."""


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    made, make = [], Trajectories.make

    def stop(self: Trajectories, indices: range) -> tuple[Tensor, Cond, tuple[str, ...]]:
        made.append(indices)
        if len(made) > after:
            raise Killed
        return make(self, indices)

    monkeypatch.setattr(Trajectories, "make", stop)


def test_resumed_equals_uninterrupted_byte_for_byte(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--count", "7", "--shard", "3", "--batch", "2", "--keep", "path")
    bank(tiny, tmp_path / "a", *words)
    with monkeypatch.context() as patch:
        interrupted(patch, after=3)  # one batch into the second shard
        with pytest.raises(Killed):
            bank(tiny, tmp_path / "b", *words)
    assert len(Bank.open(tmp_path / "b")) == 3
    bank(tiny, tmp_path / "b", *words)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 6
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_bank_grows_and_a_lost_or_cut_shard_is_made_again(exact: Path, tmp_path: Path) -> None:
    bank(exact, tmp_path / "a", "--count", "9", "--shard", "4")
    bank(exact, tmp_path / "b", "--count", "6", "--shard", "4")
    bank(exact, tmp_path / "b", "--count", "9", "--shard", "4")
    assert_same(tmp_path / "a", tmp_path / "b")
    shards = sorted((tmp_path / "b").glob("part-*/shard-*"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    with pytest.raises(UserError, match="shard is missing"):
        Bank.open(tmp_path / "b")
    bank(exact, tmp_path / "b", "--count", "9", "--shard", "4")
    assert_same(tmp_path / "a", tmp_path / "b")


def test_a_finished_bank_is_left_alone(exact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank(exact, tmp_path / "b", "--count", "4")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("b/part-*/*[0-9n]*") if p.name != ".lock"}
    bank(exact, tmp_path / "b", "--count", "4")
    assert all(p.stat().st_mtime_ns == t for p, t in before.items()) and len(before) == 2
    assert "nothing to do; all 4 are there" in capsys.readouterr().err


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_whole_shards(
    exact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sent: signal.Signals, code: int
) -> None:
    def send() -> None:
        while len(list((tmp_path / "b").glob("part-*/shard-*"))) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), sent)

    before = signal.getsignal(sent)
    waiting = threading.Thread(target=send, daemon=True)
    waiting.start()
    assert bank(exact, tmp_path / "b", "--count", "1000000", "--shard", "4") == code
    waiting.join()
    assert f"{sent.name}: shards written so far are whole" in capsys.readouterr().err
    assert not list((tmp_path / "b").rglob(".tmp-*")) and signal.getsignal(sent) == before
    assert len(content(tmp_path / "b")[0]) % 4 == 0  # and every digest is right
    assert bank(exact, tmp_path / "b", "--count", "8", "--shard", "4") == 0


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--seed", "1"), "seed 0, not 1"),
        (("--steps", "5"), "steps 4, not 5"),
        (("--guidance", "2"), "guidance .*, not 2.0"),
        (("--solver", "heun"), "solver 'ddim', not 'heun'"),
        (("--keep", "student"), r"times \[1.0, 0.0\], not \[1.0, 0.75, 0.0\]"),
        (("--shard", "3"), "shard 2, not 3"),
        (("--dtype", "float16"), "dtype 'float32', not 'float16'"),
        (("--seed", "1", "--steps", "5"), "steps 4, not 5; seed 0, not 1"),
    ],
    ids=lambda v: v[0] if isinstance(v, tuple) else "",
)
def test_changed_settings_are_named(tiny: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    bank(tiny, tmp_path / "b", "--count", "2", "--shard", "2")
    with pytest.raises(UserError, match=says) as caught:
        bank(tiny, tmp_path / "b", "--count", "2", "--shard", "2", *words)
    assert "\n" not in str(caught.value)
    assert len(Bank.open(tmp_path / "b")) == 2


def test_other_weights_and_other_captions_are_named(tiny: Path, tmp_path: Path, teacher: Path) -> None:
    bank(tiny, tmp_path / "b", "--count", "2")
    other, family = tmp_path / "other", tiny_family(seed=1)
    family.save(family.net, other)
    with pytest.raises(UserError, match=r"made with weights '\w+', not"):
        bank(tiny, tmp_path / "b", "--count", "2", "--set", f"family.path={other}")
    moved = tmp_path / "moved"
    moved.symlink_to(teacher)
    bank(tiny, tmp_path / "b", "--count", "2", "--set", f"family.path={moved}")  # the same teacher elsewhere
    (tmp_path / "prompts.txt").write_text("a red square moves up\n")
    with pytest.raises(UserError, match="captions '3 captions .*, not '1 captions"):
        bank(tiny, tmp_path / "b", "--count", "2")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--count", "0"], "--count: must be at least 1, found 0"),
        (["--steps", "0"], "--steps: must be at least 1"),
        (["--batch", "0"], "--batch: must be at least 1"),
        (["--shard", "-1"], "--shard: must be at least 1"),
        (["--seed", "-1"], "--seed: must be at least 0"),
        (["--world", "0"], "--world: must be at least 1"),
        (["--rank", "2", "--world", "2"], "--rank: of 2 processes is one of 0..1, found 2"),
        (["--guidance", "x"], "expected a scale or LOW:HIGH"),
        (["--guidance", "3:1"], "3 is above 1"),
        (["--guidance", "inf"], "must be a number"),
        (["--keep", "all"], "expected pairs, path, student or times"),
        (["--keep", "0.5,1"], "must descend"),
        (["--keep", "1.5,0"], "must descend"),
        (["--keep", "0"], "must descend"),
        (["--keep", "1,nan,0"], "must descend"),
        (["--keep", "1,.9,.8,.7,.6"], "4 times to keep on a way of 4 steps"),
        (["--keep", "student", "--set", "method={name: flow}"], "method flow has no times"),
        (["--device", "tpu"], "no device 'tpu' here"),
        (["--out", "FILE"], "expected a folder, found a file"),
        (["--out", "FULL"], "holds files and is no bank"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_arguments_are_one_line(exact: Path, tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    words = [{"FILE": str(exact), "FULL": str(tmp_path / "full")}.get(w, w) for w in words]
    with pytest.raises(UserError, match=says.replace(".", r"\.")) as caught:
        bank(exact, tmp_path / "b", "--count", "2", *words)
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("shard-*"))


def test_a_student_or_an_untrained_model_is_no_teacher(tiny: Path, tmp_path: Path) -> None:
    family = tiny_family()
    family.save(family.net, tmp_path / "student", (1.0, 0.5))
    with pytest.raises(UserError, match="few-step student"):
        bank(tiny, tmp_path / "b", "--count", "2", "--set", f"family.path={tmp_path / 'student'}")
    config = {**yaml.safe_load(tiny.read_text()), "method": {"name": "flow"}, "data": {"name": "shapes"}}
    new = written(tmp_path / "new.yaml", {**config, "family": {"name": "tiny", "frames": 5, "size": 16}})
    with pytest.raises(UserError, match="no trained teacher"):
        bank(new, tmp_path / "b", "--count", "2")


def test_a_disk_without_room_is_told_before_the_first_pass(
    exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "free_bytes", lambda folder: 100)
    with pytest.raises(UserError, match="100 trajectories need .* KiB, 100 bytes are free"):
        bank(exact, tmp_path / "b", "--count", "100")
    assert not list(tmp_path.rglob("shard-*"))


def test_two_writers_of_one_share_are_refused(exact: Path, tmp_path: Path) -> None:
    from vdistill.app.lock import sole_writer

    with sole_writer(tmp_path / "b" / "part-00000"), pytest.raises(UserError, match="at work"):
        bank(exact, tmp_path / "b", "--count", "2")


def test_a_teacher_that_is_not_finite_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    family = tiny_family()
    with torch.no_grad():
        family.network_of().model.proj_out.bias.fill_(torch.nan)
    family.save(family.net, tmp_path / "nan")
    with pytest.raises(UserError, match="not finite"):
        bank(tiny, tmp_path / "b", "--count", "2", "--set", f"family.path={tmp_path / 'nan'}")
    assert not list(tmp_path.rglob("shard-*"))


# -- what trains from it ---------------------------------------------------------------------------------------------


def test_a_banked_input_drives_regression_and_guidance_distillation(tiny: Path, tmp_path: Path) -> None:
    bank(tiny, tmp_path / "b", "--count", "4", "--keep", "student")
    config = configs.load(tiny)
    built = build(config)
    roles, _ = make_roles(config, built.family)
    teacher, student, module = roles.teacher, roles.denoisers["student"], roles.modules["student"].requires_grad_(True)
    batch, rng = Feed(BankData(tmp_path / "b"), 3)(0, 0), Rng(1)
    found = Banked(Bank.open(tmp_path / "b"))(student, batch, rng)
    assert found.target is not None and set(found.t.tolist()) <= {1.0, 0.75}
    scale = torch.full((3,), 2.0, dtype=torch.float64)
    goals: dict[str, Callable[[], Tensor]] = {
        "pairs": lambda: found.target,  # type: ignore[return-value]
        "guidance": lambda: guided_x0(teacher, found.x, found.t, found.cond, scale),
    }
    for goal in goals.values():
        with torch.no_grad():
            wanted = goal()
        guess = student.x0(found.x, found.t, found.cond)
        loss = weighted_x0(guess, wanted, found.t, student.schedule, "flow", 0.05).mean()
        loss.backward()
        assert loss.isfinite() and loss > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_inputs_on_the_batchs_own_trajectories_drive_guidance_distillation_as_it_is(tiny: Path, tmp_path: Path) -> None:
    bank(tiny, tmp_path / "b", "--count", "4", "--keep", "path")
    config = configs.load(tiny)
    roles, _ = make_roles(config, build(config).family)
    data = BankData(tmp_path / "b")
    batch, states = data.batch([2, 0, 3]), data.bank.read([2, 0, 3])[0]
    law = OnTrajectory(data.bank)
    found = law(roles.denoisers["student"], batch, Rng(3))
    level = [data.bank.times.index(t) for t in found.t.tolist()]
    assert torch.equal(found.x, states[torch.arange(3), level]) and max(level) < 4
    assert found.cond is batch.cond and torch.equal(found.target, states[:, -1])  # type: ignore[arg-type]
    student, module = roles.denoisers["student"], roles.modules["student"]
    method = GuidanceDistillation(GuidanceConfig(2.0, 2.0), roles.teacher, student, module, law)
    loss = method.loss("student", batch, Rng(3)).total
    assert loss.isfinite() and loss > 0


def test_the_students_times_are_drawn_evenly_and_others_never(tiny: Path, tmp_path: Path) -> None:
    bank(tiny, tmp_path / "b", "--count", "2", "--keep", "1,0.8,0.5,0.2")
    data = BankData(tmp_path / "b")
    law, seen = OnTrajectory(data.bank, (0.8, 0.2)), [0, 0]
    student = made_of(tiny).guide(None)
    for step in range(100):
        for t in law(student, data.batch([0, 1]), Rng(0, step)).t.tolist():
            seen[(0.8, 0.2).index(t)] += 1
    assert sum(seen) == 200 and abs(seen[0] - 100) < 4 * 50**0.5
    with pytest.raises(UserError, match=r"the bank has times \[1.0, 0.8, 0.5, 0.2\], not 0.7"):
        OnTrajectory(data.bank, (0.7,))
    with pytest.raises(UserError, match="need the bank as data"):
        law(student, Batch(torch.zeros(2, *data.shape), Cond()), Rng(0))


@pytest.mark.parametrize("method", ["dmd2", "lcm", "guidance", "flow"])
def test_every_method_trains_on_a_bank_and_resumes_bit_for_bit(tiny: Path, tmp_path: Path, method: str) -> None:
    bank(tiny, tmp_path / "b", "--count", "5", "--shard", "2", "--dtype", "bfloat16")
    extra = {"lcm": {"teacher_steps": 4, "steps": 2}, "dmd2": {"steps": 2, "critic_per_student": 1}}.get(method, {})
    words = {**yaml.safe_load(tiny.read_text()), "data": {"name": "shapes"}, "method": {"name": method, **extra}}
    config = configs.load(written(tmp_path / "train.yaml", words))

    def train(out: Path, *steps: int) -> str:
        for end in steps:
            some = config.model_copy(update={"train": config.train.model_copy(update={"steps": end})})
            fed = replace(build(some), source=Feed(BankData(tmp_path / "b"), 2, 1, some.seed))
            engine = engine_of(some, fed, out)
            engine.resume()
            engine.run()
        return (out / "metrics.jsonl").read_text()

    once, twice = train(tmp_path / "once", 2), train(tmp_path / "twice", 1, 2)
    losses = [v for line in once.splitlines() for k, v in json.loads(line).items() if k.endswith("/loss")]
    assert once == twice and len(losses) >= 2 and all(abs(v) < 1e6 for v in losses)
