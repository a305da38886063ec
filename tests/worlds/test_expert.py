"""The expert of the shapes world: it reads true clips exactly, and draws what the caption says from any past."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import tiny_family

from vdistill.core.cond import Cond
from vdistill.core.step import Batch
from vdistill.worlds.endless import accuracy_at
from vdistill.worlds.expert import MEMORY, Path, ShapesExpert, ahead, covered, read, to_and_fro, told
from vdistill.worlds.shapes import (
    BACKGROUND,
    MOTIONS,
    SHAPES,
    Scene,
    Shapes,
    Thing,
    bounce,
    caption,
    held_out,
    parse,
    render,
    track,
)

FRAMES = 41
WORLD = Shapes(frames=FRAMES, open=0.0, turning=0.3)
SCENES: list[Scene] = [WORLD.scenes(i)[0] for i in range(32)]
THINGS = [s.thing for s in SCENES]
CLIPS = torch.stack([render([s], torch.arange(FRAMES), 32) for s in SCENES])
STARTS = [0, *range(1, FRAMES, 4)]


class Named(Shapes):
    """A world of the things that these captions name."""

    def __init__(self, captions: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "captions", captions)

    def things(self, index: int) -> list[Thing]:
        return parse(self.captions[index])


def rms(gap: Tensor) -> float:
    return float(gap.square().mean().sqrt())


def test_the_clips_show_everything_it_follows() -> None:
    assert {t.shape for t in THINGS} == {*SHAPES} and {t.motion for t in THINGS} == {*MOTIONS}


@pytest.fixture(scope="module")
def path() -> Path:
    return read(covered(CLIPS, THINGS), THINGS)


def test_true_clips_are_read_as_they_were_drawn(path: Path) -> None:
    """Centres within a fifth of a pixel, radii without a bias that a stream would add up, angles within two degrees."""
    true = [track(s, torch.arange(FRAMES).float()) for s in SCENES]
    assert float((path.centre - torch.stack([c for c, _ in true])).abs().max()) < 0.2
    radius = path.radius - torch.tensor([s.radius for s in SCENES])[:, None]
    assert float(radius.abs().max()) < 0.15 and abs(float(radius.mean())) < 0.01
    turn = (path.angle - torch.stack([a for _, a in true])).rad2deg()
    assert float((turn - (turn[:, :1] / 360).round() * 360).abs().max()) < 2


def test_a_true_clip_goes_on_as_it_does() -> None:
    made = ahead(CLIPS, THINGS, STARTS)
    assert torch.equal(made[:, :, :1], CLIPS[:, :, :1])  # the first block stays
    assert rms((made - CLIPS)[:, :, 9:]) < 0.02 < 0.1 < rms(CLIPS - CLIPS.mean(2, keepdim=True))


def test_whatever_it_shows_it_goes_on_as_the_caption_says() -> None:
    """Corners are blunt and marks faint all the way: what should follow is crisp, at that place and angle."""
    clips = CLIPS
    for _ in range(2):
        clips = torch.nn.functional.avg_pool3d(clips, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    made = ahead(clips, THINGS, STARTS)
    assert rms((made - CLIPS)[:, :, 9:]) < 0.4 * rms((clips - CLIPS)[:, :, 9:])


def test_only_the_frames_before_a_block_say_how_it_goes_on() -> None:
    """Nor does it see farther back than MEMORY, but for the angle, which it has followed from the beginning."""
    spoilt = CLIPS.clone()
    spoilt[:, :, 25:] = torch.tensor(BACKGROUND)[:, None, None, None]
    assert torch.equal(ahead(spoilt, THINGS, STARTS)[:, :, 1:29], ahead(CLIPS, THINGS, STARTS)[:, :, 1:29])
    smaller = torch.cat([CLIPS[:, :, :1] * 0 + CLIPS[:, :, 1:2], CLIPS[:, :, 1:]], 2)  # another first frame
    late = slice(1 + MEMORY, None)
    assert rms((ahead(smaller, THINGS, STARTS) - ahead(CLIPS, THINGS, STARTS))[:, :, late]) < 1e-3


def test_blocks_of_several_latents_are_drawn_as_one() -> None:
    made = ahead(CLIPS, THINGS, [0, 9, 21, 33])
    assert torch.equal(made[:, :, :9], CLIPS[:, :, :9])
    assert torch.equal(made[:, :, 21:25], ahead(CLIPS, THINGS, STARTS)[:, :, 21:25])
    assert rms((made - CLIPS)[:, :, 9:]) < 0.04


def test_one_thing_of_which_all_is_said_is_told() -> None:
    said = ["a red cross rotates", "a blue circle rests", "a red cross moves left"]
    unsaid = ["a red cross", "a red shape rotates", "a cross rotates"]
    assert all(told(parse(text)) for text in said)
    assert not any(told(parse(text)) for text in [*unsaid, " while ".join(said[:2])])


def test_what_moves_goes_on_to_and_fro() -> None:
    """The way of the world's own movers, from any twenty places on it; from one place, where the caption says."""
    width, speed, time = torch.tensor([20.0, 18.0]), torch.tensor([1.1, -0.9]), torch.arange(120.0)
    true = torch.stack([bounce(5 + v * time, 0.0, float(w)) for v, w in zip(speed, width, strict=True)])
    ways = speed.sign()
    for begin in range(0, 90, 7):
        said = to_and_fro(true[:, begin : begin + 20], width, ways, 8)
        assert float((said - true[:, begin + 20 : begin + 28]).abs().max()) < 0.3
    first = to_and_fro(torch.tensor([[9.0], [9.0]]), width, ways, 4)
    assert (first.diff(dim=1) * ways[:, None] > 0.7).all() and ((first[:, 0] - 9) * ways > 0.7).all()


# -- another caption on the way -------------------------------------------------------------------------------------

SOME = 14  # clips that are followed for long
OTHERS = [*THINGS[1:], THINGS[0]]


def lived(clips: Tensor, things: list[Thing], turn: int, frames: int) -> Tensor:
    """Clips that do what the expert says from frame `turn` on, block by block."""
    starts = [0, *range(1, frames, 4)]
    lived = torch.cat([clips, clips[:, :, -1:].expand(-1, -1, frames - clips.shape[2], -1, -1)], 2).clone()
    for start in range(turn, frames, 4):
        said = ahead(lived[:, :, : start + 4], things, [s for s in starts if s <= start], THINGS[: len(clips)], turn)
        lived[:, :, start : start + 4] = said[:, :, start:]
    return lived


def test_under_another_caption_a_thing_becomes_what_it_says_in_its_place() -> None:
    """The judge of streams sees what the new caption says from the first frame on, and later."""
    clips = lived(CLIPS[:SOME], OTHERS[:SOME], 25, 61)
    told = [caption([t]) for t in OTHERS[:SOME]]
    assert all(accuracy_at(clips, told, start)["all"] == 1 for start in (25, 37, 44))
    where = [
        read(covered(clips[:, :, part], things), things)
        for part, things in ((slice(25), THINGS[:SOME]), (slice(25, 61), OTHERS[:SOME]))
    ]
    jump = (where[1].centre[:, 0] - where[0].centre[:, -1]).norm(dim=1)
    assert float(jump.max()) < 2.0  # a frame's way of the fastest, and the edge of one that is larger


def test_each_block_before_the_change_is_answered_as_if_it_were_the_first_after_it() -> None:
    """And all of what came before is of the other thing."""
    late, early = (ahead(CLIPS, OTHERS, STARTS, THINGS, turn) for turn in (41, 21))
    assert torch.equal(late[:, :, :25], early[:, :, :25])
    assert not torch.equal(late[:, :, 25:], early[:, :, 25:])
    assert accuracy_at(late, [caption([t]) for t in OTHERS], 5)["colour"] == 1


@pytest.mark.parametrize(
    ("said", "before", "may"),
    [
        ("a green circle rotates", "a green square moves left", False),  # a green square that rotates is held out
        ("a green square moves left", "a green circle rotates", False),
        ("a red square rotates", "a green circle moves left", False),  # of both
        ("a green square moves left", "a green square moves left", True),
        ("a red circle rotates", "a red square stays still", True),
    ],
)
def test_things_of_which_a_mixture_is_held_out_do_not_follow_each_other(said: str, before: str, may: bool) -> None:
    assert held_out(parse("a green square rotates")[0])
    expert = ShapesExpert(Named([said, before]), tiny_family().codec, lambda length: range(length))
    batch, other = (Batch(torch.zeros(1, 3, 1, 8, 8), Cond(), keys=(f"shapes/{i}",)) for i in range(2))
    assert expert.meet(batch, other).tolist() == [may]


def test_latents_are_read_and_drawn_through_the_codec() -> None:
    codec, world = tiny_family().codec, replace(WORLD, open=0.2, late=90, counts=(1, 2))
    expert = ShapesExpert(world, codec, lambda length: range(length))
    keys = tuple(f"shapes/{i}" for i in range(40))
    x = codec.encode(torch.stack([world.clip(i) for i in range(40)]))
    batch = Batch(x, Cond(), keys=keys)
    known, said = expert.follows(batch), expert.told(batch)
    assert known.tolist() == [len(world.things(i)) == 1 for i in range(40)]
    assert said.tolist() == [told(parse(world.caption(i))) for i in range(40)]
    assert 0 < int(said.sum()) < int(known.sum()) < 40 and not bool((said & ~known).any())
    some = batch.select(known.nonzero()[:, 0])
    goal = expert(some.x, some, some, 0)
    things = [world.things(int(key.partition("/")[2]))[0] for key in some.keys]
    assert torch.equal(goal, codec.encode(ahead(codec.decode(some.x), things, STARTS)))
    assert rms((goal - some.x)[:, :, 3:]) < 0.1 * rms(some.x)  # what bounces and begins at any angle too
    others = some.select(torch.arange(len(some)).roll(1))
    following = [things[-1], *things[:-1]]
    assert torch.equal(
        expert(some.x, others, some, 4), codec.encode(ahead(codec.decode(some.x), following, STARTS, things, 13))
    )
