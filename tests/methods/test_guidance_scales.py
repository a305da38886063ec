"""Several scales at once: drawn as the law says, told to both networks, and exact where the answer is known."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from methods.bed import CLASSES, RF, Asked, batch_of, close
from torch import Tensor

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.inputs import Noised, Simulated
from vdistill.core.losses.mixed import Disagreement, Region, Seen
from vdistill.core.plan import AsTold, plan, scales_in, tell
from vdistill.core.rng import Rng
from vdistill.core.schedule import spread
from vdistill.core.solvers import advance, solve
from vdistill.core.step import Batch, Loss
from vdistill.core.times import Grid, Uniform
from vdistill.methods.dmd2 import Dmd2, Dmd2Config
from vdistill.methods.guidance import GuidanceConfig, GuidanceDistillation
from vdistill.methods.guidance_scales import ScaleLaw, ToldScales
from vdistill.methods.lcm import Lcm, LcmConfig
from vdistill.methods.mixed import MixedConfig, MixedDistillation, Supervision, after, straight

PLAN = plan("chain", ["ref", "audio"])
LAW = ScaleLaw({"ref": 2.0, "audio": 3.0}, {"ref": 4.0, "audio": 5.0})
NOBODY = torch.nn.Linear(1, 1)


class Sum:
    """Exact x0 of a Gaussian of deviation 0.5 whose mean is the sum of its conditions, which guidance moves exactly."""

    schedule = RF

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        mean = cond.fields["ref"] + cond.along["audio"].transpose(1, 2)
        alpha, sigma = (spread(v, x) for v in RF.alpha_sigma(t))
        gain = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2)
        return (mean + gain * (x - alpha * mean)).to(x.dtype)


class Perfect(Sum):
    """The student that has learned: the same with conditions scaled as told."""

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        scales, on = scales_in(cond), cond.fields.get("guidance.on", torch.ones(len(x)))
        ref, audio = ((1 + on * (scales[n] - 1)).view(-1, 1, 1) if n in scales else 1.0 for n in ("ref", "audio"))
        told = Cond({"ref": ref * cond.fields["ref"]}, {"audio": audio * cond.along["audio"]})
        return super().x0(x, t, told)


def batch(n: int = 64) -> Batch:
    g = torch.Generator().manual_seed(3)
    ref, audio = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((n, 2, 1), (n, 4, 2)))
    null = {"ref": torch.zeros(1, 2, 1, dtype=torch.float64), "audio": torch.zeros(1, 1, 2, dtype=torch.float64)}
    x = torch.randn(n, 2, 4, generator=g, dtype=torch.float64)
    return Batch(x, Cond({"ref": ref}, {"audio": audio}, null))


def distilling(student: object = None, **more: object) -> MixedDistillation:
    cfg = more.pop("cfg", MixedConfig())
    inputs = more.pop("inputs", Noised(Uniform(0.05, 1.0)))
    return MixedDistillation(cfg, AsTold(Sum(), PLAN), student or Perfect(), NOBODY, inputs, **more)  # type: ignore[arg-type]


# scales -------------------------------------------------------------------------------------------------------


def test_scales_are_usual_ones_or_free_with_the_shares_of_the_law() -> None:
    found = LAW(Rng(0), 20_000, torch.zeros(1))
    pairs = Counter(
        "usual" if p == (2, 3) else "ones" if p == (1, 1) else "free"
        for p in zip(*(v.tolist() for v in found.values()), strict=True)
    )
    assert all(abs(pairs[k] / 20_000 - share) < 0.01 for k, share in (("usual", 0.25), ("ones", 0.25), ("free", 0.5)))
    free = (found["ref"] != 1) & (found["ref"] != 2)
    assert 1 <= found["ref"].min() and 3.99 < found["ref"].max() <= 4 and 4.99 < found["audio"].max() <= 5
    assert abs(torch.corrcoef(torch.stack([found["ref"][free], found["audio"][free]]))[0, 1]) < 0.03


def test_a_law_with_one_state_is_a_fixed_scale() -> None:
    fixed = ScaleLaw({"ref": 2.0}, {"ref": 2.0}, at_usual=1.0, at_ones=0.0)
    assert fixed(Rng(0), 50, torch.zeros(1))["ref"].unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (({"a": 2.0}, {"b": 2.0}), "usual for"),
        (({"a": 5.0}, {"a": 4.0}), r"not in \[1, 4\]"),
        (({"a": 2.0}, {"a": 4.0}, 0.7, 0.7), "no shares"),
    ],
)
def test_a_law_that_cannot_be_is_one_line(given: tuple[dict[str, float], dict[str, float]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ScaleLaw(*given)


# regression ---------------------------------------------------------------------------------------------------


def test_a_perfect_student_costs_nothing_at_any_scales_in_balance_or_not() -> None:
    for balanced in (0.0, 0.5):
        method = ToldScales(distilling(), PLAN, LAW, balanced=balanced)
        assert method.loss("student", batch(), Rng(0)).total < 1e-20
        plain = ToldScales(distilling(Sum()), PLAN, LAW, balanced=balanced)
        assert plain.loss("student", batch(), Rng(0)).total > 0.1


def test_balanced_samples_are_told_nothing_and_lack_what_a_branch_drops() -> None:
    told = ToldScales(distilling(), PLAN, LAW, balanced=0.3).told(batch(4000), Rng(0)).cond
    on = told.fields["guidance.on"]
    assert abs(on.mean() - 0.7) < 0.02
    no_ref, no_audio = told.fields["ref"].flatten(1).abs().sum(1) == 0, told.along["audio"].flatten(1).abs().sum(1) == 0
    off = on == 0
    assert not (no_ref | no_audio)[~off].any()
    shares = [
        (off & r & a).sum() / off.sum() for r, a in ((no_ref, no_audio), (~no_ref, no_audio), (~no_ref, ~no_audio))
    ]
    assert all(abs(s - 1 / 3) < 0.05 for s in shares) and not (no_ref & ~no_audio).any()


def test_without_balance_the_multi_pass_of_the_student_is_never_asked() -> None:
    told = ToldScales(distilling(), PLAN, LAW).told(batch(), Rng(0)).cond
    assert "guidance.on" not in told.fields and torch.equal(told.along["audio"], batch().cond.along["audio"])


def test_the_ode_of_the_teacher_to_the_next_time_is_the_goal() -> None:
    times, data = (1.0, 0.6, 0.3), batch(8)
    t = torch.tensor([1.0, 0.6, 0.3, 0.6, 1.0, 0.3, 0.3, 0.6], dtype=torch.float64)
    u = after(t, times)
    assert u.tolist() == [0.6, 0.3, 0.0, 0.3, 0.6, 0.0, 0.0, 0.3]
    x = torch.randn(8, 2, 4, dtype=torch.float64)
    xu = advance(Sum(), x, t, u, data.cond)
    close(straight(RF, x, t, xu, u), Sum().x0(x, t, data.cond), 1e-12)  # one step: the estimate itself
    told = tell(data.cond, {"ref": torch.full((8,), 2.0), "audio": torch.full((8,), 3.0)})
    many = distilling(cfg=MixedConfig(times=times, substeps=40), inputs=Noised(Grid(times)))
    found = many.inputs(many.student, Batch(data.x, told), Rng(0))
    goal = many._goal(many.teacher, found)
    grid = torch.linspace(float(found.t[0]), float(after(found.t, times)[0]), 41, dtype=torch.float64)
    end = solve(many.teacher, found.x[:1], grid, told.select(slice(0, 1)))
    reached = advance(Fixed(goal[:1]), found.x[:1], found.t[:1], after(found.t, times)[:1], told)
    close(reached, end, 1e-9)


class Fixed:
    """Always the same clean estimate."""

    schedule = RF

    def __init__(self, x0: Tensor) -> None:
        self.said = x0

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return self.said


# other methods under the same scales --------------------------------------------------------------------------


def test_consistency_under_told_scales_steps_the_teacher_guided_and_tells_the_student() -> None:
    student = Asked(Perfect())
    method = ToldScales(Lcm(LcmConfig(low=1.0, high=1.0), AsTold(Sum(), PLAN), student, NOBODY), PLAN, LAW)
    method.loss("student", batch(), Rng(0))
    assert all({"guidance.ref", "guidance.audio"} <= set(c.fields) for _, _, c in student.calls)


def test_the_critic_that_is_right_leaves_dmd2_of_a_perfect_student_without_gradient() -> None:
    dmd = Dmd2(
        Dmd2Config(), AsTold(Sum(), PLAN), Perfect(), Perfect(), {"student": NOBODY, "critic": torch.nn.Linear(1, 1)},
        lambda student, batch, rng: batch.x.clone().requires_grad_(),
    )  # fmt: skip
    loss = ToldScales(dmd, PLAN, LAW).loss("student", batch(), Rng(0))
    assert loss.parts["gap"] < 1e-12
    plain = Dmd2(
        Dmd2Config(), AsTold(Sum(), PLAN), Perfect(), Sum(), {"student": NOBODY, "critic": torch.nn.Linear(1, 1)},
        lambda student, batch, rng: batch.x.clone().requires_grad_(),
    )  # fmt: skip
    assert ToldScales(plain, PLAN, LAW).loss("student", batch(), Rng(0)).parts["gap"] > 0.1


# mixed supervision --------------------------------------------------------------------------------------------


def supervised(supervision: Supervision, student: object = None) -> Loss:
    return ToldScales(distilling(student, supervision=supervision), PLAN, LAW).loss("student", batch(), Rng(0))


def test_of_one_scale_data_and_teacher_ask_for_the_mean_of_both() -> None:
    """At ones, delta is raw, and both parts of the loss are those of squared errors to û and to y."""
    ones = ScaleLaw({"ref": 1.0, "audio": 1.0}, {"ref": 1.0, "audio": 1.0}, 1.0, 0.0)
    parts = [
        ToldScales(distilling(Fixed(torch.zeros(64, 2, 4)), supervision=Supervision(kind)), PLAN, ones).loss(
            "student", batch(), Rng(0)
        )
        for kind in ("raw", "delta", "unit")
    ]
    close(parts[0].total, parts[1].total, 1e-10)
    close(parts[0].total, parts[2].total, 1e-10)
    assert parts[0].parts["data"] > 0


def test_unit_is_silent_at_other_scales() -> None:
    other = ScaleLaw({"ref": 2.0, "audio": 3.0}, {"ref": 2.0, "audio": 3.0}, 1.0, 0.0)
    method = ToldScales(distilling(supervision=Supervision("unit")), PLAN, other)
    assert method.loss("student", batch(), Rng(0)).parts["data"] == 0


def test_own_samples_are_not_compared_with_data() -> None:
    method = distilling(supervision=Supervision("raw"), inputs=Simulated((1.0, 0.5)))
    assert "data" not in ToldScales(method, PLAN, LAW).loss("student", batch(), Rng(0)).parts


def test_damaged_data_moves_the_goal_by_its_slow_part_and_clean_data_as_it_is() -> None:
    y, zero = torch.randn(2, 3, 5), torch.zeros(2, 3, 5)
    seen = Seen(y, zero, zero, zero, torch.ones(2), Cond({"quality": torch.tensor([1.0, 0.0])}))
    goal, _ = Supervision("raw", smooth=math.inf)(seen)
    close(goal, torch.stack([y[0], y[1].mean(1, keepdim=True).expand(3, 5)]), 1e-6)


def test_what_a_balance_remembers_is_what_the_run_carries() -> None:
    balance = Disagreement(bins=2)
    method = ToldScales(distilling(supervision=Supervision("delta", [balance])), PLAN, LAW)
    assert method.carried is balance and distilling(supervision=Supervision(balances=[Region("mouth")])).carried is None
    method.loss("student", batch(), Rng(0))
    assert balance.state()["seen"].tolist() == [1.0, 1.0]


def test_a_plan_of_other_conditions_is_one_line() -> None:
    with pytest.raises(UserError, match="the plan guides by"):
        ToldScales(distilling(), plan("joint", ["ref", "audio"]), LAW)


def test_classes_are_still_what_they_were() -> None:
    """One name: the same loss as guidance distillation of one scale, drawn by the law."""
    law, data = ScaleLaw({"label": 2.0}, {"label": 4.0}, 1.0, 0.0), batch_of(CLASSES, 64)
    one = plan("chain", ["label"])
    method = MixedDistillation(MixedConfig(), AsTold(CLASSES, one), CLASSES, NOBODY, Noised(Uniform(0.1, 1.0)))
    old = GuidanceDistillation(GuidanceConfig(2.0, 2.0, "label"), CLASSES, CLASSES, NOBODY, Noised(Uniform(0.1, 1.0)))
    close(
        ToldScales(method, one, law).loss("student", data, Rng(0)).total, old.loss("student", data, Rng(0)).total, 1e-5
    )
