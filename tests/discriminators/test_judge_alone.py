"""A judge as the only teacher: who learns what, from whom, and that it leads to the real law."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from methods.bed import G1, RF, affine, batch_of, train
from toys import same_tensors, tiny_family

from vdistill.app.build import build
from vdistill.app.schema import Config
from vdistill.core.inputs import Generated, NoiseOnly
from vdistill.core.rng import Rng
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.look import Taps
from vdistill.discriminators.penalties import Probe
from vdistill.families.analytic_nets import mlp
from vdistill.methods.adversarial import AdversarialDistillation


def made(each: int = 1, penalties: tuple[Probe, ...] = ()) -> AdversarialDistillation:
    student, critic = affine(1.0, scale=0.5, shift=-0.5), mlp((1, 1), RF)
    torch.manual_seed(0)
    term = Adversarial(Taps(critic, (1, 2)), RF, TokenHeads([64, 64]), 1.0, 1.0, penalties=penalties)  # type: ignore[arg-type]
    modules = {"student": student, "critic": critic}
    return AdversarialDistillation(student, modules, Generated(NoiseOnly()), term, each)


def test_the_losses_are_the_terms_alone() -> None:
    method, batch, rng = made(), batch_of(G1, 8), Rng(3)
    x = method.generate(method.student, batch, rng)
    assert torch.equal(method.loss("student", batch, rng).total, method.term.student(x, batch, rng).total)
    watch = method.loss("critic", batch, rng).total
    assert torch.equal(watch, method.term.watch(x.detach(), batch, rng).total)
    watch.backward()
    assert all(p.grad is None for p in method.learners["student"].parameters())
    assert all(p.grad is not None for p in method.learners["critic"]["critic"].net.hidden.parameters())  # type: ignore[index]


def test_the_judge_may_learn_more_often() -> None:
    assert [made(3).turn(step) for step in range(4)] == [
        ("student", "critic"),
        ("critic",),
        ("critic",),
        ("student", "critic"),
    ]


def test_a_student_taught_by_a_judge_alone_ends_near_the_real_mean() -> None:
    """From -0.5 to 0.7, what the real samples have; without the judge it would stay."""
    method = made(1, (Probe(10.0, 0.1),))
    train(method, G1, 300, {"student": 1e-2, "critic": 3e-3}, batch=128)
    x = method.generate(method.student, batch_of(G1, 4096), Rng(9))
    assert x.mean().item() == pytest.approx(0.7, abs=0.15)


@pytest.mark.parametrize("features", ["teacher", "critic"])
def test_the_teacher_stays_and_its_copy_learns(features: str, tmp_path: Path) -> None:
    family = tiny_family()
    family.save(family.net, tmp_path / "pipe")
    config = Config.model_validate(
        {
            "name": "toy",
            "family": {"name": "tiny", "path": str(tmp_path / "pipe"), "frames": 5, "size": 16},
            "data": {"name": "shapes"},
            "method": {"name": "adversarial", "steps": 1, "inputs": "backward", "judge": {"features": features}},
            "train": {"steps": 1, "batch": 2},
        }
    )
    built = build(config)
    critic = built.method.learners["critic"]
    assert set(critic.keys()) == ({"gan"} if features == "teacher" else {"gan", "critic"})  # type: ignore[operator]
    if features == "critic":
        assert same_tensors(critic["critic"].state_dict(), built.family.net.state_dict())  # type: ignore[index]
    built.method.loss("critic", built.source(0, 0), Rng(0)).total.backward()
    assert all(p.grad is None for p in built.family.net.parameters())
    assert all(p.grad is not None for p in critic["gan"].parameters())  # type: ignore[index]
    if features == "critic":
        assert any(p.grad is not None for p in critic["critic"].parameters())  # type: ignore[index]
