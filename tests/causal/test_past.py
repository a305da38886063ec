"""Whole-clip methods over causal networks: every block is taught after the clean ones of its own sample."""

from __future__ import annotations

import pytest
import torch
from causal.student_bed import TIMES, by_memory, clips, family, gradients, other

from vdistill.causal.layout import Layout
from vdistill.causal.student import AfterClean, Past
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.inputs import Noised, Simulated
from vdistill.core.losses.matching import matching
from vdistill.core.losses.regression import weighted_x0
from vdistill.core.rng import Rng
from vdistill.core.times import Grid
from vdistill.methods.dmd2 import Dmd2, Dmd2Config
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation

LAYOUT = Layout(2, window=4)


@pytest.mark.parametrize("truth", [None, 2])
def test_guidance_is_learned_from_what_the_teacher_says_of_every_block_with_its_memory(truth: int | None) -> None:
    """Or of those before `truth`, and the sample itself from there on."""
    f, teacher, b, rng, scale = family(), other(), clips(family()), Rng(3), 2.5
    method = GuidanceDistillation(
        GuidanceConfig(scale, scale, truth=truth), teacher.net, f.net, f.net, Noised(Grid(TIMES)), Past(LAYOUT)
    )
    said = method.loss("student", b, rng).total
    t = Grid(TIMES)(rng, len(b), b.x, "input/t")
    xt = f.schedule.noise(b.x, rng.normal("input/eps", b.x.shape, like=b.x), t)
    with torch.no_grad():
        goal = by_memory(Guided(teacher.net, cfg(scale)), LAYOUT, b.x, xt, t, b)
        guess = by_memory(f.net, LAYOUT, b.x, xt, t, b)
    if truth is not None:
        goal[:, :, truth:] = b.x[:, :, truth:]
    right = weighted_x0(guess, goal, t, f.schedule, "flow", 0.05).mean()
    torch.testing.assert_close(said.detach(), right, rtol=1e-6, atol=0)


def test_its_own_sampling_goes_on_after_the_clean_past() -> None:
    """A student that is the guided teacher already has nothing to learn where it samples itself either."""
    f, b = family(), clips(family())
    for scale, most in ((1.0, 1e-9), (3.0, float("inf"))):
        method = GuidanceDistillation(GuidanceConfig(scale, scale), f.net, f.net, f.net, Simulated(TIMES), Past(LAYOUT))
        loss = float(method.loss("student", b, Rng(3)).total.detach())
        assert loss <= most and (scale == 1 or loss > 1e-6)


@pytest.mark.parametrize("learner", ["student", "critic"])
def test_a_causal_teacher_and_critic_judge_every_block_after_the_sample_s_own_past(learner: str) -> None:
    f, teacher, critic, b, rng = family(), other(), other(0.95), clips(family()), Rng(3)
    made = torch.randn(b.x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    modules = {"student": f.net, "critic": critic.net}
    method = Dmd2(Dmd2Config(2), teacher.net, f.net, critic.net, modules, lambda s, b, r: made * 1.0, see=Past(LAYOUT))
    said = method.loss(learner, b, rng).total
    x = made.detach()
    t = method.times(rng, len(x), x)
    xt = f.schedule.noise(x, rng.normal("eps", x.shape, like=x), t)
    with torch.no_grad():
        fake, real = (by_memory(net, LAYOUT, x, xt, t, b) for net in (critic.net, teacher.net))
    if learner == "critic":
        torch.testing.assert_close(said.detach(), weighted_x0(fake, x, t, f.schedule, "flow", 0.05).mean())
        assert any(g.any() for g in gradients(critic.net, said))
        return
    (slope,) = torch.autograd.grad(said, made)
    (right,) = torch.autograd.grad(matching(made, real, fake).mean(), made)
    torch.testing.assert_close(slope, right, rtol=1e-6, atol=1e-12)


def test_the_past_carries_no_graph() -> None:
    f, x = family(), clips(family()).x.requires_grad_()
    see = Past(LAYOUT)(f.net, x)
    assert isinstance(see, AfterClean) and not see.clean.requires_grad
