"""Students told several scales, from configs: they train, resume bit for bit, open again, and say what cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from toys import same_tensors, tiny_family

from vdistill.app.build import build
from vdistill.app.build_scales import told_student
from vdistill.app.cli import main
from vdistill.app.models import open_model
from vdistill.app.schema import Config
from vdistill.app.train import train
from vdistill.core import checkpoint
from vdistill.core.errors import UserError
from vdistill.core.optim import Optimizer
from vdistill.core.rng import Rng
from vdistill.methods.guidance_scales import ToldScales

SCALES: dict[str, Any] = {"conditions": {"text": {"usual": 2.0, "most": 4.0}}, "width": 64, "tokens": "both"}
DISAGREEING = {"name": "mixed", "supervision": {"balance": ["disagreement"], "weight": 0.5, "smooth": "all"}}
METHODS: dict[str, dict[str, Any]] = {
    "mixed": DISAGREEING,
    "few": {"name": "mixed", "times": [1.0, 0.6, 0.3], "substeps": 2, "inputs": "mix"},
    "lcm": {"name": "lcm", "teacher_steps": 8},
    "dmd2": {"name": "dmd2", "critic_per_student": 2, "steps": 2},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder to distil from."""
    folder, family = tmp_path_factory.mktemp("teacher") / "pipe", tiny_family()
    family.save(family.net, folder)
    return folder


def said(teacher: Path, method: str, **more: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "family": {"name": "tiny", "path": str(teacher), "frames": 5, "size": 16},
        "data": {"name": "shapes"},
        "method": METHODS[method],
        "scales": SCALES,
        "optim": {"lr": 1e-3, "ema": 0.9, "warmup": 2},
        "train": {"steps": 4, "batch": 2, "checkpoint_every": 2, "keep": 4},
        **more,
    }


@pytest.mark.parametrize(("method", "scope"), [*((m, "full") for m in METHODS), ("mixed", "lora"), ("dmd2", "lora")])
def test_every_method_trains_its_tokens_and_resumes_bit_for_bit(
    teacher: Path, tmp_path: Path, method: str, scope: str
) -> None:
    config = said(teacher, method, scope={"name": scope} | ({"rank": 2} if scope == "lora" else {}))
    config["scales"] = {**SCALES, "balanced": 0.3}
    whole, parts = Config.model_validate(config), tmp_path / "parts"
    train(whole, tmp_path / "whole")
    train(whole.model_copy(update={"train": whole.train.model_copy(update={"steps": 2})}), parts)
    train(whole, parts)
    one, two = (checkpoint.load(p / "checkpoints" / checkpoint.name(4)) for p in (tmp_path / "whole", parts))
    for group in one.groups:
        assert same_tensors(dict(one.groups[group]), dict(two.groups[group])), group
    if method == "mixed":
        assert one.groups["carried"]["seen"].sum() > 0
    begun = checkpoint.load(parts / "checkpoints" / checkpoint.name(2)).groups["student"]
    moved = [k for k, v in one.groups["student"].items() if k.endswith("give.weight") and not torch.equal(v, begun[k])]
    assert len(moved) == 2  # a reader of each block


def test_a_trained_student_opens_and_is_told_the_usual_scales(teacher: Path, tmp_path: Path) -> None:
    config = Config.model_validate(said(teacher, "mixed", optim={"lr": 1e-2, "ema": 0.0}))
    train(config, tmp_path)
    family = open_model(tmp_path)
    x, t = torch.randn(1, *family.codec.shape(5, 16, 16)), torch.tensor([0.7])
    cond = family.text(["a red square moves left"])
    with torch.no_grad():
        usual, named = (told_student(family, family.net, scales).x0(x, t, cond) for scales in (None, {"text": 2.0}))
        other = told_student(family, family.net, {"text": 3.5}).x0(x, t, cond)
    assert torch.equal(usual, named) and not torch.equal(usual, other)
    with pytest.warns(UserWarning, match="beyond what was learned, 4"):
        told_student(family, family.net, {"text": 9.0})
    with pytest.raises(UserError, match="takes no scale of 'audio'"):
        told_student(family, family.net, {"audio": 2.0})
    assert told_student(tiny_family(), family.net) is family.net


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_tokens_and_their_readers_may_learn_faster_than_the_network(teacher: Path, scope: str) -> None:
    """All of them, and nothing else: by as much as their share of the learner's parameters."""
    chosen = {"name": scope} | ({"rank": 2} if scope == "lora" else {})
    built = build(Config.model_validate(said(teacher, "mixed", scope=chosen, scales={**SCALES, "rate": 10.0})))
    module, optim = built.method.learners["student"], built.optim["student"]
    faster = {g["factor"]: g["params"] for g in Optimizer(optim, module).parts[0].param_groups}
    ours = [p for n, p in module.named_parameters() if "scales" in n or n.startswith("guidance.")]
    assert len(ours) > 10 and {id(p) for p in faster[10.0]} == {id(p) for p in ours}
    assert len(faster[1.0]) == len([*module.parameters()]) - len(ours)


@pytest.mark.parametrize("tokens", ["token", "adaln", "both", "fixed", "none"])
def test_a_new_student_is_the_teacher_bit_for_bit(teacher: Path, tokens: str) -> None:
    built = build(Config.model_validate(said(teacher, "mixed", scales={**SCALES, "tokens": tokens})))
    assert isinstance(built.method, ToldScales)
    batch = built.source(0, 0)
    told, t = built.method.told(batch, Rng(0)), torch.tensor([0.3, 0.8])
    drawn = told.cond.fields["guidance.text"]
    assert (drawn == 2.0).all() if tokens in ("fixed", "none") else ((drawn >= 1) & (drawn <= 4)).all()
    with torch.no_grad():
        plain = tiny_family().net.x0(batch.x, t, batch.cond)
        assert (built.student.x0(batch.x, t, told.cond) - plain).abs().max() == 0.0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"scales": None}, "scales"),
        ({"scales": {**SCALES, "conditions": {}}}, "conditions"),
        ({"scales": {**SCALES, "conditions": {"sound": {"usual": 2.0}}}}, "scales.conditions"),
        ({"scales": {**SCALES, "conditions": {"text": {"usual": 2.0, "most": 1.5}}}}, "most"),
        ({"scales": {**SCALES, "conditions": {"text+a": {"usual": 2.0}}}}, "conditions"),
        ({"scales": {**SCALES, "at_usual": 0.8, "at_ones": 0.8}}, "at_ones"),
        ({"scales": {**SCALES, "quality": True, "tokens": "none"}}, "quality"),
        ({"scales": {**SCALES, "rate": 10.0, "tokens": "none"}}, "rate"),
        ({"scales": {**SCALES, "conditions": {"text": {"usual": 2.0, "gain": 0.2}}}}, "conditions.text.gain"),
        (
            {"scales": {**SCALES, "conditions": {"ref": {"usual": 2.0, "gain": 0.2}}, "tokens": "fixed"}},
            "conditions.ref.gain",
        ),
        ({"scales": {**SCALES, "gains": True}}, "gains"),
        ({"scales": {"conditions": {"ref": {"usual": 2.0}}, "gains": True, "tokens": "fixed"}}, "gains"),
        ({"scales": {"conditions": {"ref": {"usual": 2.0, "gain": 0.2}}, "gains": True}}, "gains"),
        ({"scales": {**SCALES, "rank": 8, "tokens": "adaln"}}, "rank"),
        ({"scales": {**SCALES, "rank": 8, "tokens": "fixed"}}, "rank"),
        ({"method": {"name": "mixed", "times": [1.0, 0.5], "time_mean": 1.0}}, "time_mean"),
        ({"method": {"name": "guidance"}}, "scales"),
        ({"method": {"name": "lcm", "guidance_low": 1.0}}, "method.guidance_low"),
        ({"method": {"name": "dmd2", "guidance": {"scale": 3.0}}}, "method.guidance"),
        ({"method": {"name": "mixed", "inputs": "mix"}}, "inputs"),
        ({"method": {"name": "mixed", "substeps": 2}}, "substeps"),
        ({"method": {"name": "mixed", "supervision": {"smooth": -1.0}}}, "smooth"),
        ({"method": {"name": "mixed", "supervision": {}, "times": [1.0], "inputs": "backward"}}, "supervision"),
    ],
)
def test_what_does_not_go_together_is_said_with_its_key(teacher: Path, change: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({**said(teacher, "mixed"), **change})
    named = [pair[0] for e in caught.value.errors() for pair in e.get("ctx", {}).get("faults", ())]
    assert key in named, caught.value


def test_a_run_without_scales_is_written_down_as_before(teacher: Path) -> None:
    config = said(teacher, "lcm")
    del config["scales"]
    assert "scales" not in Config.model_validate(config).model_dump()


def test_a_region_that_the_data_has_not_is_one_line(teacher: Path, tmp_path: Path) -> None:
    config = {**said(teacher, "mixed"), "method": {"name": "mixed", "supervision": {"balance": ["region"]}}}
    with pytest.raises(UserError, match="the data has no region 'lip'"):
        train(Config.model_validate(config), tmp_path)


@pytest.mark.parametrize("scope", ["full", "lora"])
def test_steps_are_distilled_from_a_student_of_one_pass_that_is_told_the_scales(
    teacher: Path, tmp_path: Path, scope: str
) -> None:
    """Guidance first, then steps: the teacher of the second run answers in one pass what its own first run learned."""
    train(Config.model_validate(said(teacher, "mixed", optim={"lr": 1e-2, "ema": 0.0})), tmp_path / "one")
    second = said(tmp_path / "one", "few", scope={"name": scope})
    built = build(Config.model_validate(second))
    told = built.method.told(built.source(0, 0), Rng(0))  # type: ignore[attr-defined]
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        as_taught = open_model(tmp_path / "one").net.x0(told.x, t, told.cond)
        assert torch.equal(built.method.method.teacher.x0(told.x, t, told.cond), as_taught)  # type: ignore[attr-defined]
        assert torch.equal(built.student.x0(told.x, t, told.cond), as_taught)
    train(Config.model_validate(second), tmp_path / "two")
    assert open_model(tmp_path / "two").times == (1.0, 0.6, 0.3)
    other = {**second, "scales": {**SCALES, "quality": True}}
    with pytest.raises(UserError, match="was taught scales of text"):
        build(Config.model_validate(other))


def test_a_student_goes_on_from_another_run_and_its_teacher_stays_guided(teacher: Path, tmp_path: Path) -> None:
    train(Config.model_validate(said(teacher, "mixed", optim={"lr": 1e-2, "ema": 0.0})), tmp_path / "one")
    config = {**said(teacher, "mixed"), "method": {**DISAGREEING, "start": str(tmp_path / "one")}}
    fresh = build(Config.model_validate(said(teacher, "mixed")))
    built = build(Config.model_validate(config))
    told = built.method.told(built.source(0, 0), Rng(0))  # type: ignore[attr-defined]
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        assert torch.equal(
            built.student.x0(told.x, t, told.cond), open_model(tmp_path / "one").net.x0(told.x, t, told.cond)
        )
        guided = (b.method.method.teacher.x0(told.x, t, told.cond) for b in (built, fresh))  # type: ignore[attr-defined]
        assert torch.equal(*guided)
    train(Config.model_validate(config), tmp_path / "two")
    assert "start" not in Config.model_validate(said(teacher, "mixed")).model_dump()["method"]


def test_an_exported_student_keeps_its_tokens_and_a_lora_file_would_lose_them(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = said(teacher, "mixed", scope={"name": "lora", "rank": 2}, train={"steps": 1, "batch": 2})
    train(Config.model_validate(lora), tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--to", "diffusers", str(tmp_path / "out")]) == 0
    assert "told by tokens" in capsys.readouterr().err
    ours, back = (open_model(tmp_path / name) for name in ("run", "out"))
    x, t, cond = torch.randn(1, *ours.codec.shape(5, 16, 16)), torch.tensor([0.7]), ours.text(["a red square"])
    with torch.no_grad():
        assert torch.equal(told_student(ours, ours.net).x0(x, t, cond), told_student(back, back.net).x0(x, t, cond))
    assert main(["export", str(tmp_path / "run"), "--to", "lora", str(tmp_path / "small")]) == 2
    assert "does not fit into a LoRA file" in capsys.readouterr().err
