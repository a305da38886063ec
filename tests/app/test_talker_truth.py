"""The measures of talking on the talker world, where everything about a clip is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from vdistill.app.talker_truth import SHIPPED, duo_truth, faces, mels, openings, rows, sync_net, truth_of
from vdistill.avatar.mel import Mel
from vdistill.avatar.sync_net import mouth_crops
from vdistill.eval.identity_error import CHEAP, fit, identity_error, of_clips
from vdistill.eval.sync import best, distances
from vdistill.eval.talking import ends, seconds, talking_scores
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.duo import Duo
from vdistill.worlds.talker.talker import Talker


@cache
def clips() -> tuple[Clip, ...]:
    """People and speech that the network's training did not have."""
    return tuple(Talker("open", 64, 73).clip(i) for i in range(3))


def frames() -> Tensor:
    return torch.stack([clip.frames for clip in clips()])


def late(x: Tensor, count: int) -> Tensor:
    return torch.cat([x[:, :, :1].expand(-1, -1, count, -1, -1), x[:, :, : x.shape[2] - count]], 2)


def test_the_renderer_draws_the_truth_exactly() -> None:
    drawn = faces().draw(rows(clips()), 64)
    assert torch.allclose(drawn, frames()[:, :, 0], atol=1e-6)


def test_the_true_person_is_nearer_than_any_other_at_a_glance() -> None:
    truth = rows(clips())
    found = fit(faces(), frames()[:, :, 36], ((16, 6), (32, 3)))[:, None]
    own, other = (identity_error(faces(), found, who).total for who in (truth, truth.roll(1, 0)))
    assert own.mean() < 0.5 * other.mean() and (own < other).all()


@pytest.mark.slow
def test_the_true_person_has_next_to_no_error_and_another_person_has_much() -> None:
    truth = rows(clips())
    assert of_clips(faces(), frames(), truth).total.max() < 0.1
    assert of_clips(faces(), frames(), truth, 3, CHEAP).total.max() < 0.35
    assert of_clips(faces(), frames(), truth.roll(1, 0), 3, CHEAP).total.min() > 0.7


def test_true_clips_score_as_the_guide_says() -> None:
    found = talking_scores(frames(), replace(truth_of(clips()), identity=None))
    assert found["sync_pcc"] > 0.93 and found["offset"] == found["net_offset"] == 0
    assert found["sync_d"] < 0.8 and found["sync_c"] > 1.8 and found["jitter"] < 0.02


@pytest.mark.parametrize("count", [3, 8])
def test_both_judges_of_sync_find_a_late_picture_to_the_frame(count: int) -> None:
    x, net, sound = late(frames(), count), sync_net(), mels(clips(), Mel())
    assert best(distances(*net(mouth_crops(x), sound))).offset.tolist() == [count] * 3
    wrong = best(distances(*net(mouth_crops(x), sound.roll(1, 0))))
    assert wrong.confidence.max() < 0.5 * best(distances(*net(mouth_crops(x), sound))).confidence.min()


def test_the_shipped_network_is_small() -> None:
    assert SHIPPED.stat().st_size < 1_000_000


def test_who_listens_keeps_the_mouth_shut() -> None:
    pair = [Duo(32, 149).clip(1)]
    x = torch.stack([clip.frames for clip in pair])
    truth = duo_truth(pair)
    assert talking_scores(x, truth)["crosstalk"] < 0.05
    assert talking_scores(x.roll(32, -1), truth)["crosstalk"] > 1


def test_a_clip_that_loses_sync_shows_it_in_its_last_seconds() -> None:
    clip = Talker("open", 64, 301).clip(0)
    x = clip.frames[None]
    broken = torch.cat([x[:, :, :150], late(x, 6)[:, :, 150:]], 2)
    truth = truth_of([clip])
    opening = openings([clip])
    rows_of = seconds(broken, type(truth)(opening))
    both = ends(rows_of)
    assert [row["offset"] for row in rows_of] == [0, 0, 0, 6, 6, 6]
    assert both["sync_pcc_first"] > 0.9 > 0.5 > both["sync_pcc_last"]
