"""Faults: what the record says is what was done."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from vdistill.core.rng import Rng
from vdistill.worlds.talker import damage
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.sound_faults import MARGIN, Set
from vdistill.worlds.talker.talker import Talker

T = 33


def pair(index: int, size: int = 32, **chances: float) -> tuple[Clip, Clip]:
    """A clip without faults and the same clip with these."""
    return (Talker("mq", size, T, damage=chosen).clip(index) for chosen in ({}, chances))  # type: ignore[return-value]


@pytest.mark.parametrize("index", range(4))
def test_sound_that_is_k_frames_late_is_the_true_sound_k_frames_late(index: int) -> None:
    clean, late = pair(index, 16, desync=1.0)
    k = int(str(late.damage["desync"]))  # type: ignore[index]
    assert 2 <= abs(k) <= MARGIN and clean.damage == {}
    n = 640 * abs(k)
    truth, heard = (clean.sound, late.sound) if k > 0 else (late.sound, clean.sound)
    assert torch.equal(heard[n:], truth[:-n]) and torch.equal(late.frames, clean.frames)
    true = next(p for a, b, p in clean.phonemes if a <= 0.6 < b)
    assert true == next(p for a, b, p in late.phonemes if a <= 0.6 + k / 25 < b)


def test_wrong_sound_is_somebody_elses() -> None:
    clean, wrong = pair(1, 16, wrong=1.0)
    assert wrong.voice == wrong.damage["wrong"] != clean.voice  # type: ignore[index]
    assert not torch.equal(wrong.sound, clean.sound) and torch.equal(wrong.mouth, clean.mouth)
    assert len(wrong.sound) == len(clean.sound) and wrong.text != clean.text


def test_silence_is_silent_and_lips_still_move() -> None:
    clean, silent = pair(1, 16, silent=1.0)
    assert float(silent.sound.abs().max()) == 0 and silent.text == "" and [p for *_, p in silent.phonemes] == [""]
    assert torch.equal(silent.frames, clean.frames)


@pytest.mark.parametrize("name", ["babble", "hiss"])
def test_backgrounds_are_as_loud_as_recorded(name: str) -> None:
    clean, noisy = pair(0, 16, **{name: 1.0})
    ratio = clean.sound.square().mean() / (noisy.sound - clean.sound).square().mean()
    assert 10 * math.log10(ratio) == pytest.approx(noisy.damage[name], abs=0.3)  # type: ignore[index]


def test_dropped_frames_take_the_truth_with_them() -> None:
    clean, torn = pair(2, drops=1.0)
    shown = torch.tensor(torn.damage["drops"])  # type: ignore[index]
    assert len(shown) == T and not torch.equal(shown, torch.arange(T)) and bool((shown.diff() >= 0).all())
    assert torch.equal(torn.frames, clean.frames[:, shown]) and torch.equal(torn.mouth, clean.mouth[shown])
    assert torch.equal(torn.masks["lip"], clean.masks["lip"][shown]) and torch.equal(torn.sound, clean.sound)


def test_a_trembling_crop_moves_picture_masks_box_and_pose_alike() -> None:
    clean, moved = pair(0, 64, crop=1.0)
    shift = torch.tensor(moved.damage["crop"])  # type: ignore[index]
    assert torch.allclose(moved.box - clean.box, shift.repeat(1, 2), atol=1e-4)
    assert torch.allclose((moved.pose - clean.pose)[:, :2] * 64, shift, atol=1e-4)
    steps = torch.arange(64) + 0.5

    def middle(clip: Clip) -> torch.Tensor:
        mask = clip.masks["lip"]
        return torch.stack([(mask.sum(1) * steps).sum(1), (mask.sum(2) * steps).sum(1)], 1) / mask.sum((1, 2))[:, None]

    assert torch.allclose(middle(moved) - middle(clean), shift, atol=0.05)


def test_an_occluder_hides_pixels_and_masks_while_it_is_there() -> None:
    clean, hidden = pair(0, occluder=1.0)
    said = hidden.damage["occluder"]  # type: ignore[index]
    there = torch.arange(T)
    there = (there >= said["first"]) & (there <= said["last"])  # type: ignore[index]
    changed = (hidden.frames - clean.frames).abs().amax((0, 2, 3)) > 0
    assert torch.equal(changed, there)
    assert bool((hidden.masks["face"].sum((1, 2)) < clean.masks["face"].sum((1, 2)) - 4)[there].all())


def test_light_flickers_by_the_recorded_gains() -> None:
    clean, lit = pair(0, exposure=1.0)
    gain = torch.tensor(lit.damage["exposure"])  # type: ignore[index]
    wanted = ((clean.frames + 1) * gain[:, None, None] - 1).clamp(-1, 1)
    assert torch.allclose(lit.frames, wanted, atol=1e-5) and float(gain.std()) > 0.02


def test_noise_is_as_strong_as_recorded() -> None:
    clean, grainy = pair(0, noise=1.0)
    inner = clean.frames.abs() < 0.4
    spread = (grainy.frames - clean.frames)[inner].std()
    assert float(spread) == pytest.approx(grainy.damage["noise"], rel=0.05)  # type: ignore[index]
    assert float((grainy.reference - clean.reference).std()) > 0.02


@pytest.mark.parametrize("name", ["blur", "rescale", "codec"])
def test_poor_pictures_lose_detail_and_keep_the_truth(name: str) -> None:
    clean, poor = pair(3, 64, **{name: 1.0})

    def detail(clip: Clip) -> float:
        return float(clip.frames.diff(dim=-1).square().mean())

    assert poor.frames.shape == clean.frames.shape and torch.equal(poor.mouth, clean.mouth)
    assert not torch.equal(poor.reference, clean.reference) and torch.equal(poor.sound, clean.sound)
    away = (poor.frames - clean.frames).abs().mean()
    assert 0.005 < float(away) < 0.15
    if name != "codec":
        assert detail(poor) < 0.8 * detail(clean)
        assert torch.allclose(poor.frames.mean((2, 3)), clean.frames.mean((2, 3)), atol=0.03)


def test_faults_befall_clips_as_often_as_asked() -> None:
    world = Talker("mq", 16, 5)
    clip = Talker("hq", 16, 5).clip(0)
    act, start = world.performance(0)
    scene = Set(act, start, lambda rng, frames: act.speech)
    chances = {"desync": 0.3, "wrong": 0.1, "silent": 0.05, "hiss": 0.5, "noise": 0.2, "drops": 0.6, "blur": 0.0}
    count, n = Counter[str](), 1500
    for i in range(n):
        found = damage.damaged(clip, scene, Rng(0, i), chances).damage or {}
        count.update(list(found))
        assert len({"desync", "wrong", "silent"} & set(found)) <= 1
    chances["hiss"] *= 0.95  # silence has no noise
    for name, chance in chances.items():
        assert count[name] / n == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / n) + 1e-9), name


def test_every_bad_clip_is_useless_in_its_own_way() -> None:
    world = Talker("bad", 32, 17)
    clips = [world.clip(i) for i in range(len(damage.BAD))]
    assert [next(iter(clip.damage or {})) for clip in clips] == list(damage.BAD)
    by = dict(zip(damage.BAD, clips, strict=True))
    assert abs(int(str(by["desync"].damage["desync"]))) >= 6  # type: ignore[index]
    assert float(by["still"].frames.diff(dim=1).abs().max()) == 0
    assert float(by["blank"].frames.std()) == 0 and float(by["hidden"].masks["face"].max()) == 0
    assert float(by["silent"].sound.abs().max()) == 0
