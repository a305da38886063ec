"""Wan 2.2 A14B: above the boundary one expert answers, below it the other, exactly as the stock pipeline chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from contract import Case, case
from torch import Tensor, nn

from vdistill.app.check import check


@contextmanager
def noted(c: Case) -> Iterator[list[tuple[str, Tensor, Tensor, Tensor, Tensor]]]:
    """Every call of an expert while the pipeline runs: (which, latents, timestep, text, answer)."""
    found: list[tuple[str, Tensor, Tensor, Tensor, Tensor]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, named: dict[str, Any], out: Any) -> None:
            names = ("hidden_states", "timestep", "encoder_hidden_states")
            x, t, text = given[:3] if given else (named[k] for k in names)
            found.append((name, x.clone(), t.clone(), text.clone(), out[0].clone()))

        return hook

    experts = c.family.network_of().parts
    hooks = [m.register_forward_hook(note(n), with_kwargs=True) for n, m in experts.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def test_on_both_sides_of_the_boundary_the_expert_answers_that_the_stock_pipeline_asks() -> None:
    c = case("wan22-a14b")
    with noted(c) as calls:
        c.stock(6)
    assert {name for name, *_ in calls} == {"transformer", "transformer_2"}
    net = c.family.network_of()
    for name, x, timestep, text, answer in calls:
        t = c.family.clock.time(timestep)
        with noted(c) as ours:
            said = net(x, t, c.cond.with_field("text", text))
        assert [called for called, *_ in ours] == [name]
        assert torch.equal(said, answer)


@torch.no_grad()
def test_the_boundary_itself_belongs_to_the_first_and_a_batch_may_lie_on_both_sides() -> None:
    c = case("wan22-a14b")
    net, boundary = c.family.network_of(), c.family.pipe.config.boundary_ratio
    x, cond = c.noise().repeat(3, 1, 1, 1, 1), c.cond.select(torch.tensor([0, 0, 0]))
    t = torch.tensor([boundary, boundary - 1e-3, 1.0], dtype=torch.float64)
    said, told = net(x, t, cond), c.family.clock.told(t)
    for i, part in enumerate(("transformer", "transformer_2", "transformer")):
        alone = net.parts[part](x[i : i + 1], told[i : i + 1], cond.fields["text"][:1], return_dict=False)[0]
        torch.testing.assert_close(said[i : i + 1], alone, atol=1e-5, rtol=0)
    assert float((said[0] - said[1]).abs().max()) > 1e-2


def test_a_causal_student_of_two_experts_is_refused_by_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {
        "name": "two",
        "family": {"name": "wan", "random_tiny": "wan22-a14b", "frames": 9, "height": 64, "width": 64},
        "data": {"name": "shapes", "frames": 9, "size": 64},
        "method": {"name": "dmd2", "inputs": "rollout", "steps": 2},
        "causal": {"block": 1},
        "train": {"steps": 1, "batch": 2},
    }
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(said))
    assert check(path, []) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "causal: wan: has two experts" in lines[0]
