"""A rollout is the head of its sampler, and only its last pass learns."""

import pytest
import torch
from gaussian import NONE, RF, TIMES, Exact, M, S, noise

from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic, Renoise, rollout
from vdistill.core.schedule import spread


class Learner(torch.nn.Module):
    """A student with weights: nonlinear, so that a gradient through more than one pass would show."""

    schedule = RF

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.6, dtype=torch.float64))

    def x0(self, x, t, cond, *, attend=None):
        return torch.tanh(self.w * x) * (1 - spread(t, x) / 2)


@pytest.mark.parametrize(("stochastic", "sampler"), [(True, Renoise()), (False, Deterministic())])
def test_rollout_stops_in_the_middle_of_its_sampler(stochastic, sampler):
    student = Exact()
    sample = sampler(student, noise(), NONE, Rng(4), TIMES)
    for k, (x, t) in enumerate(student.calls):
        got = rollout(Exact(), noise(), NONE, TIMES, Rng(4), exit_step=k, stochastic=stochastic)
        assert torch.equal(got[0], x) and torch.equal(got[1], t) and torch.equal(got[2], Exact().x0(x, t, NONE))
        assert got[1].dtype == torch.float64 and got[1].shape == (6,)
    assert torch.equal(got[2], sample)


def test_renoised_rollout_states_have_the_marginal_of_their_time():
    z = Rng(0).normal("noise", (40_000, 1, 1)).double()
    for k, t in enumerate(TIMES):
        x, _, _ = rollout(Exact(), z, NONE, TIMES, Rng(0), exit_step=k)
        deviation = ((1 - t) ** 2 * S**2 + t**2) ** 0.5
        if k:
            assert abs(x.mean().item() - (1 - t) * M) < 0.015 and abs(x.std().item() - deviation) < 0.01


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("exit_step", range(4))
def test_only_the_last_pass_of_a_rollout_has_a_gradient(exit_step, stochastic):
    student = Learner()
    x, t, x0 = rollout(student, noise(), NONE, TIMES, Rng(0), exit_step=exit_step, stochastic=stochastic)
    assert not x.requires_grad
    (got,) = torch.autograd.grad(x0.sum(), student.w)
    (wanted,) = torch.autograd.grad(student.x0(x.detach(), t, NONE).sum(), student.w)
    assert torch.equal(got, wanted)


def test_a_rollout_without_gradient_has_none():
    student = Learner()
    assert not rollout(student, noise(), NONE, TIMES, Rng(0), exit_step=2, grad_last=False)[2].requires_grad
    with torch.no_grad():
        assert not rollout(student, noise(), NONE, TIMES, Rng(0), exit_step=2)[2].requires_grad
    assert torch.is_grad_enabled()


def test_samplers_keep_the_whole_graph_for_those_who_want_it():
    student = Learner()
    sample = Deterministic()(student, noise(), NONE, Rng(0), TIMES)
    (through_all,) = torch.autograd.grad(sample.sum(), student.w)
    step, x = 1e-5, []
    for w in (0.6 + step, 0.6 - step):
        student.w.data.fill_(w)
        x.append(Deterministic()(student, noise(), NONE, Rng(0), TIMES).sum().item())
    assert through_all.item() == pytest.approx((x[0] - x[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("exit_step", [-1, 4])
def test_a_rollout_cannot_leave_outside_its_steps(exit_step):
    with pytest.raises(UserError, match="^rollout: exit_step"):
        rollout(Exact(), noise(), NONE, TIMES, Rng(0), exit_step=exit_step)
