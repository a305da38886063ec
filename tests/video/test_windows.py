"""Windows over a sequence: exact where positions are independent, nearer to the truth the more they share."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vdistill.core.attention import Attend, full
from vdistill.core.cond import Cond
from vdistill.core.denoiser import Denoiser
from vdistill.core.errors import UserError
from vdistill.core.guidance import cfg
from vdistill.core.guided import Guided
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic, Renoise, at
from vdistill.core.schedule import Schedule
from vdistill.core.solvers import solve
from vdistill.families.analytic import ar1
from vdistill.video.windows import Windowed, shares, starts

FLOW = Schedule("rf", shift=3.0)
LAYOUTS = [(17, 5, 2, 0), (17, 5, 2, 1), (6, 5, 4, 0), (23, 7, 0, 3), (9, 4, 1, 2), (100, 5, 3, 1)]


@dataclass
class Pointwise:
    """Every position by itself, with the condition that runs along; notes what it was asked."""

    schedule: Schedule = FLOW
    asked: list[tuple[int, int]] = field(default_factory=list)

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        self.asked.append((len(x), x.shape[2]))
        along = cond.along["sound"][:, None, :, None, None]
        times = (t if t.ndim == 2 else t[:, None])[:, None, :, None, None].to(x.dtype)
        return torch.tanh(x * 1.7 + along) * (1 - times) + 0.1 * cond.fields["text"].view(-1, 1, 1, 1, 1)


def clip(length: int, batch: int = 2) -> tuple[Tensor, Cond]:
    rng = Rng(3)
    null = {"text": torch.zeros(1), "sound": torch.zeros(1, 1)}
    fields, along = {"text": rng.normal("text", (batch,))}, {"sound": rng.normal("sound", (batch, length))}
    return rng.normal("x", (batch, 2, length, 3, 3)), Cond(fields, along, null)


@pytest.mark.parametrize(("length", "window", "overlap", "shift"), LAYOUTS)
@pytest.mark.parametrize("most", [None, 1, 5])
def test_a_network_of_single_positions_says_the_same_in_windows(
    length: int, window: int, overlap: int, shift: int, most: int | None
) -> None:
    x, cond = clip(length)
    net, times = Pointwise(), (1.0, 0.9, 0.5, 0.2)
    seen = Windowed(net, window, overlap, shift, times, lead=min(1, overlap), max_batch=most)
    for t in times:
        assert torch.equal(seen.x0(x, at(x, t), cond), net.x0(x, at(x, t), cond))
    each = torch.rand(2, length, dtype=torch.float64)
    assert torch.equal(seen.x0(x, each, cond), net.x0(x, each, cond))


def test_a_sequence_of_one_window_is_the_network_itself() -> None:
    law = ar1(FLOW, 6, shape=(1, 6, 1, 1))
    x, t = torch.randn(3, 1, 6, 1, 1), torch.full((3,), 0.4)
    for window in (6, 9):
        assert torch.equal(Windowed(law, window, 2, 1, (1.0, 0.4)).x0(x, t, Cond()), law.x0(x, t))


@pytest.mark.parametrize(("length", "window", "overlap", "shift"), LAYOUTS)
def test_windows_cover_everything_and_their_weights_sum_to_one(
    length: int, window: int, overlap: int, shift: int
) -> None:
    for offset in range(0, 3 * window, max(shift, 1)):
        begins = starts(length, window, overlap, offset)
        assert begins[0] == 0 and begins[-1] == length - window
        assert all(0 < b - a <= window - overlap for a, b in zip(begins, begins[1:], strict=False))
        for lead in range(overlap + 1):
            table = shares(length, begins, window, overlap, lead)
            assert (table >= 0).all() and torch.allclose(table.sum(0), torch.ones(length, dtype=torch.float64))
            assert all(not row[start : start + lead].any() for row, start in zip(table, begins, strict=True) if start)


def error(overlap: int, length: int = 60, window: int = 12, rho: float = 0.9, lead: int = 0) -> float:
    """rms of the windowed x0 against the exact one of the whole AR(1) sequence."""
    whole, part = ar1(FLOW, length, rho), ar1(FLOW, window, rho)
    t, rng = torch.full((64,), 0.5, dtype=torch.float64), Rng(0)
    x = FLOW.noise(whole.sample(64, rng).double(), rng.normal("eps", (64, 1, length)).double(), t)
    gap = Windowed(part, window, overlap, lead=lead).x0(x, t, Cond()) - whole.x0(x, t)
    return float(gap.square().mean().sqrt())


def test_the_error_falls_as_windows_share_more() -> None:
    errors = [error(overlap) for overlap in (0, 2, 4, 6, 8)]
    assert all(more < less for less, more in zip(errors, errors[1:], strict=False)), errors
    assert errors[-1] < errors[0] / 2.5


def test_unused_first_positions_leave_less_error_than_none_of_them_shared() -> None:
    assert error(4) < error(4, lead=2) < error(0)


def worst_neighbours(seen: Denoiser) -> float:
    """Least correlation of neighbours in sequences of 40 made by 20 steps; the law's own is 0.9."""
    x = Rng(0).normal("noise", (2000, 1, 40)).double()
    made = solve(seen, x, FLOW.grid(20), Cond())[:, 0]
    a, b = made[:, :-1], made[:, 1:]
    return float(((a * b).mean(0) / (a.square().mean(0) * b.square().mean(0)).sqrt()).min())


def test_sharing_and_moving_take_the_seams_out_of_what_a_solver_makes() -> None:
    part, times = ar1(FLOW, 12, 0.9), tuple(FLOW.grid(20).tolist())
    assert worst_neighbours(Windowed(part, 12, 0)) < 0.1  # windows that know nothing of each other
    assert worst_neighbours(Windowed(part, 12, 0, 3, times)) > 0.7
    assert worst_neighbours(Windowed(part, 12, 4, 3, times)) > 0.95 * 0.9


def test_a_head_replaces_what_windows_begin_with_but_the_first() -> None:
    asked: list[tuple[float, int]] = []

    class Listening(Pointwise):
        def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
            asked.extend((float(v), len(x)) for v in x[:, 0, 0, 0, 0])
            return super().x0(x, t, cond, attend=attend)

    x, cond = clip(13, batch=1)
    net = Listening()
    seen = Windowed(net, 5, 1, lead=1, head=lambda x, start: torch.full_like(x[:, :, :1], float(start)))
    out = seen.x0(x, at(x, 0.5), cond)
    assert [round(v) for v, _ in asked[1:]] == [4, 8] and asked[0][0] == float(x[0, 0, 0, 0, 0])
    assert torch.equal(out, Pointwise().x0(x, at(x, 0.5), cond))  # the head itself is never used


def test_windows_move_by_the_step_and_passes_of_one_step_see_the_same() -> None:
    x, _ = clip(20)
    seen = Windowed(Pointwise(), 6, 2, 3, (1.0, 0.75, 0.5, 0.25, 0.0))
    assert [seen.offset(at(x, t)) for t in (1.0, 0.75, 0.5, 0.25)] == [0, 3, 2, 1]
    assert seen.offset(at(x, 0.75)[:, None].expand(-1, 20)) == 3
    assert starts(20, 6, 2, 3) == [0, 3, 7, 11, 14]


def test_above_a_time_it_is_the_network_on_the_whole_sequence() -> None:
    whole, part = ar1(FLOW, 20, 0.9), ar1(FLOW, 6, 0.9)

    class AnyLength(Pointwise):
        def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
            return (whole if x.shape[2] == 20 else part).x0(x, t, cond)

    x = Rng(0).normal("x", (2, 1, 20)).double()
    seen = Windowed(AnyLength(), 6, 2, whole=0.8)
    for t in (0.95, 0.8, 0.3):
        close = (seen.x0(x, at(x, t), Cond()) - whole.x0(x, at(x, t))).abs().max()
        assert close == 0 if t > 0.8 else close > 1e-3


def test_solvers_samplers_and_guidance_take_it_for_a_denoiser() -> None:
    x, cond = clip(17)
    net, times = Pointwise(), FLOW.grid(4)
    seen = Windowed(net, 5, 2, 2, tuple(times.tolist()), 1)
    for solver in ("ddim", "heun", "dpmpp_2m"):
        assert torch.equal(solve(seen, x, times, cond, solver), solve(net, x, times, cond, solver))  # type: ignore[arg-type]
    for sampler in (Deterministic(), Renoise()):
        steps = (1.0, 0.6, 0.3)
        assert torch.equal(sampler(seen, x, cond, Rng(1), steps), sampler(net, x, cond, Rng(1), steps))

    def told(inner: Denoiser) -> Tensor:
        return Guided(inner, cfg(3.0)).x0(x, at(x, 0.5), cond)

    assert torch.equal(told(seen), told(net))


def test_one_forward_holds_all_windows_or_as_many_samples_as_allowed() -> None:
    x, cond = clip(17)  # windows begin at 0, 3, 6, 9, 12
    for most, calls in ((None, [10]), (4, [4, 4, 2]), (1, [2] * 5)):
        net = Pointwise()
        Windowed(net, 5, 2, max_batch=most).x0(x, at(x, 0.5), cond)
        assert net.asked == [(size, 5) for size in calls]


@pytest.mark.parametrize(
    "wrong", [{"overlap": 5}, {"overlap": -1}, {"shift": -1}, {"lead": 3}, {"max_batch": 0}, {"window": 0}]
)
def test_what_cannot_be_is_one_line(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="windows"):
        Windowed(Pointwise(), **({"window": 5, "overlap": 2} | wrong))
