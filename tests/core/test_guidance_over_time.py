"""Guidance that changes with t, and guidance that is bent: intervals, curves, rescaling, projection."""

import math

import pytest
import torch
from curved import B, Curved, case, close, parts, run

from vdistill.core.guidance import cfg, chain, star

# over time --------------------------------------------------------------------------------------------------------


def test_outside_its_interval_guidance_is_the_conditional_pass():
    ab, b, _, _ = parts()
    guidance = cfg(5, "a").within(0.3, 0.6)  # times are .2, .5, .9
    guided = run(guidance)
    close(guided[1], (b + 5 * (ab - b))[1])
    close(guided[[0, 2]], ab[[0, 2]])
    assert [guidance.passes(t) for t in (0.2, 0.3, 0.6, 0.61)] == [1, 2, 2, 1]


def test_modifiers_do_nothing_outside_the_interval():
    guided = run(cfg(5, "a").within(0.3, 0.6).rescaled(0.7).projected(threshold=0.1))
    close(guided[[0, 2]], parts()[0][[0, 2]])


def test_interval_acts_position_by_position():
    x, _, cond = case()
    t = torch.tensor([0.2, 0.5, 0.5, 0.9]).repeat(B, 1)  # [B, T]
    guided = cfg(5, "a").within(0.3, 0.6).x0(Curved(), x, t, cond)
    ab, b = Curved().x0(x, t, cond), Curved().x0(x, t, cond.drop(["a"]))
    close(guided[:, :, 1:3], (b + 5 * (ab - b))[:, :, 1:3])
    close(guided[:, :, [0, 3]], ab[:, :, [0, 3]])


@pytest.mark.parametrize(("shape", "quarter"), [("linear", 0.25), ("cosine", (1 - math.cos(math.pi / 4)) / 2)])
def test_a_scale_can_run_between_two_values(shape, quarter):
    guidance = cfg((6.0, 2.0), "a").shaped(shape)
    t = torch.tensor([1.0, 0.5, 0.25, 0.0])
    close(guidance.weights(t)[0], torch.tensor([6.0, 4.0, 2 + 4 * quarter, 2.0], dtype=torch.float64), 1e-7)


def test_a_scale_that_runs_to_one_saves_its_pass_there():
    guidance = cfg((5.0, 1.0), "a")
    assert (guidance.passes(1.0), guidance.passes(0.0)) == (2, 1)


def test_scales_of_a_chain_run_one_by_one():
    close(
        chain(("a", (6.0, 2.0)), ("b", 3)).weights(torch.tensor(0.5)),
        chain(("a", 4), ("b", 3)).weights(torch.tensor(0.5)),
    )


@pytest.mark.parametrize("guidance", [cfg((7, 2), "a"), chain(("a", (9.0, 1.0)), ("b", 2)), star(a=(3, 0), b=5)])
def test_weights_sum_to_one_at_every_time(guidance):
    t = torch.linspace(0, 1, 33, dtype=torch.float64).view(3, 11)
    for one in (guidance, guidance.shaped("cosine"), guidance.within(0.2, 0.5)):
        close(one.weights(t).sum(0), torch.ones_like(t))


# modifiers --------------------------------------------------------------------------------------------------------


def test_full_rescale_has_the_spread_of_the_conditional_pass():
    ab = parts()[0]
    close(run(cfg(7, "a").rescaled(1.0)).std((1, 2)), ab.std((1, 2)))


def test_partial_rescale_is_the_mix_of_lin_et_al():
    ab, plain = parts()[0], run(cfg(7, "a"))
    full = plain * ab.std((1, 2), keepdim=True) / plain.std((1, 2), keepdim=True)
    close(run(cfg(7, "a").rescaled(0.7)), 0.7 * full + 0.3 * plain)
    close(run(cfg(7, "a").rescaled(0.0)), plain)


def test_projection_that_keeps_everything_is_cfg():
    for guidance in (cfg(7, "a"), chain(("a", 5), ("b", 4)), star(a=2, b=3)):
        close(run(guidance.projected(eta=1.0)), run(guidance))


def test_projected_guidance_is_orthogonal_to_the_conditional_pass():
    ab = parts()[0]
    change = run(cfg(7, "a").projected()) - ab
    close((change * ab).sum((1, 2)), torch.zeros(B, dtype=torch.float64))


def test_projected_guidance_is_the_formula_of_sadat_et_al():
    ab, b, _, _ = parts()
    move = ab - b
    move = move * (1.3 / move.flatten(1).norm(dim=1)).clamp_max(1).view(-1, 1, 1)
    unit = ab / ab.flatten(1).norm(dim=1).view(-1, 1, 1)
    parallel = (move * unit).sum((1, 2), keepdim=True) * unit
    wanted = ab + 6 * (move - parallel + 0.2 * parallel)
    close(run(cfg(7, "a").projected(eta=0.2, threshold=1.3)), wanted)
