"""Guidance on the mean frame: exact where frames are alike, in fewer passes, and plain where there is none."""

import math

import pytest
import torch

from vdistill.core.attention import full
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.guidance import Guidance, cfg, chain
from vdistill.core.guided import Guided
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule, spread
from vdistill.video.mean_frame import MeanFrame, mean_frame, told_once

PATHS = [Schedule("rf"), Schedule("rf", shift=3.0), Schedule("trig"), Schedule("edm"), Schedule("vp")]
CHAIN = chain(("ref", 2.0), ("audio", 3.0))


class Still:
    """The exact denoiser of clips that show one frame z T times: z ~ N(m, s^2) by what it is told."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.seen = schedule, []

    def x0(self, x, t, cond, *, attend=full):
        self.seen.append((len(x), x.shape[2]))
        alpha, sigma = (spread(v, x) for v in self.schedule.alpha_sigma(t))
        told = cond.fields["ref"] + cond.along["audio"].mean(1)
        mean, var = spread(told.double(), x), spread(1 / (1 + told.double() ** 2), x)
        total = x.double().sum(2, keepdim=True)
        found = (mean * sigma**2 + var * alpha * total) / (sigma**2 + var * alpha**2 * x.shape[2])
        return found.expand_as(x).to(x.dtype)


def case(frames=5):
    rng = Rng(0)
    x = rng.normal("x", (3, 2, frames, 2, 2)).double()
    null = {"ref": torch.zeros(1), "audio": torch.zeros(1, 1)}
    cond = Cond({"ref": torch.tensor([0.5, -1.0, 2.0])}, {"audio": rng.normal("audio", (3, frames))}, null)
    return x, torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64), cond


@pytest.mark.parametrize("schedule", PATHS, ids=lambda s: f"{s.kind}{s.shift:g}")
def test_it_is_full_guidance_where_frames_are_alike(schedule):
    x, t, cond = case()
    net = Still(schedule)
    found, wanted = MeanFrame(net, CHAIN).x0(x, t, cond), Guided(net, CHAIN).x0(x, t, cond)
    assert (wanted - net.x0(x, t, cond)).abs().max() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", [Schedule("rf"), Schedule("trig")], ids=lambda s: s.kind)
def test_noise_alone_stays_noise_of_one_frame(schedule):
    x, _, cond = case()
    y, u = mean_frame(schedule, x, torch.ones(3, dtype=torch.float64))
    assert torch.allclose(u, torch.ones_like(u))
    torch.testing.assert_close(y, x.mean(2, keepdim=True) * math.sqrt(5))
    assert MeanFrame(Still(schedule), CHAIN).x0(x, torch.ones(3), cond).isfinite().all()


def test_a_clean_clip_stays_clean():
    x, _, _ = case()
    y, u = mean_frame(Schedule("rf"), x, torch.zeros(3, dtype=torch.float64))
    assert u.abs().max() < 1e-20
    torch.testing.assert_close(y, x.mean(2, keepdim=True))


def test_the_mean_frame_has_its_share_of_signal_and_noise():
    schedule, t = Schedule("rf"), torch.tensor([0.7], dtype=torch.float64)
    z = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    noise = Rng(1).normal("noise", (1, 1, 4, 1, 1)).double()
    y, u = mean_frame(schedule, schedule.noise(z.expand_as(noise), noise, t), t)
    expected = schedule.noise(z, noise.mean(2, keepdim=True) * 2, u)
    torch.testing.assert_close(y, expected)
    assert float(u) == pytest.approx(0.7 / (0.7 + 2 * 0.3))


def test_branches_see_one_frame():
    x, t, cond = case()
    net = Still(Schedule("rf"))
    MeanFrame(net, CHAIN).x0(x, t, cond)
    assert net.seen == [(3, 5), (9, 1)]


@pytest.mark.parametrize(
    "table", [Guidance(), cfg(1.0, "ref"), CHAIN.within(0.95, 1.0)], ids=["none", "one", "outside"]
)
def test_without_guidance_it_is_the_pass_itself(table):
    x, t, cond = case()
    net = Still(Schedule("rf"))
    found = MeanFrame(net, table).x0(x, t, cond)
    assert net.seen == [(3, 5)]
    assert torch.equal(found, net.x0(x, t, cond))


def test_a_factor_takes_that_much_of_it():
    x, t, cond = case()
    net = Still(Schedule("rf"))
    plain, whole = net.x0(x, t, cond), MeanFrame(net, CHAIN).x0(x, t, cond)
    half = MeanFrame(net, CHAIN, 0.5).x0(x, t, cond)
    torch.testing.assert_close(half, (plain + whole) / 2)


def test_what_runs_along_is_averaged():
    _, _, cond = case()
    assert torch.equal(told_once(cond).along["audio"], cond.along["audio"].mean(1, keepdim=True))


def test_what_it_cannot_do_is_refused():
    x, t, cond = case()
    with pytest.raises(UserError, match="rescale"):
        MeanFrame(Still(Schedule("rf")), CHAIN.rescaled(0.5))
    with pytest.raises(UserError, match="one time"):
        MeanFrame(Still(Schedule("rf")), CHAIN).x0(x, t[:, None].expand(3, 5), cond)
    with pytest.raises(UserError, match="whole clips"):
        MeanFrame(Still(Schedule("rf")), CHAIN).x0(x, t, cond, attend=lambda *a, **k: None)
