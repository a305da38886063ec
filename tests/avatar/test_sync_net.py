"""The small sync network sees windows and nothing else; its Term pulls at the sample and never at the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import tiny_family

from vdistill.avatar.sync import DecodedSync, agreement, mel_of
from vdistill.avatar.sync_net import MOUTH, MiniSyncNet, contrast, load_sync_net, mouth_crops, save_sync_net
from vdistill.avatar.windows import Windows
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.inputs import Generated, NoiseOnly
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.methods.dmd2 import Dmd2, Dmd2Config

BANDS, T = 20, 13


def net() -> MiniSyncNet:
    torch.manual_seed(0)
    return MiniSyncNet(BANDS, 16)


def pair() -> tuple[Tensor, Tensor]:
    rng = Rng(3)
    return rng.normal("x", (2, 3, T, 32, 32)).clamp(-1, 1), rng.normal("mel", (2, 4 * T, BANDS))


def test_a_window_sees_its_five_frames_and_its_twenty_mel_steps_and_nothing_else() -> None:
    model, (x, mel) = net(), pair()
    crops = mouth_crops(x)
    seen, heard = model(crops, mel)
    assert seen.shape == heard.shape == (2, T - 4, 16)
    for i in (0, 3, T - 5):
        assert torch.allclose(model.look(crops[:, :, i : i + 5])[:, 0], seen[:, i], atol=1e-6)
        assert torch.allclose(model.listen(mel[:, 4 * i : 4 * i + 20])[:, 0], heard[:, i], atol=1e-6)
    assert torch.allclose(seen.norm(dim=-1), torch.ones(2, T - 4))


def test_a_crop_of_the_crop_size_is_the_picture_itself() -> None:
    x = Rng(0).normal("x", (2, 3, 2, 24, 32))
    assert torch.allclose(mouth_crops(x, torch.tensor([[0.0, 0, 1, 1]]).expand(2, 4)), x, atol=1e-5)


def test_a_box_of_every_frame_moves_with_it() -> None:
    x = Rng(0).normal("x", (1, 3, 2, 64, 64))
    moved = torch.stack([x[:, :, 0], x[:, :, 0].roll(4, -1)], 2)
    box = torch.tensor([MOUTH, (MOUTH[0] + 4 / 64, MOUTH[1], MOUTH[2] + 4 / 64, MOUTH[3])])[None]
    crops = mouth_crops(moved, box)
    assert torch.allclose(crops[:, :, 0], crops[:, :, 1], atol=1e-4)


def test_contrast_of_perfect_pairs_is_zero_and_of_equal_ones_is_the_logarithm_of_their_number() -> None:
    perfect = torch.eye(6)[None]
    assert contrast(perfect, perfect, 100.0) < 1e-6
    same = torch.ones(1, 6, 1)
    assert torch.allclose(contrast(same, same, 5.0), torch.tensor(6.0).log())


def test_mel_steps_come_back_out_of_the_windows_of_latent_positions() -> None:
    features = torch.arange(13 * 8.0).view(1, 13, 8)  # 13 frames of 4 steps of 2 bands
    for windows in (Windows(), Windows(ahead=0), Windows(ahead=4)):
        assert torch.equal(mel_of(windows(features), windows), features.view(1, 52, 2))
        with_past = mel_of(windows(features, 3, start=2), windows)
        assert torch.equal(with_past, features[:, 2:11].reshape(1, 36, 2))


def batch_of(x: Tensor, mel: Tensor) -> Batch:
    windows = Windows()
    return Batch(x, Cond(along={"audio": windows(mel.unflatten(1, (T, 4)).flatten(2))}))


def term_of(model: MiniSyncNet, **more: object) -> DecodedSync:
    return DecodedSync(model, lambda z: 2 * z, lambda b: mel_of(b.cond.along["audio"], Windows()), **more)  # type: ignore[arg-type]


def test_the_gradient_reaches_the_sample_and_never_the_network() -> None:
    model, (x, mel) = net(), pair()
    sample = (x / 2).requires_grad_()
    loss = term_of(model, weight=0.5, enough=1.0).student(sample, batch_of(x, mel), Rng(0))
    cosine = agreement(model, mouth_crops(x), mel)
    assert torch.allclose(loss.total, 0.5 * (1 - cosine.mean()))
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert sample.grad is not None and sample.grad.abs().max() > 0
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    rows = sample.grad.abs().sum((0, 1, 2, 4))
    assert rows[:16].max() == 0 < rows[20:26].min()


def test_descending_the_term_brings_picture_and_sound_together() -> None:
    model, (x, mel) = net(), pair()
    sample, batch = (x / 2).clone().requires_grad_(), batch_of(x, mel)
    term, losses = term_of(model, weight=1.0, enough=1.0), []
    for _ in range(8):
        loss = term.student(sample, batch, Rng(0)).total
        (slope,) = torch.autograd.grad(loss, sample)
        losses.append(float(loss.detach()))
        sample = (sample.detach() - 0.1 * slope.sign()).requires_grad_()
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.05


def test_samples_without_sound_ask_for_nothing() -> None:
    model, (x, mel) = net(), pair()
    sample = (x / 2).requires_grad_()
    heard = term_of(model, on=lambda b: torch.tensor([1.0, 0.0]))
    heard.student(sample, batch_of(x, mel), Rng(0)).total.backward()  # type: ignore[no-untyped-call]
    assert sample.grad is not None and sample.grad[0].abs().max() > 0 == sample.grad[1].abs().max()


def test_a_sample_that_agrees_enough_is_left_alone() -> None:
    model, (x, mel) = net(), pair()
    sample, batch = (x / 2).requires_grad_(), batch_of(x, mel)
    reached = agreement(model, mouth_crops(x), mel).mean(1)
    between = float(reached.mean().detach())
    (slope,) = torch.autograd.grad(term_of(model, enough=between).student(sample, batch, Rng(0)).total, sample)
    better = int(reached.argmax())
    assert slope[better].abs().max() == 0 < slope[1 - better].abs().max()


def test_the_term_has_nothing_to_train() -> None:
    model, (x, mel) = net(), pair()
    assert term_of(model).module is None
    assert term_of(model).watch(x, batch_of(x, mel), Rng(0)).total == 0


def test_a_saved_network_comes_back_frozen(tmp_path: Path) -> None:
    model = net()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.half().float())
    save_sync_net(model, tmp_path / "net.safetensors")
    back = load_sync_net(tmp_path / "net.safetensors")
    crops, mel = mouth_crops(pair()[0]), pair()[1]
    assert all(torch.equal(a, b) for a, b in zip(model(crops, mel), back(crops, mel), strict=True))
    assert not any(p.requires_grad for p in back.parameters())


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_a_file_that_is_no_network_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"train_minisync\.py makes one") as found:
        load_sync_net(path)
    assert "\n" not in str(found.value)


def test_a_clip_shorter_than_a_window_and_a_mel_of_other_bands_are_refused() -> None:
    model, (x, mel) = net(), pair()
    with pytest.raises(UserError, match="4 frames has no window of 5"):
        model.look(mouth_crops(x[:, :, :4]))
    with pytest.raises(UserError, match="expected a mel"):
        model.listen(mel[..., :-1])


def test_a_method_of_latents_takes_the_term_through_a_real_codec() -> None:
    family = tiny_family()
    batch = Batch(Rng(0).normal("x", (2, *family.codec.shape(5, 16, 16))), Cond(fields=family.text(["a", "b"]).fields))
    model, mel = net(), Rng(1).normal("mel", (2, 20, BANDS))
    term = DecodedSync(model, family.codec.unclipped, lambda b: mel, weight=1.0, enough=2.0)
    modules = {"student": family.net, "critic": family.net}

    def one(weight: tuple[DecodedSync, ...]) -> Dmd2:
        return Dmd2(Dmd2Config(), family.net, family.net, family.net, modules, Generated(NoiseOnly()), terms=weight)

    alone, both = (one(terms).loss("student", batch, Rng(3)) for terms in ((), (term,)))
    assert "sync" in both.parts and both.total > alone.total + 0.5
    (both.total - alone.total).backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in family.net.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert set(one((term,)).learners["critic"].state_dict()) == set(one(()).learners["critic"].state_dict())


def test_a_decoder_without_gradients_is_refused() -> None:
    family = tiny_family()
    x = Rng(0).normal("x", (1, *family.codec.shape(5, 16, 16))).requires_grad_()
    term = DecodedSync(net(), family.codec.decode, lambda b: torch.zeros(1, 20, BANDS))
    with pytest.raises(UserError, match="codec.unclipped"):
        term.student(x, Batch(x.detach(), Cond()), Rng(0))
