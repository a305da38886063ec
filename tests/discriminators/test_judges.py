"""Judges: what each can and cannot see, whose graph is kept, what weights and mismatched pairs do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from methods.bed import RF
from torch import Tensor, nn
from toys import captions, shapes_source, tiny_family

from vdistill.core.cond import Cond
from vdistill.core.losses.gan import feature_gap, student_loss, watch_loss
from vdistill.core.rng import Rng
from vdistill.core.step import Batch, Loss
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.augment import AUGMENTS, in_turn
from vdistill.discriminators.balance import GradientRatio
from vdistill.discriminators.bands import Bands
from vdistill.discriminators.heads import TokenHeads
from vdistill.discriminators.latent import LatentJudge, MotionJudge, factorised_steps, full_steps
from vdistill.discriminators.look import Taps, Whole

T = torch.tensor([0.3, 0.8])
TEXT = Cond({"text": torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))})


def clips(frames: int = 3, size: int = 8, channels: int = 4) -> Tensor:
    return torch.randn(2, channels, frames, size, size, generator=torch.Generator().manual_seed(0))


def judges(text: int = 0) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "latent": LatentJudge(4, full_steps(8), 8, text),
        "factorised": LatentJudge(4, factorised_steps(8), 8, text),
        "motion": MotionJudge(LatentJudge(4, factorised_steps(8), 8, text)),
    }


@pytest.mark.parametrize("kind", ["latent", "factorised", "motion"])
def test_logits_are_one_for_each_place_and_depend_on_the_time(kind: str) -> None:
    judge = judges()[kind]
    logits = judge([clips()], T, Cond())
    assert logits.shape == (2, 2 * 2 * (1 if kind == "motion" else 2))
    assert not torch.equal(logits, judge([clips()], T / 2, Cond()))
    if kind != "motion":
        assert judge([clips(1)], T, Cond()).shape == (2, 4)  # an image


def test_the_motion_judge_does_not_see_what_stands_still() -> None:
    judge, x = judges()["motion"], clips()
    still = torch.randn(2, 4, 1, 8, 8)
    want = judge([x], T, Cond())
    assert torch.allclose(judge([x + still], T, Cond()), want, rtol=0, atol=1e-5)
    assert (judge([x + still * torch.tensor([0.0, 1.0, 2.0])[:, None, None]], T, Cond()) - want).abs().max() > 1e-3
    sees = judges()["factorised"]
    assert (sees([x + still], T, Cond()) - sees([x], T, Cond())).abs().max() > 1e-3


def test_a_logit_answers_for_its_neighbourhood_only() -> None:
    x, other = clips(9, 32), clips(9, 32)
    other[:, :, 8, 31, 31] += 10
    for judge in (judges()["latent"], judges()["factorised"]):
        moved = (judge([x], T, Cond()) - judge([other], T, Cond())).abs() > 0
        assert 0 < moved.sum() < moved.numel() / 4 and not moved[:, 0].any()


@pytest.mark.parametrize("kind", ["latent", "tokens"])
def test_the_text_counts_by_its_mean_once_the_projection_has_learned(kind: str) -> None:
    judge = judges(6)["latent"] if kind == "latent" else TokenHeads([4, 4], 8, 6)
    seen = [clips()] if kind == "latent" else [clips().flatten(2).transpose(1, 2)] * 2
    rolled = TEXT.select(torch.tensor([1, 0]))
    assert torch.equal(judge(seen, T, TEXT), judge(seen, T, rolled))  # nothing at birth
    for name, p in judge.named_parameters():
        if "told" in name:
            nn.init.normal_(p)
    assert not torch.allclose(judge(seen, T, TEXT), judge(seen, T, rolled))
    shuffled = Cond({"text": TEXT.fields["text"].flip(1)})
    assert torch.allclose(judge(seen, T, TEXT), judge(seen, T, shuffled), atol=1e-5)
    padded = {"text": torch.cat([TEXT.fields["text"], torch.ones(2, 2, 6)], 1)}
    padded["text.mask"] = torch.tensor([1, 1, 1, 1, 1, 0, 0]).expand(2, 7)
    assert torch.allclose(judge(seen, T, TEXT), judge(seen, T, Cond(padded)), atol=1e-5)


def test_every_band_of_noise_is_judged_by_its_own() -> None:
    torch.manual_seed(0)
    each = [TokenHeads([4], 8) for _ in range(3)]
    judge, t = Bands(each, 0.1, 0.7), torch.tensor([0.1, 0.29, 0.31, 0.49, 0.51, 0.69, 0.05, 0.95])
    seen = [torch.randn(8, 5, 4)]
    alone = [j(seen, t, Cond()) for j in each]
    want = torch.stack([alone[k][i] for i, k in enumerate([0, 0, 1, 1, 2, 2, 0, 2])])
    assert torch.equal(judge(seen, t, Cond()), want)
    judge([seen[0][:2]], t[:2], Cond()).sum().backward()
    moved = [any((p.grad != 0).any() for p in j.parameters() if p.grad is not None) for j in each]
    assert moved == [True, False, False] and all(p.grad is not None for p in judge.parameters())


# -- weights of positions ------------------------------------------------------------------------------------------


def test_weights_of_positions_are_those_of_a_mean() -> None:
    real, fake = torch.randn(3, 4), torch.randn(3, 4)
    at = torch.tensor([[1.0, 1, 1, 1], [0, 2, 0, 0], [0, 0, 0, 0]])
    plain, one = student_loss(fake), student_loss(fake[1:2, 1:2])
    assert torch.allclose(student_loss(fake, at=at), torch.stack([plain[0], one[0], torch.tensor(0.0)]))
    assert torch.allclose(watch_loss(real, fake, at=torch.ones(3, 4)), watch_loss(real, fake))


def test_a_masked_region_gets_no_gradient() -> None:
    x = clips(1, 16).requires_grad_()
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., :2] = 1  # the left half
    term = Adversarial(Whole(), RF, judges()["latent"], where=lambda x, batch: mask.flatten(1))
    (pull,) = torch.autograd.grad(term.student(x, Batch(clips(1, 16), Cond()), Rng(0)).total, x)
    assert (pull[..., :4] != 0).any() and not (pull[..., 12:] != 0).any()


# -- features, levels, pairs -----------------------------------------------------------------------------------------


def toy(frozen: bool, **more: object) -> tuple[Adversarial, Batch, nn.Module]:
    family = tiny_family()
    net = family.net.requires_grad_(not frozen)
    torch.manual_seed(0)
    heads = TokenHeads([16, 16], 8)
    term = Adversarial(Taps(net, (0, 1), frozen), family.net.schedule, heads, 1.0, 1.0, **more)  # type: ignore[arg-type]
    return term, shapes_source(family)(0, 0), net


def test_a_frozen_teacher_gives_the_sample_a_gradient_and_keeps_no_graph_for_the_judge() -> None:
    term, batch, net = toy(True)
    x = batch.x.clone().requires_grad_()
    (pull,) = torch.autograd.grad(term.student(x, batch, Rng(0)).total, x)
    assert (pull != 0).any()
    net.requires_grad_(True)  # even then
    level = next(term._levels(batch.x, batch.cond, Rng(0)))
    assert not any(f.requires_grad for f in level.show(batch.x))
    assert all(f.requires_grad for f in level.show(x))
    term.watch(x, batch, Rng(0)).total.backward()
    assert all(p.grad is None for p in net.parameters()) and x.grad is None
    assert all(p.grad is not None for p in term.module.parameters())


def test_a_shared_critic_learns_with_the_judge() -> None:
    term, batch, net = toy(False)
    term.watch(batch.x + 1, batch, Rng(0)).total.backward()
    assert any(p.grad is not None and (p.grad != 0).any() for p in net.parameters())


def test_levels_are_averaged_and_the_first_is_the_one_there_was() -> None:
    one, batch, _ = toy(True)
    two, _, _ = toy(True, levels=2)
    x = batch.x + 0.3
    first, second = two._levels(x, batch.cond, Rng(0))
    (alone,) = one._levels(x, batch.cond, Rng(0))
    assert (
        torch.equal(first.t, alone.t) and torch.equal(first.noise, alone.noise) and not torch.equal(first.t, second.t)
    )
    with torch.no_grad():
        costs = [student_loss(level.ask(x).logits).mean() for level in (first, second)]
        assert two.student(x, batch, Rng(0)).total.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-6)


def test_equal_samples_cannot_be_told_apart_and_the_log_says_so() -> None:
    term, batch, _ = toy(True, features=1.0)
    parts = term.watch(batch.x, batch, Rng(0)).parts
    assert parts["told_apart"] == 0.5 and parts["logit_gap"] == 0
    assert term.student(batch.x, batch, Rng(0)).parts["features"] == 0
    assert term.watch(batch.x + 1, batch, Rng(0)).parts["logit_gap"] != 0


def test_another_clips_text_is_a_fake() -> None:
    family = tiny_family()
    batch = shapes_source(family)(0, 0)

    class Knows(nn.Module):
        """Real is what comes with the text it was made with."""

        def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
            right = (cond.fields["text"] == batch.cond.fields["text"]).flatten(1).all(1)
            return torch.where(right, 8.0, -8.0)[:, None]

    def cost(mismatched: bool) -> float:
        term = Adversarial(Whole(), RF, Knows(), watch_weight=1.0, mismatched=mismatched)
        return float(term.watch(batch.x, batch, Rng(0)).total)

    assert len(set(captions())) > 1 and not torch.equal(*batch.cond.fields["text"])
    low = 2 * torch.nn.functional.softplus(torch.tensor(-8.0)).item()
    assert cost(True) == pytest.approx((cost(False) + low) / 2, rel=1e-5) and cost(False) > 8


def test_feature_matching_counts_means_in_units_of_the_real_spread() -> None:
    real = torch.randn(4, 50, 3)
    assert feature_gap([real], [real.flip(0)]) < 1e-10
    assert feature_gap([real * 3], [real * 3 + 6 * real.flatten(0, 1).std(0, unbiased=False)]).item() == pytest.approx(
        4, rel=1e-3
    )


# -- augmentation, balance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTS)
def test_augmentation_is_linear_the_same_for_both_and_the_same_along_a_clip(name: str) -> None:
    change, a, b = AUGMENTS[name], clips(), clips().flip(0)
    assert torch.allclose(change(a + 2 * b, Rng(3)), change(a, Rng(3)) + 2 * change(b, Rng(3)), atol=1e-6)
    still = a[:, :, :1].expand_as(a)
    assert (change(still, Rng(3)).diff(dim=2) == 0).all()
    assert any(not torch.equal(change(a, Rng(i)), a) for i in range(4))
    x = a.clone().requires_grad_()
    assert torch.autograd.grad(in_turn([change])(x, Rng(0)).sum(), x)[0].isfinite().all()


def test_a_shift_moves_by_whole_places_and_brings_zeros() -> None:
    x = torch.arange(1.0, 65).view(1, 1, 1, 8, 8)
    seen = {tuple(AUGMENTS["shift"](x, Rng(i)).flatten().tolist()) for i in range(60)}
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1))
    want = {tuple(wide[..., i : i + 8, j : j + 8].flatten().tolist()) for i in range(3) for j in range(3)}
    assert seen == want


def test_the_judge_pulls_its_share_and_the_sum_of_gradients_is_handed_on() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    x = z * 2
    a, b = torch.randn(4, 3), torch.randn(4, 3)

    def losses() -> tuple[Loss, Loss]:
        return Loss((x * a).sum(), {"gap": torch.tensor(1.0)}), Loss((x * b).sum() * 5, {"gan": torch.tensor(2.0)})

    plain, shared = GradientRatio()(x, *losses()), GradientRatio(0.25)(x, *losses())
    assert plain.total.item() == pytest.approx(sum(loss.total.item() for loss in losses()), rel=1e-5)
    assert set(plain.parts) == {"gap", "gan", "pull"}
    assert plain.parts["pull"].item() == pytest.approx((5 * b.norm() / a.norm()).item(), rel=1e-5)
    assert shared.parts["pull"].item() == pytest.approx(0.25, rel=1e-5)
    (by_plain,) = torch.autograd.grad(plain.total, z, retain_graph=True)
    (by_share,) = torch.autograd.grad(shared.total, z)
    assert torch.allclose(by_plain, 2 * (a + 5 * b), atol=1e-5)
    assert torch.allclose(by_share, 2 * (a + 0.25 * b * a.norm() / b.norm()), atol=1e-5)


def test_logits_keep_their_digits_under_autocast() -> None:
    term, batch, _ = toy(True)
    plain = term.watch(batch.x, batch, Rng(0)).total.item()
    with torch.autocast("cpu", torch.bfloat16):
        level = next(term._levels(batch.x, batch.cond, Rng(0)))
        logits = level.ask(batch.x).logits
        assert logits.dtype == torch.float32 and not torch.equal(logits, logits.bfloat16().float())
        assert term.watch(batch.x, batch, Rng(0)).total.item() == pytest.approx(plain, rel=1e-3)
