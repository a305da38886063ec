"""Clips with mistakes: what moves where stays, and what captions leave open; the look may be wrong up to some frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import tiny_family

from vdistill.core.rng import Rng
from vdistill.worlds.mistaken import Mistake, drawn, mistake, mistaken
from vdistill.worlds.shapes import BACKGROUND, COLOURS, SHAPES, Shapes, coverage, track
from vdistill.worlds.source import ShapesSource

WORLD = Shapes(frames=21, late=60, turning=0.5, mistaken=1.0)
MANY = range(60)


def moments(clip: Tensor) -> Tensor:
    """Centre of what is not background, [T, 2] pixels."""
    seen = (clip - torch.tensor(BACKGROUND)[:, None, None, None]).abs().sum(0)
    place = torch.arange(clip.shape[-1]) + 0.5
    total = seen.sum((1, 2))
    return torch.stack([(seen.sum(1) * place).sum(1) / total, (seen.sum(2) * place).sum(1) / total], 1)


def test_without_a_mistake_the_object_is_drawn_as_it_is() -> None:
    for index in MANY:
        scene, frames = WORLD.scenes(index)[0], torch.arange(21).float()
        shape = scene.thing.shape or ""
        none = Mistake(shape, 1.0, COLOURS["red"], 1.0, ())
        centre, angle = track(scene, frames)
        right = coverage(shape, centre, angle, torch.full_like(angle, scene.radius), 32)
        assert torch.equal(drawn(scene, none, frames, 32), right)
        another = replace(none, shape=next(s for s in SHAPES if s != shape))
        as_other = coverage(another.shape, centre, angle, torch.full_like(angle, scene.radius), 32)
        torch.testing.assert_close(drawn(scene, another, frames, 32), as_other, rtol=0, atol=1e-6)


def test_it_is_wrong_up_to_a_frame_and_true_from_there_on_and_stays_where_it_was() -> None:
    ends = set()
    for index in MANY:
        clip, wrong = WORLD.clip(index), mistaken(WORLD, index)
        assert wrong.shape == clip.shape and torch.equal(wrong, mistaken(WORLD, index))
        differs = (wrong != clip).flatten(2).any(2).any(0)
        last = int(differs.nonzero().max()) if differs.any() else -1
        assert bool(differs[: last + 1].all())
        ends.add(last)
        assert float((moments(wrong) - moments(clip)).abs().max()) < 2.5  # pixels: a triangle lies off its centre
    assert -1 in ends and 20 in ends and len(ends) > 10


def test_so_many_have_mistakes_as_asked_for() -> None:
    for share in (0.0, 0.5):
        world = replace(WORLD, mistaken=share)
        wrong = sum(not torch.equal(mistaken(world, i), world.clip(i)) for i in range(200)) / 200
        assert share * 0.75 <= wrong <= share * 1.15


def test_what_a_caption_leaves_open_is_not_mistaken() -> None:
    for index in MANY:
        scene = WORLD.scenes(index)[0]
        for colour, shape in ((False, True), (True, False), (False, False)):
            made = mistake(scene, (colour, shape), Rng(0, index))
            assert colour or made.colour == pytest.approx(COLOURS[scene.thing.colour or ""])
            assert shape or (made.shape == scene.thing.shape and not made.bends)


def test_the_source_gives_a_past_of_the_same_shape_where_there_are_mistakes() -> None:
    family = tiny_family()
    world = replace(WORLD, frames=9, size=16)
    found = ShapesSource(world, family.codec, family.text, 3)(0, 0)
    assert found.past is not None and found.past.shape == found.x.shape and not torch.equal(found.past, found.x)
    plain = ShapesSource(replace(world, mistaken=0.0), family.codec, family.text, 3)(0, 0)
    assert plain.past is None and torch.equal(plain.x, found.x)
    assert ShapesSource(world, family.codec, family.text, 3, images=1.0)(0, 0).past is None
