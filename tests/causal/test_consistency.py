"""Causal consistency against a law whose consistency map is known, and the average that says the target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from causal.law_bed import RF, AfterExact, batch, before, deviation
from causal.student_bed import clips, family, gradients
from torch import nn
from toys import same_tensors

from vdistill.causal.consistency import CausalConsistency, ConsistencyConfig, Followed
from vdistill.causal.layout import Layout
from vdistill.causal.student import AfterClean
from vdistill.core.engine import Cadence, Engine
from vdistill.core.optim import OptimSpec
from vdistill.core.rng import Rng
from vdistill.core.solvers import advance

ONE, NOTHING = Layout(1), nn.Linear(1, 1)


def exact(off: float = 0.0, **more: object) -> CausalConsistency:
    cfg = ConsistencyConfig(**{"steps": 400, "decay": 0.0, **more})  # type: ignore[arg-type]
    return CausalConsistency(cfg, ONE, AfterExact(), AfterExact(True, off), NOTHING)


@pytest.mark.parametrize("each", [False, True], ids=["clip", "block"])
def test_the_exact_map_agrees_with_itself_one_step_on(each: bool) -> None:
    fine, coarse = (float(exact(each=each, steps=n).loss("s", batch(), Rng(0)).total) for n in (400, 20))
    assert fine < 1e-7 < coarse  # the map follows the ODE; a solver's step does so the better the smaller it is


def test_at_the_end_of_the_grid_the_target_is_the_state_itself() -> None:
    """One step, 1 -> 0: the loss is that between the map and one DDIM step, which is the mean."""
    b, rng = batch(), Rng(0)
    said = float(exact(steps=1).loss("s", b, rng).total)
    x, s = rng.normal("eps", b.x.shape, like=b.x), deviation(b.x)
    assert said == pytest.approx(float((s * x).square().mean()), rel=1e-6)
    assert before(b.x).abs().max() > 0.1


def test_every_block_can_have_a_time_of_its_own() -> None:
    for each, kinds in ((False, 1), (True, 3)):
        method = exact(each=each, steps=50, skip=3)
        t, u = method._times(batch(200), Rng(0))
        different = max(len(row.unique()) for row in t)
        assert (different == 1) == (kinds == 1) and different >= kinds
        torch.testing.assert_close(u, (t - 3 / 50).clamp_min(0), rtol=0, atol=1e-12)


def test_the_loss_is_its_equation() -> None:
    f, layout, rng = family(), Layout(2), Rng(3)
    other = family()
    with torch.no_grad():
        for p in other.net.parameters():
            p.mul_(1.05)
    b = clips(f, 6)
    cfg = ConsistencyConfig(steps=10, skip=2, each=True, decay=0.0)
    method = CausalConsistency(cfg, layout, other.net, f.net, f.net)
    said = method.loss("student", b, rng).total
    place = rng.integers("place", (2, 3), 10).repeat_interleave(2, 1)
    grid = f.schedule.grid(10)
    t, u = grid[place], grid[(place + 2).clamp(max=10)]
    xt = f.schedule.noise(b.x, rng.normal("eps", b.x.shape, like=b.x), t)
    with torch.no_grad():
        xu = advance(AfterClean(other.net, layout, b.x), xt, t, u, b.cond)
        goal = AfterClean(f.net, layout, b.x).x0(xu, u, b.cond)
        goal = torch.where((u == 0)[:, None, :, None, None], xu, goal)
        right = (AfterClean(f.net, layout, b.x).x0(xt, t, b.cond) - goal).square().mean()
    torch.testing.assert_close(said.detach(), right, rtol=1e-4, atol=0)  # c_skip is 1e-9 where t > 0, not 0


def test_the_target_is_the_averages_and_carries_no_graph() -> None:
    f, b, rng = family(), clips(family(), 4), Rng(3)
    method = CausalConsistency(ConsistencyConfig(steps=10, decay=0.9), Layout(2), family().net, f.net, f.net)
    first = method.loss("student", b, rng).total
    with torch.no_grad():
        for p in f.net.parameters():
            p.mul_(1.1)
    moved = method.loss("student", b, rng)  # the same step: the average stays
    itself = CausalConsistency(ConsistencyConfig(steps=10, decay=0.0), Layout(2), family().net, f.net, f.net)
    assert not torch.equal(moved.total, itself.loss("student", b, rng).total)
    assert any(g.any() for g in gradients(f.net, moved.total)) and first.isfinite()


def test_an_average_follows_once_a_step_and_gives_the_weights_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    follow = Followed(0.5, module)
    for step in range(3):
        for _ in range(2):
            with follow.at(step):
                inside = module.weight.item()
        with torch.no_grad():
            module.weight.add_(1.0)
    # after 1, 2, 3 with decays min(.5, (1 + n) / (10 + n)) = .1, 2/11, .25
    two = 1 + (1 - 2 / 11) * 1
    assert inside == pytest.approx(two + 0.75 * (3 - two)) and module.weight.item() == 4.0


def engine(out: Path, steps: int) -> Engine:
    f, teacher = family(double=False), family(double=False)
    method = CausalConsistency(ConsistencyConfig(steps=10, decay=0.9), Layout(2), teacher.net, f.net, f.net)
    b = clips(f, 4, dtype=torch.float32)
    spec = {"student": OptimSpec(lr=1e-3)}
    return Engine(method, lambda s, m: b, spec, out, steps=steps, cadence=Cadence(checkpoint=2, keep=9, micro=2))


def test_a_resumed_run_goes_on_with_the_same_average(tmp_path: Path) -> None:
    whole = engine(tmp_path / "a", 5).run()
    engine(tmp_path / "b", 3).run()
    later = engine(tmp_path / "b", 5)
    later.resume()
    later.run()
    one, two = whole.snapshot(), later.snapshot()
    assert "carried" in one.groups and RF
    for group in one.groups:
        assert same_tensors(dict(one.groups[group]), dict(two.groups[group])), group
