"""Matching of single frames: blind to motion, exact about each frame, and who learns from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from methods.bed import RF, Asked, affine
from torch import Tensor

from vdistill.core.cond import Cond
from vdistill.core.losses.matching import matching
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.families.analytic import Gaussian, ar1, gaussian
from vdistill.families.analytic_nets import mlp
from vdistill.methods.frame_matching import DecodedFrames, FrameMatching, LatentFrames

ONE = gaussian(RF, 0.0, 1.0)  # the law of every frame of an AR(1) sequence
OFF: Gaussian = gaussian(RF, 0.3, 0.8)


def term(critic: object = ONE, teacher: object = ONE, count: int | None = None) -> FrameMatching:
    return FrameMatching(teacher, critic, affine(1.0), LatentFrames(count))  # type: ignore[arg-type]


def pull(x: Tensor, term: FrameMatching, rng: Rng = Rng(0)) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(term.student(x, Batch(x.detach(), Cond()), rng).total, x)[0]


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_frames_of_the_right_law_are_left_alone_however_they_move(rho: float) -> None:
    x = ar1(RF, 6, rho).sample(32, Rng(1)).double()
    assert pull(x, term()).abs().max() == 0
    assert pull(x, term(OFF)).abs().min() > 0


def test_it_is_the_matching_of_the_frames_as_a_batch_of_images() -> None:
    x, rng = ar1(RF, 3, 0.7).sample(4, Rng(1)).double().requires_grad_(), Rng(0)
    loss = term(OFF).student(x, Batch(x.detach(), Cond()), rng).total
    y = x.movedim(2, 1).reshape(12, 1, 1)
    t, eps = rng.uniform("frames/t", (12,), 0.02, 0.98), rng.normal("frames/eps", (12, 1, 1)).double()
    yt = RF.noise(y, eps, t).detach()
    want = matching(y, ONE.x0(yt, t), OFF.x0(yt, t)).mean()
    assert torch.allclose(loss, want, rtol=1e-12)
    (a,), (b,) = (torch.autograd.grad(each, x, retain_graph=True) for each in (loss, want))
    assert torch.allclose(a, b, rtol=1e-12)


def test_each_frame_is_asked_about_with_the_words_of_its_clip_and_without_what_runs_along_it() -> None:
    teacher = Asked(ONE)
    cond = Cond({"text": torch.arange(3.0).view(3, 1, 1)}, {"audio": torch.zeros(3, 4, 2)})
    x = ar1(RF, 4, 0.7).sample(3, Rng(1))
    term(teacher=teacher, count=2).student(x, Batch(x, cond), Rng(0))
    (shown, t, told), = teacher.calls  # fmt: skip
    assert shown.shape == (6, 1, 1) and t.shape == (6,) and not told.along
    assert told.fields["text"].flatten().tolist() == [0, 0, 1, 1, 2, 2]


def test_drawn_frames_are_frames_of_their_own_clip() -> None:
    x = torch.arange(20.0).view(4, 1, 5)
    some = LatentFrames(3)(x, Rng(0))
    assert some.shape == (4, 3, 1, 1) and all(
        set(some[i].flatten().tolist()) <= set(range(5 * i, 5 * i + 5)) for i in range(4)
    )
    assert torch.equal(LatentFrames()(x, Rng(0)).flatten(1), x.flatten(1))


def test_decoded_frames_are_encoded_one_by_one_and_a_gradient_comes_back() -> None:
    x = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pictures = DecodedFrames(lambda z: 2 * z, lambda y: y / 2, 2)
    found, plain = pictures(x, Rng(0)), LatentFrames(2)(x, Rng(0))
    assert found.shape == (2, 2, 4, 1, 2, 2) and torch.equal(found, plain)
    assert torch.autograd.grad(found.sum(), x)[0].sum() == found.numel()


def test_the_critic_learns_to_denoise_frames_and_nobody_else_does() -> None:
    critic = mlp((1, 1), RF)
    x = ar1(RF, 4, 0.7).sample(8, Rng(1)).requires_grad_()
    watching = replace(term(critic), module=critic)
    loss = watching.watch(x, Batch(x.detach(), Cond()), Rng(0))
    loss.total.backward()
    assert x.grad is None and all(p.grad is not None for p in critic.parameters())
    assert watching.module is critic and loss.parts["frames"] == loss.total.detach()
    x = ar1(RF, 4, 0.7).sample(4000, Rng(1))
    right, off = (term(each).watch(x, Batch(x, Cond()), Rng(0)).total.item() for each in (ONE, OFF))
    assert right < off
