"""Guidance is a table: every formula of the papers is a row sum, and no way of running the rows changes the result."""

import math

import pytest
import torch
from curved import B, Curved, case, close, parts, run

from vdistill.core.cond import Cond
from vdistill.core.denoiser import Tapped
from vdistill.core.errors import UserError
from vdistill.core.guidance import Branch, Guidance, cfg, chain, compose, joint, star
from vdistill.core.guided import Guided, guided_x0
from vdistill.core.schedule import Schedule, spread


class Classes:
    """Exact x0 of N(mean, s^2) where the mean is the condition; a dropped condition means another mean."""

    def __init__(self, schedule, s=0.5):
        self.schedule, self.s = schedule, s

    def x0(self, x, t, cond, *, attend=None):
        alpha, sigma = (spread(v, x) for v in self.schedule.alpha_sigma(t))
        mean = sum(cond.fields.values())
        return mean + alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2) * (x - alpha * mean)


# what a table says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "none", [Guidance(), cfg(1, "a"), chain(("a", 1), ("b", 1.0)), star(a=1, b=1), joint(1, ["a", "b"])]
)
def test_a_scale_of_one_is_the_conditional_pass_bit_for_bit(none):
    net, (x, t, cond) = Curved(), case()
    assert torch.equal(none.x0(net, x, t, cond), Curved().x0(x, t, cond))
    assert net.sizes == [B] and none.passes() == 1


def test_a_scale_of_zero_is_the_pass_without():
    net, (x, t, cond) = Curved(), case()
    close(cfg(0, "a").x0(net, x, t, cond), parts()[1])
    assert net.sizes == [B]


def test_cfg_is_its_formula():
    ab, b, _, _ = parts()
    close(run(cfg(5, "a")), b + 5 * (ab - b))


def test_joint_drops_all_at_once():
    ab, _, _, none = parts()
    close(run(joint(3, ["a", "b"])), none + 3 * (ab - none))


def test_chain_is_the_three_pass_formula_of_infinitetalk():
    text_audio, audio_only, _, none = parts()  # a is the text, b the audio
    s_text, s_audio = 5.0, 4.0
    wanted = none + s_audio * (audio_only - none) + s_text * (text_audio - audio_only)
    close(run(chain(("b", s_audio), ("a", s_text))), wanted)


def test_the_order_of_a_chain_matters():
    ab, _, a, none = parts()
    close(run(chain(("a", 5), ("b", 4))), none + 5 * (a - none) + 4 * (ab - a))


def test_star_pulls_away_from_each_single_loss():
    ab, b, a, _ = parts()
    close(run(star(a=4, b=2.5)), ab + 3 * (ab - b) + 1.5 * (ab - a))


def test_compose_adds_single_conditions():
    _, b, a, none = parts()
    close(run(compose(a=3.5, b=3)), none + 3.5 * (a - none) + 3 * (b - none))
    assert compose(a=3.5, b=3).passes() == 3


def test_with_one_condition_all_forms_are_cfg():
    for other in (joint(4, ["a"]), chain(("a", 4)), star(a=4), compose(a=4)):
        close(run(other), run(cfg(4, "a")))


def test_equal_scales_of_a_chain_are_one_joint_scale():
    close(run(chain(("a", 3), ("b", 3))), run(joint(3, ["a", "b"])))


# against exact denoisers ------------------------------------------------------------------------------------------

PATHS = [Schedule("rf"), Schedule("vp"), Schedule("edm"), Schedule("trig")]


def gaussian_case():
    g = torch.Generator().manual_seed(2)
    x, a, b = (torch.randn(4, 1, 3, dtype=torch.float64, generator=g) for _ in range(3))
    null = {k: torch.full((1, 1, 1), v, dtype=torch.float64) for k, v in (("a", 0.3), ("b", -0.4))}
    return x, torch.tensor([0.1, 0.4, 0.8, 1.0]), Cond({"a": a, "b": b}, null=null)


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: s.kind)
@pytest.mark.parametrize(
    ("guidance", "scale_a", "scale_b"),
    [(cfg(4, "a"), 4, 1), (chain(("a", 2), ("b", 5)), 2, 5), (star(a=3, b=2), 3, 2), (joint(2.5, "ab"), 2.5, 2.5)],
)
def test_guiding_equal_gaussians_shifts_their_mean_exactly(schedule, guidance, scale_a, scale_b):
    x, t, cond = gaussian_case()
    shifted = {
        name: cond.null[name] + scale * (cond.fields[name] - cond.null[name])
        for name, scale in (("a", scale_a), ("b", scale_b))
    }
    exact = Classes(schedule).x0(x, t, Cond(shifted))
    close(Guided(Classes(schedule), guidance).x0(x, t, cond), exact, 1e-10)


@pytest.mark.parametrize("predicts", ["eps", "v", "flow"])
@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: s.kind)
def test_guidance_commutes_with_every_prediction(schedule, predicts):
    x, t, cond = gaussian_case()
    t = t.clamp_max(0.9)
    net = Classes(schedule)
    said = [schedule.prediction(net.x0(x, t, c), x, t, predicts) for c in (cond, cond.drop(["a"]))]
    mixed = schedule.x0(said[1] + 6 * (said[0] - said[1]), x, t, predicts)
    close(cfg(6, "a").x0(net, x, t, cond), mixed, 1e-10)


# how it is run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_batch", [*range(1, 10), 100, None])
def test_batched_is_sequential_in_as_few_forwards_as_there_can_be(max_batch):
    net, (x, t, cond) = Curved(), case(torch.float32)
    guidance = chain(("a", 5), ("b", 4))
    together = guidance.x0(net, x, t, cond)
    assert net.sizes == [3 * B]
    net.sizes.clear()
    close(guidance.x0(net, x, t, cond, max_batch=max_batch), together, 1e-6)
    limit = max_batch or 3 * B
    assert max(net.sizes) <= limit and len(net.sizes) == math.ceil(3 * B / limit) and sum(net.sizes) == 3 * B


@pytest.mark.parametrize(
    ("guidance", "passes"),
    [
        (cfg(4, "a"), 2),
        (chain(("a", 3), ("b", 5)), 3),
        (chain(("a", 3), ("b", 3)), 2),  # the middle pass cancels
        (chain(("a", 1), ("b", 3)), 2),  # the empty pass cancels
        (star(a=2, b=1), 2),
        (star(a=2, b=3), 3),
        (cfg(0, "a"), 1),
        (cfg(0, "a").rescaled(0.5), 2),  # the conditional pass is the yardstick
        (cfg(1, "a").rescaled(0.5).projected(), 1),
    ],
)
def test_passes_of_zero_weight_are_skipped_and_counted(guidance, passes):
    net, (x, t, cond) = Curved(), case()
    guidance.x0(net, x, t, cond, max_batch=B)
    assert net.sizes == [B] * passes and guidance.passes() == guidance.passes(t) == passes


def test_gradients_reach_the_input_through_every_pass():
    x, t, cond = case()
    x.requires_grad_()
    (whole,) = torch.autograd.grad(cfg(3, "a").x0(Curved(), x, t, cond).sum(), x)
    one, two = (torch.autograd.grad(Curved().x0(x, t, c).sum(), x)[0] for c in (cond, cond.drop(["a"])))
    close(whole, 3 * one - 2 * two)


def test_a_limit_below_one_is_refused():
    with pytest.raises(UserError, match="max_batch"):
        run(cfg(2, "a"), max_batch=0)


def test_low_precision_comes_back_as_it_went_in():
    x, t, cond = case(torch.float32)
    assert cfg(3, "a").x0(Curved(), x, t, cond).dtype == torch.float32


# a scale for every sample -----------------------------------------------------------------------------------------


def test_scale_per_sample_is_the_loop_over_samples():
    net, (x, t, cond) = Curved(), case()
    scale = torch.tensor([1.0, 4.5, 11.0])
    together = guided_x0(net, x, t, cond, scale, "a")
    assert net.sizes == [2 * B]
    for k, s in enumerate(scale.tolist()):
        one = slice(k, k + 1)
        close(together[one], cfg(s, "a").x0(Curved(), x[one], t[one], cond.select(one)))


# Guided -----------------------------------------------------------------------------------------------------------


class Tappable(Curved):
    def taps(self, x, t, cond, layers):
        return [x.flatten(1, -2).transpose(1, 2) * layer for layer in layers]


def test_guided_is_a_denoiser_again():
    x, t, cond = case()
    twice = Guided(Guided(Curved(), cfg(3, "a"), max_batch=B), cfg(2, "b"))
    ab, b, a, none = parts()
    assert twice.schedule is Curved.schedule
    close(twice.x0(x, t, cond), 2 * (3 * ab - 2 * b) - (3 * a - 2 * none))


def test_taps_are_forwarded_where_there_are_any():
    x, t, cond = case()
    guided = Guided(Tappable(), cfg(3, "a"))
    assert isinstance(guided, Tapped) and torch.equal(
        guided.taps(x, t, cond, [2])[0], Tappable().taps(x, t, cond, [2])[0]
    )
    assert not isinstance(Guided(Curved(), cfg(3, "a")), Tapped)


# mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda: Guidance((Branch(frozenset(), (2.0, 2.0)), Branch(frozenset("a"), (-0.5, -1.0)))),
            "sum to 1, found 1.5",
        ),
        (lambda: Guidance((Branch(frozenset(), (float("nan"), 1.0)),)), "sum to 1"),
        (lambda: Guidance((Branch(frozenset(), (0.5, 0.5)), Branch(frozenset(), (0.5, 0.5)))), "same conditions"),
        (lambda: cfg(3).within(0.8, 0.2), "interval"),
        (lambda: cfg(3).rescaled(1.5), "rescale"),
        (lambda: chain(), "chain"),
        (lambda: chain(("a", 2), ("a", 3)), "different"),
    ],
)
def test_impossible_guidance_is_refused_in_one_line(wrong, said):
    with pytest.raises(UserError, match=f"^guidance: .*{said}"):
        wrong()


def test_guidance_is_a_value():
    assert cfg(3) == joint(3, ["text"]) and hash(cfg(3)) == hash(cfg(3)) and cfg(3) != cfg(4)
