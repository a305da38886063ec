"""A nonlinear denoiser with two conditions that counts what it is asked, and one case to ask it about."""

import torch

from vdistill.core.cond import Cond
from vdistill.core.schedule import Schedule, spread


class Curved:
    """A nonlinear denoiser that counts what it is asked; `a` and `b` are its conditions [B, 1, 1]."""

    schedule = Schedule("rf")

    def __init__(self):
        self.sizes: list[int] = []

    def x0(self, x, t, cond, *, attend=None):
        self.sizes.append(len(x))
        a, b = cond.fields["a"], cond.along["b"].transpose(1, 2)
        return torch.tanh(x + a + b * a + torch.sin(3 * x) * b) * (1 + spread(t.to(x.dtype), x))


B = 3


def case(dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(B, 2, 4, generator=g, dtype=dtype)
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    cond = Cond(
        fields={"a": torch.randn(B, 1, 1, generator=g, dtype=dtype)},
        along={"b": torch.randn(B, 4, 1, generator=g, dtype=dtype)},
        null={"a": torch.full((1, 1, 1), 0.1, dtype=dtype), "b": torch.full((1, 1, 1), -0.2, dtype=dtype)},
    )
    return x, t, cond


def parts():
    """p(a, b), p(b), p(a), p()."""
    x, t, cond = case()
    return [Curved().x0(x, t, cond.drop(names)) for names in ([], ["a"], ["b"], ["a", "b"])]


def close(x, y, atol=1e-12):
    torch.testing.assert_close(x, y, rtol=0, atol=atol)


def run(guidance, **kwargs):
    x, t, cond = case()
    return guidance.x0(Curved(), x, t, cond, **kwargs)
