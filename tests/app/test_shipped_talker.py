"""The talking student that is shipped: people and voices nobody has seen, in four passes, in time with their sound."""

from __future__ import annotations

from functools import cache

from vdistill.app.generate import Sampled
from vdistill.app.models import clip_shape, open_model
from vdistill.app.talk_exam import Paper, paper, rendered, told_way
from vdistill.app.talker_truth import truth_of
from vdistill.eval.talking import talking_scores

USUAL = {"ref": 1.5, "audio": 2.0}


@cache
def given() -> Paper:
    return paper(6, 17, 64)


@cache
def made() -> Sampled:
    family = open_model("talker_student")
    return rendered(told_way(family, USUAL), given(), clip_shape(family, 17, 64, 64))


def test_it_moves_its_mouth_with_the_sound_and_keeps_the_face() -> None:
    found = talking_scores(made().pixels, given().truth)
    assert made().passes == 4 and abs(found["offset"]) <= 1
    assert found["sync_pcc"] > 0.6 and found["identity_error"] < 0.6


def test_its_scales_are_dials() -> None:
    """The larger that of the reference, the more like it the face; the larger that of sound, the closer to it."""
    family, some = open_model("talker_student"), given()
    shape = clip_shape(family, 17, 64, 64)

    def found(**scales: float) -> dict[str, float]:
        made = rendered(told_way(family, {**USUAL, **scales}), some, shape)
        assert made.passes == 4
        return talking_scores(made.pixels, some.truth)

    faces = [found(ref=s)["identity_error"] for s in (1.0, 1.5, 3.0)]
    syncs = [found(audio=s)["sync_pcc"] for s in (1.0, 2.0, 4.0)]
    assert faces[0] > 1.02 * faces[1] and faces[1] > 1.05 * faces[2], faces
    assert syncs[0] < syncs[1] < syncs[2], syncs


def test_against_the_sound_and_face_of_another_it_does_not() -> None:
    clips = given().clips
    found = talking_scores(made().pixels, truth_of([*clips[1:], clips[0]]))
    assert found["sync_pcc"] < 0.4 and found["identity_error"] > 0.8
