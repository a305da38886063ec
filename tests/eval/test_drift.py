"""Drift: what stays stays, what changes is seen in the window where it does."""

from __future__ import annotations

import pytest
import torch

from vdistill.core.errors import UserError
from vdistill.eval.drift import drift, histogram
from vdistill.worlds.shapes import Shapes


def test_a_still_clip_does_not_drift() -> None:
    picture = Shapes(1).clip(0)[:, :1]
    found = drift(picture.expand(-1, 24, -1, -1)[None], 8)
    for name, values in found.items():
        assert values.shape == (1, 3)
        assert torch.equal(values, values[:, :1].expand(-1, 3)), name
    assert found["motion_energy"].max() == 0
    assert torch.allclose(found["identity"], torch.ones(1, 3))


def test_a_clip_that_fades_is_seen_to() -> None:
    clip = Shapes(24, open=0.0).clip(3)[None]
    faded = clip.clone()
    faded[:, :, 16:] = 0.3 * faded[:, :, 16:]
    true, found = drift(clip, 8), drift(faded, 8)
    assert torch.equal(found["contrast"][:, :2], true["contrast"][:, :2])
    assert torch.allclose(found["contrast"][:, 2], 0.3 * true["contrast"][:, 2])
    assert torch.allclose(found["sharpness"][:, 2], 0.3 * true["sharpness"][:, 2])
    assert found["identity"][0, 2] < 0.5 < 0.9 < true["identity"][0, 2]


def test_a_histogram_holds_every_pixel_once() -> None:
    x = torch.rand(2, 3, 2, 5, 5) * 2 - 1
    assert torch.allclose(histogram(x).square().sum(1), torch.ones(2))


def test_a_clip_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(UserError, match="no window of 8"):
        drift(torch.zeros(1, 3, 7, 4, 4), 8)
