"""Clips that go on from clips: the law of what follows is the law given what came before."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.rng import Rng
from vdistill.core.sampling import Renoise, at
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import solve
from vdistill.families.analytic import Classes, Gaussian, ar1
from vdistill.video.extend import Continued, continue_from, extended, taken

FLOW = Schedule("rf", shift=3.0)
RHO, LENGTH = 0.9, 12
LAW = ar1(FLOW, LENGTH, RHO)


def start(batch: int = 3, known: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(known latents, first noise), float64."""
    rng = Rng(seed)
    return LAW.sample(batch, rng)[:, :, :known].double(), rng.normal("noise", (batch, 1, LENGTH)).double()


def given(known: Tensor) -> Gaussian:
    """The exact law of what follows known latents [1, 1, k] of the AR(1) sequence."""
    count, last = known.shape[2], known[0, 0, -1]
    ahead = torch.arange(1, LENGTH - count + 1, dtype=torch.float64)
    power = RHO ** (ahead[:, None] - ahead).abs() - RHO ** (ahead[:, None] + ahead)
    return Gaussian(FLOW, (RHO**ahead * last)[None], power)


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
def test_from_clean_known_latents_the_rest_has_exactly_its_law_given_them(solver: str) -> None:
    known, noise = start(1)
    times = FLOW.grid(8)
    seen = Continued(LAW, clean=True)
    made = solve(seen, noise, times, continue_from(Cond(), known, noise), solver)  # type: ignore[arg-type]
    truth = solve(given(known), noise[:, :, 4:], times, Cond(), solver)  # type: ignore[arg-type]
    assert (made[:, :, 4:] - truth).abs().max() < 1e-12
    assert (made[:, :, :4] - known).abs().max() < 1e-12


@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_as_many_pulls_as_known_numbers_give_the_exact_law_of_the_rest(solver: str) -> None:
    known, noise = start(1, known=3)
    times = (0.95, 0.8, 0.5, 0.2, 0.0)  # at pure noise no estimate answers to x, so there is nothing to pull on
    noise = FLOW.noise(torch.cat([known, torch.zeros(1, 1, 9)], 2), noise, at(noise, 0.95))
    eps = (noise - 0.05 * torch.cat([known, torch.zeros(1, 1, 9)], 2)) / 0.95
    made = solve(Continued(LAW, pull=3), noise, times, continue_from(Cond(), known, eps), solver)  # type: ignore[arg-type]
    truth = solve(given(known), noise[:, :, 3:], times, Cond(), solver)  # type: ignore[arg-type]
    assert (made[:, :, 3:] - truth).abs().max() < 1e-9
    fewer = solve(Continued(LAW, pull=0), noise, times, continue_from(Cond(), known, eps), solver)  # type: ignore[arg-type]
    assert (fewer[:, :, 3:] - truth).abs().max() > 0.05


@pytest.mark.parametrize(("pull", "clean"), [(0, False), (0, True), (1, False), (2, False)])
def test_what_is_known_comes_back_as_it_was(pull: int, clean: bool) -> None:
    known, noise = start()
    cond, seen = continue_from(Cond(), known, noise), Continued(LAW, pull, clean=clean)
    assert torch.equal(solve(seen, noise, FLOW.grid(5), cond)[:, :, :4], known)
    assert torch.equal(Renoise()(seen, noise, cond, Rng(0), (1.0, 0.5))[:, :, :4], known)
    for times in (at(noise, 0.7), torch.rand(3, LENGTH, dtype=torch.float64)):
        assert torch.equal(seen.x0(noise, times, cond)[:, :, :4], known)


def test_a_solver_holds_the_known_latents_as_the_network_is_shown_them() -> None:
    known, noise = start()
    cond, seen = continue_from(Cond(), known, noise), Continued(LAW, pull=0)
    x = solve(seen, noise, (1.0, 0.6, 0.3), cond)
    assert (x[:, :, :4] - FLOW.noise(known, noise[:, :, :4], at(x, 0.3))).abs().max() < 1e-12
    assert (seen.x0(x, at(x, 0.3), cond)[:, :, 4:] - LAW.x0(x, at(x, 0.3))[:, :, 4:]).abs().max() < 1e-12


def test_without_known_latents_it_is_the_network_itself() -> None:
    _, noise = start()
    assert torch.equal(Continued(LAW).x0(noise, at(noise, 0.5), Cond()), LAW.x0(noise, at(noise, 0.5)))


def test_guidance_takes_it_for_a_denoiser_in_whatever_batches() -> None:
    law = Classes(FLOW, torch.randn(3, 1, 6, dtype=torch.float64), 0.5)
    noise, known = torch.randn(4, 1, 6, dtype=torch.float64), torch.randn(4, 1, 2, dtype=torch.float64)
    cond = continue_from(law.cond(torch.tensor([0, 1, 0, 1])), known, noise)
    seen = [Guided(Continued(law), cfg(3.0, "label"), most).x0(noise, at(noise, 0.5), cond) for most in (None, 3, 1)]
    assert (seen[0] - seen[1]).abs().max() < 1e-12 and (seen[0] - seen[2]).abs().max() < 1e-12
    assert (seen[0][:, :, :2] - known).abs().max() < 1e-12


def chained(clips: int, seen: Continued, batch: int = 500) -> Tensor:
    """[batch, N] of clips of LENGTH that go on from the last of the one before."""

    def make(last: Tensor | None, number: int) -> Tensor:
        noise = Rng(1).normal(f"clip/{number}", (batch, 1, LENGTH)).double()
        cond = Cond() if last is None else continue_from(Cond(), last, noise)
        return solve(seen, noise, FLOW.grid(16), cond, "dpmpp_2m")

    return torch.cat([*islice(extended(make), clips)], 2)[:, 0]


def neighbours(x: Tensor) -> Tensor:
    a, b = x[:, :-1], x[:, 1:]
    return (a * b).mean(0) / (a.square().mean(0) * b.square().mean(0)).sqrt()


@pytest.mark.parametrize("seen", [Continued(LAW, clean=True), Continued(LAW, pull=1)], ids=["clean", "pulled"])
def test_a_chain_of_exact_clips_stays_the_same_process(seen: Continued) -> None:
    x = chained(12, seen)
    seams = neighbours(x)[LENGTH - 1 :: LENGTH - 1]
    assert len(seams) == 11 and (seams - RHO).abs().max() < 0.05  # the spread of 500 samples is 0.009
    assert (x.var(0)[-LENGTH:] - 1).abs().max() < 0.25


def test_a_chain_that_is_not_pulled_hardly_goes_on() -> None:
    x = chained(12, Continued(LAW, pull=0))
    seams = neighbours(x)[LENGTH - 1 :: LENGTH - 1]
    assert 0.3 < seams.min() and seams.max() < 0.6  # of 0.9; two clips made apart would have 0
    assert 0.8 < x.var(0).mean() < 1.2


def test_chunks_are_made_when_asked_for_and_begin_where_the_last_ended() -> None:
    asked: list[int] = []

    def make(last: Tensor | None, number: int) -> Tensor:
        asked.append(number)
        first = 0.0 if last is None else float(last[0, 0, 0, 0, 0])
        return (first + torch.arange(5.0)).view(1, 1, 5, 1, 1).expand(2, 3, 5, 4, 4)

    chunks = extended(make, keep=2)
    assert next(chunks).shape[2] == 5 and asked == [0]
    assert torch.equal(next(chunks)[0, 0, :, 0, 0], torch.tensor([5.0, 6.0, 7.0])) and asked == [0, 1]
    whole = taken(extended(make, keep=2), 9)
    assert torch.equal(whole[0, 0, :, 0, 0], torch.arange(9.0)) and asked == [0, 1, 0, 1, 2]


def test_what_cannot_go_on_is_one_line() -> None:
    with pytest.raises(UserError, match=r"extend\.keep"):
        next(extended(lambda last, number: torch.zeros(1, 3, 5, 2, 2), keep=0))
    with pytest.raises(UserError, match="gets no longer"):
        next(extended(lambda last, number: torch.zeros(1, 3, 2, 2, 2), keep=2))
    with pytest.raises(UserError, match="nothing can follow"):
        continue_from(Cond(), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
