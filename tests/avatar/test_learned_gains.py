"""Gains that are learned: none at scales of 1 and at birth, by place, channel, time and scale where they have grown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from avatar.talk_bed import CHANNELS, FRAMES, SIDE, adapters, draw, family, scales_spec, taught, told
from torch import Tensor

from vdistill.app.build_scales import push_alike, with_tokens
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.plan import GAIN, ON, tell
from vdistill.families.guidance_tokens import NAME, SIZES, GuidanceTokens, tokens_for
from vdistill.families.learned_gains import LearnedGains
from vdistill.families.stock import StockFamily

T = torch.tensor([0.3, 0.8])
X = draw(2, CHANNELS, FRAMES, SIDE, SIDE, seed=9)
NAMES = ("ref", "audio")
SCALES = {"ref": torch.tensor([3.0, 1.5]), "audio": torch.tensor([1.0, 2.0])}
ONES = {name: torch.ones(2) for name in NAMES}


def pushing(slopes: dict[str, float] | None = None) -> tuple[StockFamily, GuidanceTokens, Cond]:
    """A talking family told scales; slopes: the same for all places, channels and times."""
    f = family()
    adapters(f, seed=1)
    tokens = tokens_for(f.network_of(), NAMES, {"ref": 4.0, "audio": 4.0}, "token", width=64, pushed=NAMES)
    assert tokens.gains is not None
    for name, slope in (slopes or {}).items():
        tokens.gains.slopes[name].data[0] = slope / 4
    f.network_of().beside[NAME] = tokens
    return f, tokens, told(f)


def test_they_are_their_formula() -> None:
    gains = LearnedGains(NAMES, 3, 2)
    for name in NAMES:
        torch.nn.init.normal_(gains.slopes[name])
    made = gains(SCALES, T, torch.tensor([1.0, 1.0]))
    for name in NAMES:
        a, t = gains.slopes[name], T.tolist()
        for sample, scale in enumerate(SCALES[name].tolist()):
            slope = sum(4 * float(a[k, 2, 1].detach()) * math.cos(math.pi * k * t[sample]) for k in range(4))
            assert float(made[name][sample, 2, 1].detach()) == pytest.approx(1 + (scale - 1) * slope, abs=1e-5)
        assert torch.equal(gains(ONES, T, torch.ones(2))[name], torch.ones(2, 3, 2))
        assert torch.equal(gains(SCALES, T, torch.tensor([1.0, 0.0]))[name][1], torch.ones(3, 2))
        each = torch.stack([T / 2, T, T / 3], 1)  # a time for each position: the latest is that of the noise
        assert torch.equal(gains(SCALES, each, torch.ones(2))[name], made[name])


def test_at_birth_and_at_scales_of_one_they_change_nothing() -> None:
    with torch.no_grad():
        f, _, cond = pushing()
        plain = f.net.x0(X, T, cond)
        assert torch.equal(f.net.x0(X, T, tell(cond, SCALES)), plain)
        f, _, cond = pushing({"ref": 0.4, "audio": 0.3})
        grown = f.net.x0(X, T, tell(cond, SCALES))
        assert float((grown - plain).abs().max()) > 1e-3
        assert torch.equal(f.net.x0(X, T, tell(cond, ONES)), plain)
        off = tell(cond, {**SCALES, ON: torch.tensor([1.0, 0.0])})
        assert torch.equal(f.net.x0(X, T, off)[1], plain[1]) and torch.equal(f.net.x0(X, T, off)[0], grown[0])


def test_alike_everywhere_they_push_as_one_gain_does() -> None:
    """The same answer as adapters give that are told 1 + a (s - 1), one number a sample."""
    slopes = {"ref": 0.4, "audio": 0.3}
    f, _, cond = pushing(slopes)
    plain = cond
    for name, scale in SCALES.items():
        plain = plain.with_field(f"{GAIN}.{name}", 1 + slopes[name] * (scale - 1))
    with torch.no_grad():
        torch.testing.assert_close(f.net.x0(X, T, tell(cond, SCALES)), f.net.x0(X, T, plain), rtol=1e-5, atol=1e-6)


def test_each_place_is_pushed_by_its_own_and_learns_from_the_first_step() -> None:
    f, tokens, cond = pushing()
    assert tokens.gains is not None

    def answer() -> Tensor:
        return f.net.x0(X, T, tell(cond, SCALES))

    (answer() - 1).square().sum().backward()
    for name in NAMES:
        grad = tokens.gains.slopes[name].grad
        assert grad is not None
        reads = slice(0, 3 if name == "ref" else 2)  # two layers, and the reference where it lies
        assert bool((grad[:, reads].abs().amax(2) > 0).all())
    with torch.no_grad():
        before, found = answer(), []
        for place in range(3):
            tokens.gains.slopes["ref"].zero_()[0, place] = 0.1
            found.append(answer())
    assert all(float((each - before).abs().max()) > 1e-5 for each in found)
    assert float((found[0] - found[1]).abs().max()) > 1e-5 and float((found[1] - found[2]).abs().max()) > 1e-5


def test_they_are_kept_with_the_tokens(tmp_path: Path) -> None:
    _, tokens, _ = pushing({"ref": 0.4})
    tokens.write(tmp_path)
    again = GuidanceTokens.read(tmp_path)
    assert again is not None and again.size == tokens.size and again.gains is not None
    assert torch.equal(again.gains.slopes["ref"], tokens.gains.slopes["ref"])  # type: ignore[union-attr]
    said = tmp_path / SIZES
    said.write_text(said.read_text().replace('"gain": {}', '"gain": {"ref": 0.3}'))
    with pytest.raises(UserError, match="gain of ref: 0.3, and that is learned"):
        GuidanceTokens.read(tmp_path)


def test_who_was_taught_without_gains_is_not_taught_with_them_further() -> None:
    with pytest.raises(UserError, match="taught scales without gains"):
        with_tokens(taught(), scales_spec(gains=True))
    with pytest.raises(UserError, match="taught scales without gains"):
        push_alike(taught(gains=True), taught().net)
    push_alike(taught(gains=True), taught(gains=True).net)
