"""Perfect networks for N(m, s^2): the consistency map (a student) or the posterior mean (a teacher), in closed form."""

import pytest
import torch

from vdistill.core.cond import Cond
from vdistill.core.rng import Rng
from vdistill.core.schedule import Schedule, spread

SCHEDULES = {
    "rf": Schedule("rf"),
    "vp_zero_snr": Schedule("vp", zero_snr=True),
    "trig": Schedule("trig"),
    "edm": Schedule("edm"),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
RF, NONE, TIMES = SCHEDULES["rf"], Cond(), (1.0, 0.75, 0.5, 0.25)
M, S = 0.7, 0.5


class Exact:
    """The consistency map (a perfect student) or, with `posterior`, the posterior mean (a perfect teacher)."""

    def __init__(self, schedule=RF, posterior=False, m=M):
        self.schedule, self.posterior, self.m, self.calls = schedule, posterior, m, []

    def x0(self, x, t, cond, *, attend=None):
        self.calls.append((x, t))
        alpha, sigma = (spread(v, x) for v in self.schedule.alpha_sigma(t))
        deviation = torch.sqrt(alpha**2 * S**2 + sigma**2)
        slope = alpha * S**2 / deviation**2 if self.posterior else S / deviation
        return (self.m + slope * (x - alpha * self.m)).to(x.dtype)


def noise(n=6, seed=0):
    return Rng(seed).normal("noise", (n, 2, 3)).double()


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)
