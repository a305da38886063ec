"""Temporal measures have the values their formulas promise."""

import math

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.eval.temporal import flicker, jitter, motion_energy, pulse, stability
from vdistill.worlds.shapes import Shapes


def noise(frames: int = 33, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(2, 3, frames, 24, 24, generator=torch.Generator().manual_seed(0))


def wave(w: float) -> Tensor:
    phase = w * torch.arange(40.0)
    return torch.stack([phase.cos(), phase.sin()])[None, :, :, None, None].expand(1, -1, -1, 4, 4)


def test_a_still_clip_has_no_motion_and_no_flicker() -> None:
    still = noise(1).expand(-1, -1, 9, -1, -1)
    for measure in (motion_energy, flicker, jitter, pulse):
        assert measure(still).tolist() == [0, 0]
    assert torch.allclose(stability(still), torch.ones(2))


def test_a_linear_fade_moves_but_does_not_flicker() -> None:
    fade = torch.arange(8.0)[None, None, :, None, None].expand(1, 2, -1, 4, 4) / 4
    assert motion_energy(fade).item() == pytest.approx(1 / 16)
    assert flicker(fade).item() == 0 and jitter(fade).item() == 0


def test_independent_noise_measures_its_own_deviation() -> None:
    assert flicker(noise(scale=0.3)).tolist() == pytest.approx([0.3, 0.3], rel=0.02)
    assert motion_energy(noise(scale=0.3)).tolist() == pytest.approx([0.18, 0.18], rel=0.02)
    assert jitter(noise(scale=0.3)).tolist() == pytest.approx([3, 3], rel=0.02)
    assert stability(noise()).tolist() == pytest.approx([0, 0], abs=0.02)


@pytest.mark.parametrize("w", [0.25, 0.5, math.pi / 2, 3.0])
def test_jitter_of_an_oscillation_is_two_minus_two_cosines(w: float) -> None:
    assert jitter(wave(w)).item() == pytest.approx(2 - 2 * math.cos(w), rel=1e-3)


def test_alternating_frames_have_jitter_four() -> None:
    assert jitter(wave(math.pi)).item() == pytest.approx(4, rel=1e-3)
    x = noise(1)
    assert stability(torch.cat([x, -x] * 4, 2)).tolist() == pytest.approx([-1, -1], abs=1e-5)


def test_pulse_sees_exposure_and_not_moving_things() -> None:
    clip = torch.stack([Shapes().clip(i) for i in range(24)])
    pumping = torch.randn(1, 1, 17, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.1
    assert float(pulse(clip).max()) < 0.01 < 0.05 < float(pulse(clip + pumping).min())


def test_flicker_grows_with_what_is_added_to_true_clips() -> None:
    clip = torch.stack([Shapes().clip(i) for i in range(8)])
    draw = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    found = [float(flicker(clip + s * draw).mean()) for s in (0.0, 0.05, 0.1, 0.2)]
    steady = [float(stability(clip + s * draw).mean()) for s in (0.0, 0.05, 0.1, 0.2)]
    assert found == sorted(found) and steady == sorted(steady, reverse=True)


def test_each_clip_is_measured_alone_latents_too() -> None:
    latents = torch.randn(3, 16, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    for measure in (motion_energy, flicker, jitter, pulse, stability):
        assert torch.equal(measure(latents)[1:2], measure(latents[1:2]))


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(UserError, match="T >= 3"):
        flicker(torch.zeros(1, 3, 2, 4, 4))
    with pytest.raises(UserError, match="T >= 2"):
        stability(torch.zeros(1, 3, 1, 4, 4))
