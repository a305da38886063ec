"""Learning rates: a learner's parts may learn faster, and one that does not is trained as ever."""

import pytest
import torch
from torch import nn

from vdistill.core.optim import Optimizer, OptimSpec


def parts() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"critic": nn.Linear(3, 2), "gan": nn.Linear(2, 1)})


def step(spec: OptimSpec, lr: float = 1e-3) -> dict[str, torch.Tensor]:
    """How far one step with gradients of one moves each weight."""
    module = parts()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optim = Optimizer(spec, module)
    optim.step(lr)
    return {n: before[n] - p.detach() for n, p in module.named_parameters()}


def test_a_factor_multiplies_the_first_step_of_adamw_exactly() -> None:
    """The first step of AdamW is lr times the gradient's sign."""
    for name, moved in step(OptimSpec(rates={"gan": 20.0})).items():
        factor = 20.0 if name.startswith("gan.") else 1.0
        torch.testing.assert_close(moved, torch.full_like(moved, factor * 1e-3), rtol=1e-4, atol=1e-7)


def test_muon_takes_factors_too() -> None:
    module = nn.ModuleDict({"critic": nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4, bias=False)])})})
    optim = Optimizer(OptimSpec("muon", rates={"critic": 3.0}), module)
    optim.step(1e-2)
    assert [group["lr"] for part in optim.parts for group in part.param_groups] == pytest.approx([3e-2])


def test_a_state_goes_back_where_it_came_from() -> None:
    spec = OptimSpec(rates={"gan": 20.0})
    whole, parted = parts(), parts()
    one, two = Optimizer(spec, whole), Optimizer(spec, parted)
    for turn in range(4):
        if turn == 2:
            kept, two = two.state(), Optimizer(spec, parted)
            two.load(*kept)
        for optim, module in ((one, whole), (two, parted)):
            for i, p in enumerate(module.parameters()):
                p.grad = torch.full_like(p, float(turn + i + 1))
            optim.step(1e-2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))


def test_a_factor_is_of_whole_parts_of_names() -> None:
    """Of a run of them too, however deep, and not of a name that begins the same."""
    net = nn.ModuleDict({"beside": nn.ModuleDict({"scales": nn.Linear(1, 1), "scales_too": nn.Linear(1, 1)})})
    optim = Optimizer(OptimSpec(rates={"beside.scales": 3.0}), nn.ModuleDict({"net": net}))
    (part,) = optim.parts
    sizes = {group["factor"]: len(group["params"]) for group in part.param_groups}
    assert sizes == {3.0: 2, 1.0: 2}
