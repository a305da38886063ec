from __future__ import annotations

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from toys import flow_engine, same_tensors

from vdistill.core import checkpoint
from vdistill.core.checkpoint import Snapshot
from vdistill.core.errors import UserError


def snapshot(step: int, size: int = 8) -> Snapshot:
    return Snapshot(step, {"net": {"w": torch.full((size,), float(step)), "b": torch.arange(3)}}, {"note": [1, "x"]})


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, snapshot(3))
    back = checkpoint.load(path)
    assert back.step == 3 and back.state == {"note": [1, "x"]}
    assert same_tensors(dict(back.groups["net"]), dict(snapshot(3).groups["net"]))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        checkpoint.save(tmp_path, snapshot(step), keep=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000004"]


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    flow_engine(tmp_path, steps=2).run()
    assert {p.suffix for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()} == {".safetensors", ".json"}


def test_every_truncation_bit_flip_and_deletion_is_noticed(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, snapshot(1, 64))
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for cut in [0, 1, len(whole) // 2, len(whole) - 1]:
            file.write_bytes(whole[:cut])
            assert checkpoint.damage(path), (file.name, cut)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        file.write_bytes(bytes(flipped))
        assert checkpoint.damage(path), file.name
        file.unlink()
        assert checkpoint.damage(path), file.name
        file.write_bytes(whole)
        assert not checkpoint.damage(path)


def test_latest_falls_back_to_the_one_before_and_says_why(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, snapshot(1))
    bad = checkpoint.save(tmp_path, snapshot(2)) / "net.safetensors"
    bad.write_bytes(bad.read_bytes()[:-3])
    found, skipped = checkpoint.latest(tmp_path)
    assert found is not None and found.name == "step-00000001"
    assert "step-00000002" in skipped[0] and "bytes" in skipped[0]


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) == (None, [])
    (checkpoint.save(tmp_path, snapshot(1)) / "state.json").unlink()
    with pytest.raises(UserError, match="no checkpoint is whole"):
        checkpoint.latest(tmp_path)


def test_full_disk_leaves_the_previous_checkpoint_whole_and_no_leftover(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, snapshot(1))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    try:
        with pytest.raises(OSError):
            checkpoint.save(tmp_path, snapshot(2, 1 << 18))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    found, skipped = checkpoint.latest(tmp_path)
    assert found is not None and found.name == "step-00000001" and not skipped
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    with pytest.raises(UserError, match="1 missing"):
        checkpoint.fill(layer, {"weight": torch.zeros(2, 3)}, "file")
    with pytest.raises(UserError, match=r"weight has shape \(2, 2\), expected \(2, 3\)"):
        checkpoint.fill(layer, {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, "file")


def test_pickled_truncated_and_missing_weight_files_get_one_line(tmp_path: Path) -> None:
    pickled, cut = tmp_path / "model.bin", tmp_path / "model.safetensors"
    pickled.write_bytes(b"\x80\x04")
    cut.write_bytes(b"\x08\x00\x00")
    for path, word in [(pickled, "safetensors"), (cut, "not a whole"), (tmp_path / "none.safetensors", "no such")]:
        with pytest.raises(UserError, match=word):
            checkpoint.read_tensors(path)


def run_forked(out: Path, steps: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            engine = flow_engine(out, steps=steps, every=1)
            engine.resume()
            engine.run()
        finally:
            os._exit(0)
    return pid


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_no_checkpoint_and_changes_no_result(tmp_path: Path) -> None:
    steps, dice, best, kills = 120, random.Random(0), 0, 0
    flow_engine(tmp_path / "a", steps=steps, every=1).run()
    while best < steps:
        pid = run_forked(tmp_path / "b", steps)
        time.sleep(dice.uniform(0.1, 0.9))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        found, _ = checkpoint.latest(tmp_path / "b" / "checkpoints")
        now = int(found.name[5:]) if found else 0
        assert now >= best, "progress was lost"
        best = now
        assert kills < 400
    one, two = (checkpoint.load(tmp_path / r / "checkpoints" / checkpoint.name(steps)) for r in "ab")
    assert all(same_tensors(dict(one.groups[g]), dict(two.groups[g])) for g in one.groups)
    assert kills >= 5
