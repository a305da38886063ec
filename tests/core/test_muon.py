"""Muon on CPUs that emulate bfloat16: the polynomial of the singular values, and the steps torch's takes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from vdistill.core import muon
from vdistill.core.muon import Muon, orthogonal

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_singular_values_go_through_the_polynomial(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = sum(c * s ** (2 * i + 1) for i, c in enumerate(COEFFICIENTS))
    torch.testing.assert_close(orthogonal(matrix, COEFFICIENTS, 5, 1e-7), u * s @ v, rtol=0, atol=1e-12)


def stepped(optim: torch.optim.Muon, weights: list[nn.Parameter], steps: range) -> Tensor:
    """The weights after steps with the gradients of those."""
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        for p in weights:
            p.grad = torch.randn(p.shape, generator=rng)
        optim.step()
    return torch.cat([p.detach().flatten() for p in weights])


def weights() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(9)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((6, 16), (16, 6), (8, 8))]


@pytest.mark.parametrize("emulated", [True, False])
def test_its_steps_are_those_of_torch(emulated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit where bfloat16 is fast, within its rounding where it is not; one goes on from the other's state."""
    monkeypatch.setattr(muon, "emulates_bf16", lambda device: emulated)
    ours, theirs = weights(), weights()
    a = Muon(ours, lr=0.1, weight_decay=0.2)
    b = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    start = torch.cat([p.detach().flatten() for p in ours])
    one, two = stepped(a, ours, range(3)), stepped(b, theirs, range(3))
    moved, gap = float((two - start).norm()), float((one - two).norm())
    assert gap == 0 if not emulated else 0 < gap < 0.02 * moved
    b.load_state_dict(deepcopy(a.state_dict()))
    with torch.no_grad():
        for p, q in zip(ours, theirs, strict=True):
            q.copy_(p)
    one, two = stepped(a, ours, range(3, 4)), stepped(b, theirs, range(3, 4))
    assert float((one - two).norm()) <= (0.02 * moved if emulated else 0)
