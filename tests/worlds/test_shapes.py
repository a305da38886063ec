"""The `shapes` world: a pure function of (seed, index), captions that invert, motions without end."""

import pytest
import torch

from vdistill.worlds.shapes import COLOURS, MOTIONS, SHAPES, Shapes, Thing, bounce, caption, held_out, parse, track


def test_a_clip_depends_on_seed_and_index_alone() -> None:
    world = Shapes(counts=(1, 2))
    assert torch.equal(world.clip(5), Shapes(counts=(1, 2)).clip(5))
    assert not torch.equal(world.clip(5), world.clip(6))
    assert not torch.equal(world.clip(5), Shapes(counts=(1, 2), seed=1).clip(5))


def test_a_later_window_continues_the_clip_exactly() -> None:
    world = Shapes(counts=(1, 2))
    whole = world.clip(3, frames=40)
    assert torch.equal(whole[:, 13:40], world.clip(3, start=13, frames=27))


def test_a_late_clip_is_a_window_of_the_same_endless_scene() -> None:
    late, world = Shapes(late=480), Shapes()
    starts = [late.begins(i) for i in range(200)]
    assert min(starts) < 48 and max(starts) > 432 and max(starts) <= 480
    assert all(torch.equal(late.clip(i), world.clip(i, start=starts[i])) for i in range(3))
    assert torch.equal(late.clip(0, frames=1), late.clip(0)[:, :1])


def test_a_clip_of_one_frame_is_an_image_of_the_same_scene() -> None:
    assert torch.equal(Shapes(frames=1).clip(7), Shapes(frames=17).clip(7)[:, :1])


def test_parse_inverts_caption_for_all_things_open_or_not() -> None:
    things = [Thing(c, s, m) for c in (None, *COLOURS) for s in (None, *SHAPES) for m in (None, *MOTIONS)]
    assert [parse(caption([t])) for t in things] == [[t] for t in things]
    assert parse(caption(things[3:5])) == things[3:5]


def test_splits_share_no_triple() -> None:
    assert not any(held_out(t) for i in range(60) for t in Shapes(split="train", counts=(1, 2)).things(i))
    assert all(held_out(t) for i in range(60) for t in Shapes(split="test", counts=(1, 2)).things(i))


def test_pixels_stay_in_range() -> None:
    clip = Shapes().clip(0)
    assert clip.shape == (3, 17, 32, 32)
    assert -1 <= float(clip.min()) and float(clip.max()) <= 1


@pytest.mark.parametrize("index", range(4))
def test_things_never_leave_their_box(index: int) -> None:
    for scene in Shapes(counts=(1, 2)).scenes(index):
        centre, _ = track(scene, torch.arange(500))
        low, high = torch.tensor(scene.low) - 1e-3, torch.tensor(scene.high) + 1e-3
        assert bool(((centre >= low) & (centre <= high)).all())


def test_bouncing_is_a_triangle_wave() -> None:
    assert bounce(torch.arange(9.0), 0.0, 3.0).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
