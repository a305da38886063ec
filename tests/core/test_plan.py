"""Guidance with open scales: each sample gets what a fixed table of its own scales gives it, in no more passes."""

import pytest
import torch
from curved import B, Curved, case, close

from vdistill.core.errors import UserError
from vdistill.core.guidance import Guidance, chain, joint, star
from vdistill.core.guided import Guided, guided_x0
from vdistill.core.plan import AsTold, Telling, plan, scales_in, tell, untold

A = torch.tensor([1.5, 4.0, 0.0], dtype=torch.float64)
C = torch.tensor([3.0, 1.0, 2.5], dtype=torch.float64)
FORMS = {
    "chain": (plan("chain", ["b", "a"]), lambda a, b: chain(("b", b), ("a", a))),
    "star": (plan("star", ["a", "b"]), lambda a, b: star(a=a, b=b)),
    "joint": (plan("joint", ["a", "b"]), lambda a, b: joint(a, ["a", "b"])),
}


def one_by_one(table):
    """Every sample of the case alone, under the table of its own scales."""
    x, t, cond = case()
    rows = [slice(i, i + 1) for i in range(B)]
    each = [
        table(float(a), float(c)).x0(Curved(), x[r], t[r], cond.select(r)) for r, a, c in zip(rows, A, C, strict=True)
    ]
    return torch.cat(each)


def told(form):
    x, t, cond = case()
    open_plan, _ = FORMS[form]
    return x, t, tell(cond, {"a+b": A} if form == "joint" else {"a": A, "b": C}), open_plan


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_every_sample_is_guided_as_by_a_table_of_its_own(form, limit):
    x, t, cond, open_plan = told(form)
    close(AsTold(Curved(), open_plan, limit).x0(x, t, cond), one_by_one(FORMS[form][1]))


def test_a_batch_of_ones_is_the_conditional_pass_bit_for_bit_in_one_forward():
    net, (x, t, cond) = Curved(), case()
    ones = {"a": torch.ones(B), "b": torch.ones(B)}
    assert torch.equal(AsTold(net, FORMS["chain"][0]).x0(x, t, tell(cond, ones)), Curved().x0(x, t, cond))
    assert net.sizes == [B]


def test_samples_go_only_through_branches_that_weigh_something():
    net, (x, t, cond, open_plan) = Curved(), told("chain")  # b then a: p() + b [p(b) - p()] + a [p(a, b) - p(b)]
    AsTold(net, open_plan).x0(x, t, cond)
    # sample 0: a=1.5, b=3 -> three; 1: a=4, b=1 -> p(a, b) and p(b); 2: a=0, b=2.5 -> p(b) and p()
    assert net.sizes == [3 + 2 + 2]


def test_samples_told_nothing_answer_plainly():
    x, t, cond, open_plan = told("chain")
    on = torch.tensor([1.0, 0.0, 1.0])
    some = AsTold(Curved(), open_plan).x0(x, t, cond.with_field("guidance.on", on))
    whole, plain = AsTold(Curved(), open_plan).x0(x, t, cond), Curved().x0(x, t, case()[2])
    close(some, torch.where(on.bool().view(-1, 1, 1), whole, plain))


def test_one_name_is_guided_x0():
    x, t, cond = case()
    wanted = guided_x0(Curved(), x, t, cond, A, "a")
    close(AsTold(Curved(), plan("chain", ["a"])).x0(x, t, tell(cond, {"a": A})), wanted)


def test_a_ramp_is_a_pair_of_scales_in_the_table():
    x, t, cond = case()
    ramped = plan("chain", ["b", "a"], {"a": (0.0, 1.0), "b": (1.0, 0.5)})
    wanted = Guided(Curved(), chain(("b", (3.0, 2.0)), ("a", (1.0, 4.0)))).x0(x, t, cond)
    close(
        AsTold(Curved(), ramped).x0(x, t, tell(cond, {"a": torch.full((B,), 4.0), "b": torch.full((B,), 3.0)})), wanted
    )
    close(ramped.at(a=4.0, b=3.0).x0(Curved(), x, t, cond), wanted)


@pytest.mark.parametrize(
    "form",
    [
        Guidance().within(0.3, 0.7),
        Guidance().shaped("cosine"),
        Guidance().rescaled(0.7),
        Guidance().projected(0.2, 3.0),
        Guidance().within(0.1, 0.6).projected().rescaled(0.5),
    ],
    ids=["interval", "cosine", "rescaled", "projected", "all"],
)
def test_interval_shape_rescaling_and_projection_are_those_of_the_table(form):
    x, t, cond = case()
    changed = plan("chain", ["b", "a"]).changed(form)
    scales = {"a": torch.full((B,), 4.0), "b": torch.full((B,), 2.0)}
    wanted = changed.at(a=4.0, b=2.0).x0(Curved(), x, t, cond)
    close(AsTold(Curved(), changed).x0(x, t, tell(cond, scales)), wanted)
    assert not torch.allclose(wanted, chain(("b", 2), ("a", 4)).x0(Curved(), x, t, cond)) or form.shape == "cosine"


def test_a_time_for_every_position_has_weights_of_its_own():
    x, t, cond, open_plan = told("chain")
    inside = open_plan.changed(Guidance().within(0.0, 0.5))
    times = torch.tensor([0.2, 0.2, 0.9, 0.9], dtype=torch.float64).expand(B, 4)

    class Flat(Curved):
        def x0(self, x, t, cond, *, attend=None):
            return super().x0(x, torch.zeros(len(x)), cond)

    guided, plain = AsTold(Flat(), open_plan).x0(x, times, cond), Flat().x0(x, times, untold(cond))
    close(AsTold(Flat(), inside).x0(x, times, cond), torch.cat([guided[..., :2], plain[..., 2:]], 2))


def test_telling_puts_one_value_of_each_scale_into_the_condition():
    class Ask(Curved):
        def x0(self, x, t, cond, *, attend=None):
            self.scales = scales_in(cond)
            return x

    x, t, cond = case()
    Telling(net := Ask(), {"a": 2.0, "b": 3.0}).x0(x, t, cond)
    assert {k: v.tolist() for k, v in net.scales.items()} == {"a": [2.0] * B, "b": [3.0] * B}


def test_what_cannot_be_is_one_line():
    x, t, cond = case()
    with pytest.raises(UserError, match="no scale for"):
        AsTold(Curved(), FORMS["chain"][0]).x0(x, t, tell(cond, {"a": A}))
    for names in ([], ["a", "a"]):
        with pytest.raises(UserError, match="different conditions"):
            plan("chain", names)
    with pytest.raises(UserError, match="ramp"):
        plan("chain", ["a"], {"z": (1.0, 1.0)})
