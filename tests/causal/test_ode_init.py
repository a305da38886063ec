"""ODE initialisation against laws whose trajectories are known in closed form."""

from __future__ import annotations

import pytest
import torch
from causal.law_bed import LAW, LENGTH, RF, AfterExact, batch, before, deviation
from causal.student_bed import clips, family
from torch import Tensor, nn

from vdistill.causal.layout import Layout
from vdistill.causal.ode_init import AfterCleanPath, OdeInit
from vdistill.causal.student import BlockCausal
from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.rng import Rng
from vdistill.core.schedule import spread
from vdistill.core.step import Batch

ONE = Layout(1)
TIMES = (1.0, 0.75, 0.5, 0.25)
NOTHING = nn.Linear(1, 1)


def test_the_causal_teachers_trajectories_are_its_solvers_after_clean_positions() -> None:
    """Every DDIM step shrinks the deviation from the mean by (alpha_u alpha_t s^2 + sigma_u sigma_t) / S_t^2."""
    b = batch()
    paths, rng = AfterCleanPath(AfterExact(), ONE, tuple(RF.grid(40).tolist()), TIMES), Rng(5)
    states, times = paths(b, rng)
    assert times == pytest.approx((*TIMES, 0.0)) and states.shape == (64, 5, 1, LENGTH)
    m, s = before(b.x), deviation(b.x)
    x, grid = rng.normal("noise", b.x.shape, like=b.x), RF.grid(40)
    for t, u in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        gap = (x - (1 - t) * m) * ((1 - u) * (1 - t) * s**2 + u * t) / ((1 - t) ** 2 * s**2 + t**2)
        x = (1 - u) * m + gap
        for i, kept in enumerate(times):
            if abs(kept - u) < 1e-9:
                torch.testing.assert_close(states[:, i], x, rtol=0, atol=1e-12)


def test_the_exact_jump_has_no_loss_and_another_one_its_own() -> None:
    paths = AfterCleanPath(AfterExact(), ONE, tuple(RF.grid(400).tolist()), TIMES)
    losses = [
        float(OdeInit("teacher", ONE, paths, AfterExact(True, off), NOTHING).loss("student", batch(), Rng(0)).total)
        for off in (0.0, 0.1)
    ]
    assert losses[0] < 1e-4 and losses[1] == pytest.approx(0.01, abs=5e-4)


def test_one_time_serves_a_clip_after_clean_blocks_and_the_end_is_no_input() -> None:
    asked: list[Tensor] = []

    class Notes(AfterExact):
        def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
            asked.append(t[:, LENGTH:])
            return super().x0(x, t, cond)

    paths = AfterCleanPath(AfterExact(), ONE, tuple(RF.grid(8).tolist()), TIMES)
    OdeInit("teacher", ONE, paths, Notes(), NOTHING).loss("student", batch(), Rng(0))
    assert torch.equal(asked[0], asked[0][:, :1].expand(-1, LENGTH))
    assert sorted(asked[0].unique().tolist()) == pytest.approx(sorted(TIMES))


def exact_paths(b: Batch, rng: Rng) -> tuple[Tensor, tuple[float, ...]]:
    """The bidirectional teacher's own, from the closed form of its ODE."""
    noise = rng.normal("noise", b.x.shape, like=b.x)
    one = torch.ones(len(b.x), dtype=torch.float64)
    return torch.stack([LAW.ode_map(noise, one, t * one) for t in (1.0, 0.5, 0.0)], 1), (1.0, 0.5, 0.0)


class Linear:
    """A student that is a matrix [T, T] at t = 1."""

    schedule = RF

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return torch.einsum("ij,bcj->bci", self.matrix, x)


def test_what_a_causal_student_cannot_reach_of_a_bidirectional_teachers_end_is_its_loss() -> None:
    """The end is R z with R the symmetric root of Sigma; the best causal answer is its lower triangle, and what is left
    is the energy above the diagonal."""
    values, axes = torch.linalg.eigh(LAW.full_cov)
    root = axes @ values.sqrt().diag() @ axes.T

    def only_noise(b: Batch, rng: Rng) -> tuple[Tensor, tuple[float, ...]]:
        states, _ = exact_paths(b, rng)
        return torch.stack([states[:, 0], states[:, 0], states[:, -1]], 1)[:, [0, 2]], (1.0, 0.0)

    def loss(matrix: Tensor, n: int = 40_000) -> float:
        return float(
            OdeInit("teacher", ONE, only_noise, Half(Linear(matrix)), NOTHING).loss("s", batch(n), Rng(1)).total
        )

    lost = float(root.triu(1).square().sum()) / LENGTH
    assert lost > 0.05 and loss(root) < 1e-20
    assert loss(root.tril()) == pytest.approx(lost, rel=0.02)
    assert loss(torch.linalg.cholesky(LAW.full_cov)) > 1.2 * lost


class Half(Linear):
    """Looks at the noisy half of [clean | noisy]."""

    def __init__(self, inner: Linear) -> None:
        self.inner = inner

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        return torch.cat([x[:, :, :LENGTH], self.inner.x0(x[:, :, LENGTH:], t[:, LENGTH:], cond)], 2)


def test_blocks_are_taken_from_states_of_their_own_and_those_at_the_end_count_for_nothing() -> None:
    f, layout, rng = family(), Layout(2), Rng(2)
    b = clips(f, 6)
    states = torch.stack([b.x + i for i in range(3)], 1)
    method = OdeInit("diffusion", layout, lambda batch, rng: (states, (0.9, 0.4, 0.0)), f.net, f.net)
    level = rng.integers("level", (2, 3), 3).repeat_interleave(2, 1)
    assert level.unique().numel() == 3
    t = torch.tensor([0.9, 0.4, 0.0], dtype=torch.float64)[level]
    guess = BlockCausal(f.net, layout).x0(b.x + spread(level.double(), b.x), t, b.cond)
    noisy = (t > 0)[:, None, :, None, None].expand_as(guess)
    right = (guess - states[:, -1])[noisy].square().mean()
    torch.testing.assert_close(method.loss("student", b, rng).total, right, rtol=1e-12, atol=0)
