"""Heads of a learned token, conditions of any name, and the places that count."""

from __future__ import annotations

import pytest
import torch
from contract import REGISTERED, case
from methods.bed import RF
from torch import Tensor, nn

from vdistill.app.build_looks import sight
from vdistill.app.schema_judge import Judge
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.agreement import Told, vectors
from vdistill.discriminators.heads import CrossHeads, Reader, TokenHeads
from vdistill.discriminators.latent import LatentJudge, MotionJudge, factorised_steps, full_steps
from vdistill.discriminators.look import Whole
from vdistill.discriminators.rounds import with_anothers
from vdistill.discriminators.window import Window

T = torch.tensor([0.3, 0.8])


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(module: nn.Module) -> nn.Module:
    """With projections that have learned something."""
    for name, p in module.named_parameters():
        if "told" in name:
            nn.init.normal_(p, generator=torch.Generator().manual_seed(3))
    return module


# -- a token that reads --------------------------------------------------------------------------------------------


def test_a_reader_is_the_attention_of_its_token() -> None:
    torch.manual_seed(0)
    reader, f = Reader(6, 8, 2), rand(3, 5, 6)
    h = reader.norm(f)
    k, v = reader.key(h), reader.value(h)
    heads = []
    for i in (slice(0, 4), slice(4, 8)):
        share = (k[..., i] @ reader.token[i] / 2).softmax(1)
        heads.append((share[..., None] * v[..., i]).sum(1))
    read = reader.token + reader.leave(torch.cat(heads, 1))
    assert torch.allclose(reader(f), read + reader.think(read), atol=1e-6)


def test_a_cross_head_gives_one_logit_a_clip_in_which_every_layer_and_place_has_a_say_in_any_order() -> None:
    torch.manual_seed(0)
    head, seen = CrossHeads([6, 4], 8), [rand(2, 5, 6), rand(2, 7, 4, seed=1)]
    logits = head(seen, T, Cond())
    assert logits.shape == (2, 1)
    shuffled = [f[:, torch.randperm(f.shape[1])] for f in seen]
    assert torch.allclose(head(shuffled, T, Cond()), logits, atol=1e-6)
    leaves = [f.clone().requires_grad_() for f in seen]
    slopes = torch.autograd.grad(head(leaves, T, Cond()).sum(), leaves)
    assert all((slope.abs().amax(-1) > 0).all() for slope in slopes)
    assert (slopes[0][0] != 0).any() and not torch.autograd.grad(head(leaves, T, Cond())[0].sum(), leaves)[0][1].any()


# -- conditions of any name -----------------------------------------------------------------------------------------


def test_conditions_become_vectors_by_their_shape() -> None:
    cond = Cond(
        {
            "one": rand(2),
            "ref": rand(2, 3, 4, 4),
            "clip": rand(2, 3, 5, 4, 4),
            "words": rand(2, 4, 6),
            "words.mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
            "label": torch.tensor([1, 2]),
        },
        {"audio": rand(2, 3, 8, 5)},
    )
    assert vectors(cond, "one").shape == (2, 1) and vectors(cond, "clip").shape == (2, 12)
    assert torch.allclose(vectors(cond, "ref")[1].view(3, 2, 2)[:, 0, 1], cond.fields["ref"][1, :, :2, 2:].mean((1, 2)))
    assert torch.allclose(vectors(cond, "words")[0], cond.fields["words"][0, :2].mean(0))
    assert torch.equal(vectors(cond, "audio"), cond.along["audio"].flatten(2))
    with pytest.raises(UserError, match="no condition 'sound'; the clips have audio, clip, label, one, ref, words"):
        vectors(cond, "sound")
    with pytest.raises(UserError, match="label is the number of a class"):
        vectors(cond, "label")


def judges(told: Told) -> dict[str, tuple[nn.Module, list[Tensor]]]:
    """Judges of 6 latent frames of 8 x 8, with what each is shown."""
    x, torch_seed = rand(2, 4, 6, 8, 8), torch.manual_seed(0)
    assert torch_seed
    return {
        "latent": (awake(LatentJudge(4, full_steps(8), 8, [told])), [x]),
        "motion": (awake(MotionJudge(LatentJudge(4, factorised_steps(8), 8, [told]))), [x]),
        "tokens": (awake(TokenHeads([4], 8, [told])), [x.flatten(2).transpose(1, 2)]),
        "cross": (awake(CrossHeads([4], 8, [told])), [x.flatten(2).transpose(1, 2)]),
    }


@pytest.mark.parametrize("kind", ["latent", "motion", "tokens", "cross"])
def test_sound_at_a_latent_frame_moves_the_logits_of_that_time_alone(kind: str) -> None:
    judge, seen = judges(Told("audio", 10))[kind]
    audio = rand(2, 6, 2, 5)
    other = audio.clone()
    other[:, 5] = rand(2, 2, 5, seed=9)
    moved = (judge(seen, T, Cond({}, {"audio": audio})) - judge(seen, T, Cond({}, {"audio": other}))).abs() > 1e-7
    if kind == "cross":
        assert moved.all()  # it has one logit, told of the mean
        return
    rows = {"latent": 3, "motion": 3, "tokens": 6}[kind]
    moved = moved.view(2, rows, -1)
    assert moved[:, -1].all() and not moved[:, : -1 if kind != "motion" else 1].any()


def test_a_patch_along_the_clip_pools_the_sound_of_its_frames() -> None:
    told = Told("audio", 5, 2)
    judge, f = awake(TokenHeads([4], 8, [told])), rand(2, 3 * 4, 4)
    audio = rand(2, 6, 5)
    norm = judge.agree[0].norm  # type: ignore[union-attr,index]
    first = torch.stack([norm(audio[:, 0]), norm(audio[:, 1])], 1).mean(1)
    h = judge.heads[0][:-1](f)  # type: ignore[index]
    want = judge.heads[0][-1](h)[:, 0, 0] + (judge.agree[0].told(first) * h[:, 0]).sum(1) / 8**0.5  # type: ignore[union-attr,index]
    assert torch.allclose(judge([f], T, Cond({}, {"audio": audio}))[:, 0], want, atol=1e-5)
    with pytest.raises(UserError, match="13 places do not divide into the 3 positions of audio"):
        judge([rand(2, 13, 4)], T, Cond({}, {"audio": audio}))


def test_several_conditions_add_up() -> None:
    f, cond = rand(2, 6, 4), Cond({"text": rand(2, 3, 5), "ref": rand(2, 2, 4, 4)})
    torch.manual_seed(0)
    both = awake(TokenHeads([4], 8, [Told("text", 5), Told("ref", 8)]))
    said = both([f], T, cond)
    h = both.heads[0][:-1](f)  # type: ignore[index]
    parts = [agree(h, cond) for agree in both.agree[0].each]  # type: ignore[union-attr,index]
    assert torch.allclose(said, both.heads[0][-1](h)[..., 0] + parts[0] + parts[1], atol=1e-6)  # type: ignore[index]


def test_mismatched_pairs_may_differ_in_one_condition_alone() -> None:
    cond = Cond({"text": rand(2, 3, 5), "ref": rand(2, 2)}, {"audio": rand(2, 6, 5), "audio.on": torch.ones(2, 6)})
    other = with_anothers(cond, ["audio"])
    assert (
        torch.equal(other.along["audio"], cond.along["audio"].flip(0)) and other.fields["text"] is cond.fields["text"]
    )
    every = with_anothers(cond)
    assert torch.equal(every.fields["text"], cond.fields["text"].flip(0))
    assert torch.equal(every.fields["ref"], cond.fields["ref"].flip(0))


def test_a_judge_told_of_the_sound_learns_that_it_must_fit() -> None:
    """Real clips whose frames are as bright as the sound is loud, and generated ones that are real too: only the
    mismatched pairs give it something to learn."""
    torch.manual_seed(0)
    judge = LatentJudge(1, full_steps(8), 8, [Told("audio", 2)])
    term = Adversarial(Whole(), RF, judge, watch_weight=1.0, mismatched=True, swapped=("audio",))
    optim = torch.optim.Adam(judge.parameters(), 1e-2)
    costs = []
    for step in range(120):
        loud = torch.sign(Rng(step).normal("loud", (16, 1)))
        x = loud.view(16, 1, 1, 1, 1).expand(16, 1, 4, 4, 4) + 0.1 * Rng(step).normal("x", (16, 1, 4, 4, 4))
        audio = torch.stack([loud, -loud], -1).expand(16, 4, 2)
        batch = Batch(x, Cond({}, {"audio": audio}))
        loss = term.watch(x, batch, Rng(step)).total
        optim.zero_grad()
        loss.backward()
        optim.step()
        costs.append(loss.item())
    blind = 2 * torch.tensor(2.0).log().item()
    assert sum(costs[-20:]) / 20 < blind - 0.1 and abs(costs[0] - blind) < 0.2


# -- the places that count ------------------------------------------------------------------------------------------


def test_the_window_counts_the_last_latent_frames_alone() -> None:
    torch.manual_seed(0)
    judge = LatentJudge(4, full_steps(8), 8)
    at = Window(lambda shape: [judge.grid(shape)], last=2)(rand(2, 4, 8, 8, 8), Batch(rand(2, 4, 8, 8, 8), Cond()))
    assert at.view(2, 4, 2, 2)[0, :, 0, 0].tolist() == [0, 0, 0, 1]
    x = rand(2, 4, 16, 8, 8).requires_grad_()
    term = Adversarial(Whole(), RF, judge, where=Window(lambda shape: [judge.grid(shape)], last=2))
    (slope,) = torch.autograd.grad(term.student(x, Batch(x.detach(), Cond()), Rng(0)).total, x)
    moved = (slope != 0).flatten(3).any(-1).any(1)
    assert moved[:, -2:].all() and not moved[:, :10].any()
    every = Window(lambda shape: [judge.grid(shape)], last=99)(x, Batch(x, Cond()))
    assert torch.equal(every, torch.ones(2, 32))


@pytest.mark.parametrize("place", ["regions", "fields", "along"])
def test_a_region_weighs_places_wherever_it_comes_from(place: str) -> None:
    mask = torch.zeros(2, 1, 4, 8, 8)
    mask[0, :, :, :4, 4:] = 1  # the upper right of the first clip
    x = rand(2, 4, 4, 8, 8)
    batch = {
        "regions": Batch(x, Cond(), regions={"lip": mask}),
        "fields": Batch(x, Cond({"lip": mask[:, 0]})),
        "along": Batch(x, Cond({}, {"lip": mask[:, 0]})),
    }[place]
    at = Window(lambda shape: [(2, 2, 2), (4, 8, 8)], region="lip")(x, batch)
    assert at[0, :8].tolist() == [0, 1, 0, 0] * 2 and not at[1].any()
    assert torch.equal(at[0, 8:].view(4, 8, 8), mask[0, 0])
    assert Window(lambda shape: [(1, 1, 1)], region="face")(x, batch).tolist() == [[1], [1]]  # there is none
    half = Window(lambda shape: [(4, 1, 1)], last=1, region="lip")(x, batch)
    assert half[0].tolist() == [0, 0, 0, 0.25]


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
@pytest.mark.parametrize("size", [3, 8, 10])
def test_the_grid_of_a_latent_judge_is_that_of_its_logits(frames: int, size: int) -> None:
    for steps in (full_steps, factorised_steps):
        judge, x = LatentJudge(2, steps(8), 8), rand(1, 2, frames, size, size + 1)
        assert judge([x], T[:1], Cond()).shape[1] == torch.tensor(judge.grid(x.shape)).prod()
        if frames > 1:
            motion = MotionJudge(judge)
            assert motion([x], T[:1], Cond()).shape[1] == torch.tensor(motion.grid(x.shape)).prod()


@pytest.mark.parametrize("variant", [v for v in REGISTERED if v not in ("sd15", "sdxl", "animatediff")])
def test_the_grid_of_tokens_is_that_of_the_network_in_every_family(variant: str) -> None:
    c = case(variant)
    seen = sight(Judge(features="teacher", layers=(0, 1)), c.family.net, c.family.net)
    x = c.noise()
    assert seen.grids is not None
    with torch.no_grad():
        shown = seen.look(x, T[:1], c.cond)
    assert [f.shape[1] for f in shown] == [t * h * w for t, h, w in seen.grids(x.shape)]


@pytest.mark.parametrize("variant", ["sd15", "animatediff"])
def test_a_unet_has_no_even_grid(variant: str) -> None:
    net = case(variant).family.net
    assert sight(Judge(features="teacher", layers=(0, 1)), net, net).grids is None
