"""What faces do, measured: blinks counted exactly, E-FD* by its closed form, drawn eyes found in their pixels."""

from __future__ import annotations

import pytest
import torch

from vdistill.app.talker_truth import faces
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.eval.expression import blinks, expression_distance, expressions, moments
from vdistill.eval.talking import Truth, talking_scores
from vdistill.worlds.talker import motion
from vdistill.worlds.talker.face import render
from vdistill.worlds.talker.talker import Talker


def test_blinks_are_counted_and_timed_exactly() -> None:
    closed = torch.zeros(3, 150)  # six seconds
    for start in (10, 60, 100):
        closed[0, start : start + 5] = torch.tensor(motion.BLINK)
    closed[1, :4] = 1  # one that has begun before
    found = blinks(closed)
    assert found.rate.tolist() == pytest.approx([30, 10, 0])
    assert found.seconds.tolist() == pytest.approx([0.16, 0, 0])
    with pytest.raises(UserError, match=r"\[B, T\]"):
        blinks(torch.zeros(150))


def test_the_worlds_blinks_come_as_often_as_it_says() -> None:
    """Every 2 to 5 s after the 0.2 s of the one before, so one in 3.7 s: 16.2 a minute; four frames of 40 ms each."""
    closed = torch.stack([motion.blinks(15_000, Rng(i, turn="blink")) for i in range(4)])
    found = blinks(closed)
    assert found.rate.mean() == pytest.approx(60 / 3.7, rel=0.03)
    assert found.seconds.tolist() == pytest.approx([0.16] * 4)


def test_equal_expressions_are_at_distance_zero_and_gaussians_at_their_closed_form() -> None:
    tracks = Rng(0).normal("tracks", (4, 50, 3))
    assert expression_distance(tracks, tracks) == pytest.approx(0, abs=1e-12)
    assert expression_distance(tracks, tracks + 0.3) == pytest.approx(3 * 0.09, rel=1e-5)  # the mean alone moves
    wide = 2 * tracks  # a Gaussian twice as wide: |mean|^2 and the trace of the covariance once more
    x = expressions(tracks).double()
    assert expression_distance(tracks, wide) == pytest.approx(
        float(x.mean(0).square().sum() + x.var(0).sum()), rel=1e-5
    )
    assert expressions(tracks).shape == (4 * 49, 6)


def test_a_rendered_clip_measures_the_blinks_it_was_rendered_with() -> None:
    clip, frames = Talker("open", 64, 5).clip(1), 16
    closed = torch.zeros(frames)
    for start in (1, 9):
        closed[start : start + 5] = torch.tensor(motion.BLINK)
    mouth, pose = (track[:1].expand(frames, -1) for track in (clip.mouth, clip.pose))
    x = render(clip.identity, mouth, closed, pose, 64).frames.transpose(0, 1)[None]
    world = faces()
    track = moments(world, x, ("open", "blink"), 1)
    seen, true = blinks(track[..., 1]), blinks(closed[None])
    assert (track[0, :, 1] - closed).abs().mean() < 0.1
    assert torch.equal(seen.rate, true.rate) and seen.seconds.item() == pytest.approx(0.16)
    with pytest.raises(UserError, match="no parameter 'brow'"):
        moments(world, x, ("brow",))


def test_scores_say_blinks_and_distance_where_the_truth_knows_how() -> None:
    tracks = Rng(1).uniform("tracks", (2, 40, 4)).float()
    tracks[..., -1] = 0
    tracks[0, 10:14, -1] = 1
    x = Rng(2).normal("x", (2, 3, 40, 16, 16)).clamp(-1, 1)
    truth = Truth(tracks[..., 0], expression=lambda x: tracks, expressions=tracks)
    found = talking_scores(x, truth)
    assert found["blinks"] == pytest.approx(60 * 25 / 80) and found["blink_seconds"] == pytest.approx(0.16)
    assert found["efd*"] == pytest.approx(0, abs=1e-9) and "efd*" not in talking_scores(x, Truth(tracks[..., 0]))
