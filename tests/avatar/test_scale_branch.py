"""A branch beside each block: its formula, nothing at scales of 1 and at birth, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from avatar.talk_bed import CHANNELS, FRAMES, SIDE, adapters, draw, family, scales_spec, taught, told
from torch.nn.functional import layer_norm, silu

from vdistill.app.build_scales import push_alike, with_tokens
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.plan import ON, tell
from vdistill.families.guidance_tokens import NAME, GuidanceTokens, tokens_for
from vdistill.families.scale_branch import ScaleBranch
from vdistill.families.stock import StockFamily

T = torch.tensor([0.3, 0.8])
X = draw(2, CHANNELS, FRAMES, SIDE, SIDE, seed=9)
NAMES = ("ref", "audio")
SCALES = {"ref": torch.tensor([3.0, 1.5]), "audio": torch.tensor([1.0, 2.0])}
ONES = {name: torch.ones(2) for name in NAMES}


def grown(branch: ScaleBranch, seed: int = 0) -> ScaleBranch:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.nn.init.normal_(branch.give.weight, std=0.3)
    return branch


def branching() -> tuple[StockFamily, GuidanceTokens, Cond]:
    """A talking family told scales, with a branch of rank 3."""
    f = family()
    adapters(f, seed=1)
    f.network_of().beside[NAME] = tokens_for(
        f.network_of(), NAMES, {"ref": 4.0, "audio": 4.0}, "token", width=64, rank=3
    )
    tokens = f.network_of().beside[NAME]
    assert isinstance(tokens, GuidanceTokens)
    return f, tokens, told(f)


def test_it_is_its_formula() -> None:
    branch, h, on = grown(ScaleBranch(NAMES, 8, 3)), draw(2, 5, 8, seed=1), torch.tensor([1.0, 1.0])
    asked, given = branch.ask(layer_norm(h, (8,))), branch.give.weight
    expected = torch.zeros(2, 5, 8)
    for c, name in enumerate(NAMES):
        part = slice(3 * c, 3 * c + 3)
        expected += (SCALES[name] - 1).view(2, 1, 1) * silu(asked[..., part]) @ given[:, part].T
    torch.testing.assert_close(branch(h, SCALES, on), expected)
    assert not branch(h, ONES, on).any() and not branch(h, SCALES, torch.tensor([1.0, 0.0]))[1].any()


def test_at_birth_and_at_scales_of_one_it_changes_nothing() -> None:
    with torch.no_grad():
        f, tokens, cond = branching()
        plain = f.net.x0(X, T, cond)
        assert torch.equal(f.net.x0(X, T, tell(cond, SCALES)), plain)
        for i, branch in enumerate(tokens.branches):
            assert isinstance(branch, ScaleBranch)
            grown(branch, i)
        moved = f.net.x0(X, T, tell(cond, SCALES))
        assert float((moved - plain).abs().max()) > 1e-3
        assert torch.equal(f.net.x0(X, T, tell(cond, ONES)), plain)
        off = tell(cond, {**SCALES, ON: torch.tensor([1.0, 0.0])})
        assert torch.equal(f.net.x0(X, T, off)[1], plain[1]) and torch.equal(f.net.x0(X, T, off)[0], moved[0])


def test_every_block_has_one_that_learns_from_the_first_step() -> None:
    f, tokens, cond = branching()
    (f.net.x0(X, T, tell(cond, SCALES)) - 1).square().sum().backward()
    assert len(tokens.branches) == len(f.network_of().blocks())
    for branch in tokens.branches:
        assert isinstance(branch, ScaleBranch)
        grad = branch.give.weight.grad
        assert grad is not None and bool((grad.abs().amax(0) > 0).all())


def test_it_is_kept_with_the_tokens(tmp_path: Path) -> None:
    _, tokens, _ = branching()
    grown(tokens.branches[1])  # type: ignore[arg-type]
    tokens.write(tmp_path)
    again = GuidanceTokens.read(tmp_path)
    assert again is not None and again.size == tokens.size
    h = draw(2, 5, tokens.size.blocks[1], seed=2)
    assert torch.equal(*(each.branches[1](h, SCALES, torch.ones(2)) for each in (tokens, again)))


def test_who_was_taught_without_it_is_not_taught_with_it_further() -> None:
    for mine in (0, 2):
        with pytest.raises(UserError, match=f"taught scales with rank {mine}"):
            with_tokens(taught(rank=mine), scales_spec(rank=3))
        with pytest.raises(UserError, match=f"taught scales with rank {mine}"):
            push_alike(taught(rank=3), taught(rank=mine).net)
    with_tokens(taught(rank=3), scales_spec(rank=3))
    push_alike(taught(rank=3), taught(rank=3).net)
    push_alike(taught(), taught(rank=3).net)
