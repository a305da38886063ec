"""Guidance distillation on classes of one variance, where the guided law is a Gaussian whose mean is linear in s."""

from __future__ import annotations

import pytest
import torch
from methods.bed import CLASSES, RF, Asked, affine, batch_of, close, train
from torch import Tensor
from toys import tiny_family

from vdistill.app.build import with_guidance_input
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.inputs import Inputs, Noised, Simulated
from vdistill.core.rng import Rng
from vdistill.core.solvers import solve
from vdistill.core.times import Grid, Uniform
from vdistill.families.analytic_nets import mlp
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation

TIMES = (0.9, 0.5)
CONFIG = GuidanceConfig(1.0, 4.0, "label")


def asked_at(scale: float, t: float) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    """A few x of both classes at one time, told the scale."""
    x = torch.linspace(-2, 2, 6).view(6, 1, 1)
    cond = CLASSES.cond(torch.arange(6) % 2).with_field("guidance", torch.full((6,), scale))
    return x, torch.full((6,), t, dtype=torch.float64), cond


def test_one_pass_becomes_the_guided_law_at_every_scale() -> None:
    net, answers = affine(*TIMES, classes=3, guidance=True), []
    train(GuidanceDistillation(CONFIG, CLASSES, net, net, Noised(Grid(TIMES))), CLASSES, 600, {"student": 0.05})
    for scale in (1.0, 2.5, 4.0):
        for t in TIMES:
            x, time, cond = asked_at(scale, t)
            answers.append(net.x0(x, time, cond).detach())
            for label in (0, 1):
                right = CLASSES.guided(label, scale).x0(x, time)
                close(answers[-1][label::2], right[label::2], 1e-3)
    for none, middle, most in zip(answers[0:2], answers[2:4], answers[4:6], strict=True):
        close(middle, (none + most) / 2, 1e-3)  # linear in s
        assert (most - none).abs().max() > 0.5


def test_at_scale_one_the_conditional_teacher_is_the_answer() -> None:
    method = GuidanceDistillation(
        GuidanceConfig(1.0, 1.0, "label"), CLASSES, CLASSES, torch.nn.Linear(1, 1), Noised(Uniform())
    )
    assert method.loss("student", batch_of(CLASSES, 64), Rng(0)).total == 0


def test_at_scale_one_the_teacher_is_asked_once() -> None:
    teacher = Asked(CLASSES)
    one = GuidanceConfig(1.0, 1.0, "label")
    method = GuidanceDistillation(one, teacher, CLASSES, torch.nn.Linear(1, 1), Noised(Uniform()))
    method.loss("student", batch_of(CLASSES, 8), Rng(0))
    assert [len(x) for x, _, _ in teacher.calls] == [8]


class Perfect:
    """The guided law itself as the student."""

    schedule = RF

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        told = zip(cond.fields["label"], cond.fields["guidance"], strict=True)
        each = [CLASSES.guided(int(k), float(s)).x0(x[i : i + 1], t[i : i + 1]) for i, (k, s) in enumerate(told)]
        return torch.cat(each)


@pytest.mark.parametrize("inputs", [Noised(Uniform()), Simulated((1.0, 0.6, 0.3))], ids=["data", "own_sampling"])
def test_perfect_student_costs_nothing(inputs: Inputs) -> None:
    """Zero to rounding, whatever scales were drawn and wherever the inputs come from."""
    batch, nobody = batch_of(CLASSES, 32), torch.nn.Linear(1, 1)
    perfect, plain = (
        GuidanceDistillation(CONFIG, CLASSES, student, nobody, inputs).loss("student", batch, Rng(0, 1))
        for student in (Perfect(), CLASSES)
    )
    assert perfect.total.item() < 1e-10 < 0.1 < plain.total.item()


def test_an_estimate_made_on_the_way_to_the_input_is_not_made_again() -> None:
    student = Asked(CLASSES)
    method = GuidanceDistillation(CONFIG, CLASSES, student, torch.nn.Linear(1, 1), Simulated((1.0,)))
    method.loss("student", batch_of(CLASSES, 8), Rng(0))
    assert len(student.calls) == 1 and "guidance" in student.calls[0][2].fields


def test_scales_are_drawn_for_each_sample_from_the_range() -> None:
    student = Asked(CLASSES)
    method = GuidanceDistillation(CONFIG, CLASSES, student, torch.nn.Linear(1, 1), Noised(Uniform()))
    method.loss("student", batch_of(CLASSES, 5000), Rng(0))
    scale = student.calls[0][2].fields["guidance"]
    assert 1 <= scale.min() < 1.01 and 3.99 < scale.max() <= 4 and abs(scale.mean() - 2.5) < 0.05


def test_student_sees_the_point_the_teacher_sees_in_one_pass_instead_of_two() -> None:
    student, teacher = Asked(CLASSES), Asked(CLASSES)
    GuidanceDistillation(CONFIG, teacher, student, torch.nn.Linear(1, 1), Noised(Uniform())).loss(
        "student", batch_of(CLASSES, 8), Rng(0)
    )
    (x, t, _), (both, times, _) = student.calls[0], teacher.calls[0]
    assert len(student.calls) == len(teacher.calls) == 1
    assert torch.equal(both, torch.cat([x, x])) and torch.equal(times, torch.cat([t, t]))


def test_sampling_the_student_costs_one_evaluation_a_step() -> None:
    noise, (_, _, cond) = torch.randn(6, 1, 1), asked_at(3.0, 1.0)
    student, teacher = Asked(CLASSES), Asked(CLASSES)
    solve(student, noise, RF.grid(5), cond)
    solve(Guided(teacher, cfg(3.0, "label")), noise, RF.grid(5), cond)
    assert [sum(len(x) for x, _, _ in net.calls) for net in (student, teacher)] == [5 * 6, 5 * 12]


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_a_new_scale_input_changes_nothing(scale: float) -> None:
    net = mlp((1, 1), RF, classes=3, guidance=True)
    x, t, told = asked_at(scale, 0.5)
    assert torch.equal(net.x0(x, t, told), net.x0(x, t, CLASSES.cond(torch.arange(6) % 2)))


def test_a_new_scale_input_changes_nothing_in_the_stock_transformer() -> None:
    family = tiny_family()
    cond = family.text(["a red square moves left"])
    x, t = torch.randn(1, *family.codec.shape(5, 16, 16)), torch.tensor([0.7])
    told = cond.with_field("guidance", torch.tensor([6.0]))
    with torch.no_grad():
        assert torch.equal(with_guidance_input(family).x0(x, t, told), family.net.x0(x, t, cond))
