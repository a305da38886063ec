"""Students that walk straight on: their folder says so, whoever samples from it; codecs take gradients in."""

from __future__ import annotations

from pathlib import Path

import torch
from toys import tiny_family

from vdistill.app.generate import Plan, latents
from vdistill.core.rng import Rng
from vdistill.core.sampling import Deterministic, Renoise
from vdistill.families.few_step import FewStepScheduler, Straight
from vdistill.families.tiny import TinyFamily

TIMES = (1.0, 0.6, 0.3)


def test_a_straight_student_is_sampled_without_fresh_noise_and_another_with(tmp_path: Path) -> None:
    family = tiny_family()
    for name, times in (("straight", Straight(TIMES)), ("plain", TIMES)):
        family.save(family.net, tmp_path / name, times)
    noise = Rng(0).normal("noise", (2, *family.codec.shape(5, 16, 16)))
    cond = family.text(["a red square", "a blue circle"])
    found = {}
    for name in ("straight", "plain"):
        opened = TinyFamily.load(tmp_path / name)
        assert opened.times is not None and isinstance(opened.times, Straight) == (name == "straight")
        assert tuple(opened.times) == TIMES
        found[name] = latents(opened, opened.net, noise, cond, Plan(), opened.times)
    walked = Deterministic()(family.net, noise, cond, Rng(0), TIMES)
    assert torch.allclose(found["straight"], walked, atol=1e-5)
    assert not torch.allclose(found["plain"], walked, atol=1e-2)
    assert found["plain"].shape == Renoise()(family.net, noise, cond, Rng(0), TIMES).shape


def test_the_scheduler_remembers_how_its_times_are_walked() -> None:
    path = tiny_family().schedule
    for times in (Straight(TIMES), TIMES):
        again = FewStepScheduler.of(path, FewStepScheduler.of(path, times, "sample", 1000).trained, "sample", 1000)
        assert again.config.stochastic != isinstance(times, Straight) and type(again.trained) is type(times)


def test_a_gradient_goes_through_encoding_where_it_is_asked_for() -> None:
    codec = tiny_family().codec
    pixels = torch.rand(1, 3, 5, 16, 16).mul(2).sub(1).requires_grad_()
    plain, traced = codec.encode(pixels), codec.encoded(pixels)
    assert torch.equal(plain, traced) and not plain.requires_grad
    (slope,) = torch.autograd.grad(codec.unclipped(traced).sum(), pixels)
    assert torch.allclose(slope, torch.ones_like(slope))
