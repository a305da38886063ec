"""Log-mel: what librosa and another library say, and the same bits from a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vdistill.avatar.mel import HOP, WINDOW, Mel, filters
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng

FROZEN = Path(__file__).parent / "mel_librosa.npz"


def vowel(seconds: float = 0.2, rate: int = 16_000) -> Tensor:
    """A buzz of falling pitch that swells and dies, with a hiss, float32 [samples]."""
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    phase = 2 * torch.pi * (180 * t - 40 * t**2)
    buzz = sum(torch.sin(k * phase) / k for k in range(1, 20)) * torch.sin(torch.pi * t / seconds)
    hiss = torch.sin(9_999.0 * t**2 * 50) * 0.01
    return (0.2 * buzz + hiss).float()


def scaled(power: np.ndarray) -> Tensor:
    return torch.from_numpy(power.T).clamp_min(1e-8).log10().add(4).div(4).float()


def test_silence_is_minus_one_everywhere() -> None:
    assert torch.equal(Mel().features(torch.zeros(2, 1280)), torch.full((2, 2, 160), -1.0))


@pytest.mark.slow  # the import alone takes seconds
@pytest.mark.parametrize("bands", [40, 64, 80])
def test_filters_are_those_of_another_library(bands: int) -> None:
    from transformers.audio_utils import mel_filter_bank

    theirs = mel_filter_bank(WINDOW // 2 + 1, bands, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(filters(bands), torch.from_numpy(theirs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bands", [40, 80])
def test_features_are_librosas_to_a_ten_thousandth(bands: int, causal: bool) -> None:
    kept = np.load(FROZEN)
    ours = Mel(bands, causal).features(vowel()[None]).reshape(-1, bands)
    theirs = scaled(kept[f"causal{bands}" if causal else f"centred{bands}"])[: len(ours)]
    assert float((ours - theirs).abs().max()) < 1e-4
    assert float(ours.max() - ours.min()) > 0.5  # there is something to be equal to


@pytest.mark.slow
@pytest.mark.parametrize("bands", [40, 64, 80])
def test_librosa_itself_says_so_of_other_sounds(bands: int) -> None:
    librosa = pytest.importorskip("librosa")
    for sound in (vowel(1.0), 0.1 * Rng(bands).normal("hiss", (16_000,))):
        for causal in (False, True):
            heard = np.pad(sound.numpy(), (WINDOW - HOP, 0)) if causal else sound.numpy()
            theirs = librosa.feature.melspectrogram(
                y=heard, sr=16_000, n_fft=WINDOW, hop_length=HOP, n_mels=bands, center=not causal, pad_mode="constant"
            )
            ours = Mel(bands, causal).features(sound[None]).reshape(-1, bands)
            assert float((ours - scaled(theirs)[: len(ours)]).abs().max()) < 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_a_stream_gives_the_same_bits_whatever_the_sizes(causal: bool) -> None:
    mel, sound = Mel(40, causal), vowel(0.5)
    whole = mel.features(sound[None])[0]
    for sizes in ([1, 7, 639, 640, 641, 3000], [8000], [160] * 50, [40] * 200, [0, 5000, 0, 3000]):
        stream, at, parts = mel.stream(), 0, []
        for size in sizes:
            parts.append(stream.push(sound[at : at + size]))
            at += size
        parts += [stream.push(sound[at:]), stream.flush()]
        assert torch.equal(torch.cat(parts), whole)


def test_a_clip_has_the_same_bits_alone_and_in_a_batch() -> None:
    sounds = torch.stack([vowel(0.2), vowel(0.2).flip(0), torch.zeros(3200)])
    together = Mel(80).features(sounds)
    assert all(torch.equal(Mel(80).features(one[None])[0], both) for one, both in zip(sounds, together, strict=True))


@pytest.mark.parametrize(("causal", "ahead"), [(False, 40), (True, 0)])
def test_a_frame_sees_no_sample_later_than_it_says(causal: bool, ahead: int) -> None:
    mel, sound = Mel(40, causal), vowel(0.4)
    assert mel.ahead == ahead
    later = sound.clone()
    later[640 * 4 + ahead :] += 0.5
    one, two = mel.features(sound[None]), mel.features(later[None])
    assert torch.equal(one[:, :4], two[:, :4]) and not torch.equal(one[:, 4], two[:, 4])
    stream = mel.stream()
    assert len(stream.push(sound[: 640 * 4 + ahead - 1])) == 3 and len(stream.push(sound[:1])) == 1


def test_sound_shorter_than_a_frame_and_odd_bands_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="639 samples of sound, need 640"):
        Mel().features(torch.zeros(1, 639))
    with pytest.raises(UserError, match="7 mel bands"):
        Mel(7)
