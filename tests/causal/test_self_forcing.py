"""Self-Forcing: the rollout of training is the student's own sampling, and gradients go where they are said to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from causal.student_bed import TIMES, Watched, apart, at_exit, clips, family, gradients, plan
from torch import Tensor
from toys import same_tensors

from vdistill.causal.layout import Layout
from vdistill.causal.rollout import Plan, SelfForcing, generate
from vdistill.core.engine import Engine
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.inputs import shared
from vdistill.core.optim import OptimSpec
from vdistill.core.rng import Rng
from vdistill.core.scope import Lora, lora_roles, recomputed
from vdistill.families.memory import checkpoint_gradients
from vdistill.methods.dmd2 import Dmd2, Dmd2Config

SMALL = {"window": 4, "sink": 1}


@pytest.mark.parametrize("places", ["absolute", "relative", "anchored"])
def test_a_rollout_that_stops_at_the_last_step_is_the_sample(places: str) -> None:
    f, rng = family(), at_exit(2)
    how = Plan(Layout(2, window=4, sink=1, places=places), TIMES, level=0.1)  # type: ignore[arg-type]
    batch = clips(f)
    rolled = SelfForcing(how)(f.net, batch, rng)
    with torch.no_grad():
        sampled = generate(f.net, rng.normal("input/eps", batch.x.shape, like=batch.x), batch.cond, how, rng)
    assert torch.equal(rolled.detach(), sampled)
    earlier = SelfForcing(how)(f.net, batch, at_exit(1)).detach()
    assert (earlier - sampled).abs().max() > 1e-2


def test_a_whole_rollout_is_the_sample_at_every_step_of_training() -> None:
    f, batch = family(), clips(family())
    for step in range(3):
        whole, rng = plan(whole=True), at_exit(step)
        rolled = SelfForcing(whole)(f.net, batch, rng)
        with torch.no_grad():
            noise = rng.normal("input/eps", batch.x.shape, like=batch.x)
            assert torch.equal(rolled.detach(), generate(f.net, noise, batch.cond, whole, rng))
        assert rolled.requires_grad


def test_only_the_step_it_stops_at_keeps_a_graph_in_the_last_positions_alone() -> None:
    f, batch = family(), clips(family())
    watched = Watched(f.net)
    x = SelfForcing(plan(), last=2)(watched, batch, at_exit(1))
    block = [(1.0, False), (0.7, False), (0.0, False)]
    assert watched.asked == [*block, *block, (1.0, False), (0.7, True)]  # the last block is not remembered
    found = torch.autograd.grad(
        x[:, :, -2:].square().sum(), [*f.net.parameters()], allow_unused=True, retain_graph=True
    )
    assert max(float(g.abs().max()) for g in found if g is not None) > 1e-4
    cut = torch.autograd.grad(x[:, :, :-2].square().sum(), [*f.net.parameters()], allow_unused=True)
    assert all(g is None or not g.any() for g in cut)


def test_the_first_block_can_take_more_steps_and_stops_at_one_of_its_own() -> None:
    f, batch = family(), clips(family(), 4)
    how = Plan(Layout(2), (1.0,), first=(1.0, 0.8, 0.5, 0.2))
    seen = set()
    for step in range(24):
        watched = Watched(f.net)
        SelfForcing(how)(watched, batch, Rng(0, step=step))
        times = [t for t, _ in watched.asked]
        assert times[-1] == 1.0 and times[-2] == 0.0 and times[:-2] == [1.0, 0.8, 0.5, 0.2][: len(times) - 2]
        seen.add(len(times) - 2)
    assert seen == {1, 2, 3, 4}


def test_blocks_are_remembered_at_the_plans_noise() -> None:
    f, batch = family(), clips(family(), 4)
    watched = Watched(f.net)
    SelfForcing(plan(level=0.2))(watched, batch, at_exit(0))
    assert [t for t, _ in watched.asked] == [1.0, 0.2, 1.0]


def test_all_processes_stop_at_the_same_step() -> None:
    ranks = [Rng(5, step=9, micro=m, rank=r, turn="student") for m in range(2) for r in range(2)]
    assert len({shared(rng).integer("exit/3", 3) for rng in ranks}) == 1


@pytest.mark.parametrize("step", range(3))
def test_a_later_blocks_loss_reaches_an_earlier_block_only_through_the_memory(step: int) -> None:
    """The gradient with `through` is that of finite differences; without, what is remembered counts as given."""
    f, batch, rng = family(), clips(family(), 4, n=1), at_exit(step)
    weight = f.network_of().model.blocks[0].attn1.to_v.weight
    f.net.requires_grad_(False)
    weight.requires_grad_(True)

    def loss(through: bool, parts: slice = slice(2, 4)) -> Tensor:
        return SelfForcing(plan(), through=through)(f.net, batch, rng)[:, :, parts].square().sum()

    cut, whole = (torch.autograd.grad(loss(through), weight)[0] for through in (False, True))
    assert torch.equal(loss(False), loss(True)) and (cut - whole).abs().max() > 1e-3 * whole.abs().max()
    if step == 0:  # at later steps the passes before the last count as given, whatever the memory does
        way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=weight.dtype)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                weight += sign * 1e-2 * way
                ends.append(loss(False))
                weight -= sign * 1e-2 * way
        assert float((whole * way).sum()) == pytest.approx(
            float(ends[0] - ends[1]) / 2e-2, rel=5e-3
        )  # parts compute in float32


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("step", [0, 2])
def test_activations_computed_twice_give_the_same_gradients(step: int, through: bool) -> None:
    """Also where the memory has been overwritten in between."""
    found = []
    for twice in (False, True):
        f = family()
        if twice:
            checkpoint_gradients(f.network_of().parts, recomputed)
        f.network_of().train()
        batch = clips(f, 10)
        x = SelfForcing(plan(**SMALL), through=through)(f.net, batch, at_exit(step))
        found.append(gradients(f.net, x.square().mean()))
    assert apart(*found) < 1e-12


def test_gradients_survive_bfloat16_after_steps_without_a_graph() -> None:
    f = family(double=False)
    batch = clips(f, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SelfForcing(plan())(f.net, batch, at_exit(2)).square().mean()
    reached = [float(g.abs().max()) > 0 for g in gradients(f.net, loss)]
    plain = gradients(f.net, SelfForcing(plan())(f.net, batch, at_exit(2)).square().mean())
    assert reached == [float(g.abs().max()) > 0 for g in plain] and sum(reached) > 20


def adapters(out: Path) -> tuple[Engine, object]:
    f = family(double=False)
    roles = lora_roles(f.net, ("student", "critic"), Lora(rank=4))
    method = Dmd2(
        Dmd2Config(1), Guided(roles.teacher, cfg(2.0)), roles.denoisers["student"], roles.denoisers["critic"],
        roles.modules, SelfForcing(plan(**SMALL)),
    )  # fmt: skip
    batch = clips(f, 6, dtype=torch.float32)
    spec = {n: OptimSpec(lr=1e-2) for n in method.learners}
    return Engine(method, lambda step, micro: batch, spec, out, steps=3), (f, roles)


def test_a_causal_adapter_learns_beside_a_bidirectional_teacher_and_critic_on_one_base(tmp_path: Path) -> None:
    engine, (f, roles) = adapters(tmp_path)
    base = {k: v.clone() for k, v in f.net.state_dict().items() if "lora_" not in k}
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in roles.modules.items()}
    x, t, cond = engine.source(0, 0).x, torch.tensor([0.5, 0.5]), engine.source(0, 0).cond
    said = roles.teacher.x0(x, t, cond)
    engine.run()
    assert engine.step == 3 and not engine.skipped  # no loss or gradient was other than finite
    assert same_tensors(base, {k: v for k, v in f.net.state_dict().items() if "lora_" not in k})
    assert torch.equal(said, roles.teacher.x0(x, t, cond))
    for name, module in roles.modules.items():
        moved = [k for k, v in module.state_dict().items() if not torch.equal(v, before[name][k])]
        assert len(moved) == len(before[name]), name
    later = torch.cat([x[:, :, :-1], x[:, :, -1:] + 1], 2)
    for name in ("teacher", "critic"):  # these look ahead
        role = roles.teacher if name == "teacher" else roles.denoisers[name]
        assert (role.x0(x, t, cond) - role.x0(later, t, cond))[:, :, 0].abs().max() > 1e-4


def test_a_rollouts_blocks_know_nothing_of_what_comes_after() -> None:
    f, batch, rng = family(), clips(family()), at_exit(2)

    class Other(Rng):
        def normal(self, name: str, shape: object, like: Tensor | None = None) -> Tensor:
            x = super().normal(name, shape, like)  # type: ignore[arg-type]
            return torch.cat([x[:, :, :4], x[:, :, 4:] + 1], 2) if name == "input/eps" else x

    one = SelfForcing(plan())(f.net, batch, rng)
    two = SelfForcing(plan())(f.net, batch, Other(rng.seed, rng.step))
    assert torch.equal(one[:, :, :4], two[:, :, :4]) and not torch.equal(one, two)


def test_a_plans_last_positions_are_a_part_of_the_whole_gradient() -> None:
    f, batch, rng = family(), clips(family()), at_exit(1)
    weight = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[:, :, :4] = 0
    method = SelfForcing(plan())
    whole = gradients(f.net, (method(f.net, batch, rng) * weight).sum())
    part = gradients(f.net, (replace(method, last=2)(f.net, batch, rng) * weight).sum())
    assert apart(whole, part) < 1e-12
