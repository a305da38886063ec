"""What holds for all four: a loss is a function of its place, weights count, the teacher keeps no graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from methods.bed import CLASSES, RF, Asked, batch_of, doubled
from torch import Tensor

from vdistill.core.denoiser import Denoiser
from vdistill.core.inputs import Generated, Noised, Simulated
from vdistill.core.rng import Rng
from vdistill.core.step import Batch, Method
from vdistill.core.times import Uniform
from vdistill.families.analytic_nets import mlp
from vdistill.methods.dmd2 import Dmd2, Dmd2Config
from vdistill.methods.flow import Flow, FlowConfig
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation
from vdistill.methods.lcm import Lcm, LcmConfig

TEACHER = mlp((1, 1), RF, classes=3, seed=9).double()


def made(name: str, teacher: Denoiser = TEACHER) -> Method:
    student, critic = mlp((1, 1), RF, classes=3, guidance=True).double(), mlp((1, 1), RF, classes=3, seed=2).double()
    makers: dict[str, Callable[[], Method]] = {
        "flow": lambda: Flow(FlowConfig(name="label"), student, student),
        "guidance": lambda: GuidanceDistillation(
            GuidanceConfig(name="label"), teacher, student, student, Noised(Uniform())
        ),
        "lcm": lambda: Lcm(LcmConfig(8, name="label"), teacher, student, student),
        "dmd2": lambda: Dmd2(
            Dmd2Config(), teacher, student, critic, {"student": student, "critic": critic},
            Generated(Simulated((1.0, 0.5))),
        ),
    }  # fmt: skip
    return makers[name]()


every = pytest.mark.parametrize(
    ("name", "learner"),
    [("flow", "student"), ("guidance", "student"), ("lcm", "student"), ("dmd2", "student"), ("dmd2", "critic")],
)


@every
def test_same_place_same_loss_and_another_place_another(name: str, learner: str) -> None:
    method, batch = made(name), batch_of(CLASSES, 8)
    batch = doubled(batch)
    here, again, there = (method.loss(learner, batch, Rng(0, step)).total.item() for step in (3, 3, 4))
    assert here == again != there


@every
def test_loss_is_the_mean_under_the_samples_weights(name: str, learner: str) -> None:
    method, batch = made(name), doubled(batch_of(CLASSES, 6))

    def of(weight: Tensor | None) -> Tensor:
        return method.loss(learner, Batch(batch.x, batch.cond, weight), Rng(0)).total

    each = torch.stack([of(row) for row in torch.eye(6).double()])
    w = torch.tensor([1.0, 0.0, 2.0, 0.5, 0.0, 3.0]).double()
    assert torch.allclose(of(None), each.mean(), rtol=1e-9)
    assert torch.allclose(of(w), (w * each).sum() / w.sum(), rtol=1e-9)
    assert each.unique().numel() == 6


@every
def test_the_teacher_keeps_no_graph_and_gets_no_gradient(name: str, learner: str) -> None:
    teacher = Asked(TEACHER)
    method = made(name, teacher)
    method.loss(learner, doubled(batch_of(CLASSES, 8)), Rng(0)).total.backward()
    assert len(teacher.graphs) == (name in ("guidance", "lcm") or learner + name == "studentdmd2")
    assert not any(teacher.graphs) and all(p.grad is None for p in TEACHER.parameters())


@every
def test_whoever_learns_gets_a_gradient_and_nobody_else(name: str, learner: str) -> None:
    method = made(name)
    method.loss(learner, doubled(batch_of(CLASSES, 8)), Rng(0)).total.backward()
    for other, module in method.learners.items():
        moved = any(p.grad is not None and bool(p.grad.ne(0).any()) for p in module.parameters())
        assert moved == (other == learner)


@pytest.mark.parametrize("name", ["flow", "guidance", "lcm"])
def test_the_only_learner_learns_at_every_step(name: str) -> None:
    method = made(name)
    assert list(method.learners) == ["student"] and {method.turn(step) for step in range(5)} == {("student",)}
