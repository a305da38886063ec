"""The judge reads true clips without error and gives every corruption its due."""

import math

import pytest
import torch
from torch import Tensor

from vdistill.core.errors import UserError
from vdistill.worlds.judge import Verdict, accuracy, features, judge, matches, motion_of, spin, tally
from vdistill.worlds.shapes import BACKGROUND, COLOURS, MOTIONS, SHAPES, Scene, Shapes, Thing, render, track
from vdistill.worlds.trace import Fit, figures, unmix

EXACT = {"colour": 1.0, "shape": 1.0, "motion": 1.0, "count": 1.0, "all": 1.0, "seen": 1.0}


def clips(world: Shapes, count: int) -> tuple[Tensor, list[str]]:
    return torch.stack([world.clip(i) for i in range(count)]), [world.caption(i) for i in range(count)]


@pytest.fixture(scope="module")
def true() -> tuple[Tensor, list[str]]:
    return clips(Shapes(split="all", open=0.0), 48)


def one(colour: str = "red", shape: str = "square", motion: str = "rests", **geometry: object) -> Tensor:
    known = {"radius": 6.5, "start": (16.0, 16.0), "velocity": (0.0, 0.0), "low": (-99.0, -99.0), "high": (99.0, 99.0)}
    return render(
        [Scene(Thing(colour, shape, motion), **{**known, "angle": 0.0, "spin": 0.0, **geometry})],  # type: ignore[arg-type]
        torch.arange(17),
        32,
    )[None]


def background(like: Tensor) -> Tensor:
    return torch.tensor(BACKGROUND)[None, :, None, None, None].expand_as(like)


def blur(x: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma) + 1
    w = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    w = w / w.sum()
    y = torch.nn.functional.pad(x.flatten(1, 2), (reach,) * 4, mode="replicate")[:, :, None].flatten(0, 1)
    y = torch.nn.functional.conv2d(torch.nn.functional.conv2d(y, w.view(1, 1, 1, -1)), w.view(1, 1, -1, 1))
    return y.view(x.shape)


# --- true clips ------------------------------------------------------------------------------------------------------


def test_every_colour_shape_and_motion_is_read_right() -> None:
    speed = {"moves left": (-0.8, 0.0), "moves right": (0.8, 0.0), "moves up": (0.0, -0.8), "moves down": (0.0, 0.8)}
    for i, shape in enumerate(SHAPES):
        for j, motion in enumerate(MOTIONS):
            thing = Thing(list(COLOURS)[(i + j) % 6], shape, motion)
            v = speed.get(motion, (0.0, 0.0))
            start = (16 - 8 * v[0], 16 - 8 * v[1])
            turn = 0.2 if motion == "rotates" else 0.0
            [verdict] = judge(one(thing.colour or "", shape, motion, velocity=v, start=start, spin=turn))
            assert verdict.things == (thing,)


@pytest.mark.parametrize(
    "world",
    [
        Shapes(split="all"),
        Shapes(split="all", counts=(2,)),
        Shapes(split="all", counts=(1, 2), size=48),
        Shapes(split="all", counts=(1, 2), frames=33),
        Shapes(split="all", counts=(1, 2), frames=9),
        Shapes(split="all", counts=(1, 2), frames=1),
    ],
    ids=["single", "two", "48 pixels", "33 frames bounce", "9 frames", "images"],
)
def test_true_clips_are_judged_without_error(world: Shapes) -> None:
    assert accuracy(*clips(world, 32)) == EXACT


@pytest.mark.slow
@pytest.mark.parametrize("counts, clips_", [((1,), 1000), ((2,), 500)])
def test_at_least_99_in_100_true_clips_are_judged_right(counts: tuple[int, ...], clips_: int) -> None:
    assert accuracy(*clips(Shapes(split="all", open=0.0, counts=counts, seed=1), clips_))["all"] >= 0.99


def test_geometry_is_recovered_to_a_fraction_of_a_pixel() -> None:
    world = Shapes(split="all")
    for i in range(24):
        [scene], [verdict] = world.scenes(i), judge(world.clip(i)[None])
        centre, angle = track(scene, torch.arange(17.0))
        fit = verdict.fits[0]
        assert float((fit.centre - centre).abs().max()) < 0.6
        assert float((fit.radius / scene.radius - 1).abs().max()) < 0.08
        assert float(torch.cos(fit.angle - angle).min()) > math.cos(math.radians(12))
        assert float(fit.iou.min()) > 0.85 and bool(fit.present.all())


def test_a_verdict_does_not_depend_on_the_batch(true: tuple[Tensor, list[str]]) -> None:
    alone = [judge(true[0][i : i + 1])[0] for i in range(20)]
    for a, b in zip(alone, judge(true[0][:20]), strict=True):
        assert a.things == b.things and torch.equal(a.fits[0].centre, b.fits[0].centre)


def test_every_pixel_of_a_pure_blend_lies_on_its_colours_segment() -> None:
    share = torch.linspace(0, 1, 11)
    ground = torch.tensor(BACKGROUND)
    for k, colour in enumerate(COLOURS.values()):
        blend = ground[:, None] + share * (torch.tensor(colour) - ground)[:, None]
        alpha, gap = unmix(blend[None, :, None, None])
        assert torch.allclose(alpha[0, k, 0, 0], share, atol=1e-6) and float(gap[0, k].max()) < 1e-3


# --- what is wrong is found wrong ------------------------------------------------------------------------------------


def test_shuffled_captions_agree_by_chance_only(true: tuple[Tensor, list[str]]) -> None:
    pixels, captions = true
    right = accuracy(pixels, captions[1:] + captions[:1])
    assert right["all"] < 0.1 and right["colour"] < 0.4 and right["shape"] < 0.5 and right["motion"] < 0.45


def test_blur_spoils_the_shape_and_nothing_else_monotonically(true: tuple[Tensor, list[str]]) -> None:
    pixels, captions = true[0][:24], true[1][:24]
    found = [accuracy(blur(pixels, s), captions) for s in (0.5, 1.0, 1.5, 2.0)]
    shape = [f["shape"] for f in found]
    assert shape == sorted(shape, reverse=True) and shape[0] == 1 and shape[-1] < 0.05
    assert found[-1]["colour"] == 1 and found[-1]["motion"] > 0.9


def test_the_same_blur_costs_every_shape_about_the_same_outline_error() -> None:
    errors = [judge(blur(one(shape=shape), 1.0))[0].fits[0].error for shape in SHAPES]
    assert max(errors) < 1.4 * min(errors)


def test_shuffled_frames_move_nowhere(true: tuple[Tensor, list[str]]) -> None:
    pixels, captions = true
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    moving = [i for i, c in enumerate(captions) if "rests" not in c]
    found = accuracy(pixels[moving][:, :, order], [captions[i] for i in moving])
    assert found["motion"] < 0.05 and found["shape"] == 1 and found["colour"] == 1


def test_time_reversed_moves_the_other_way() -> None:
    clip = one(motion="moves left", velocity=(-0.8, 0.0), start=(22.0, 16.0))
    assert judge(clip)[0].things[0].motion == "moves left" and judge(clip.flip(2))[0].things[0].motion == "moves right"
    turning = one("cyan", "cross", spin=0.2)
    assert judge(turning)[0].things[0].motion == "rotates" and judge(turning.flip(2))[0].things[0].motion is None


def test_a_thing_half_erased_keeps_its_colour_and_loses_its_shape() -> None:
    for shape in SHAPES:
        clip = one(shape=shape)
        clip[..., :16] = background(clip)[..., :16]
        assert judge(clip)[0].things[0] == Thing("red", None, "rests")


def test_a_thing_broken_in_two_has_no_shape() -> None:
    for shape in SHAPES:
        clip, apart = one(shape=shape), background(one()).clone()
        apart[..., :14], apart[..., 18:] = clip[..., 2:16], clip[..., 16:30]
        assert judge(apart)[0].things[0].shape is None


def test_two_equal_things_of_one_colour_are_no_thing_of_the_world() -> None:
    clip = torch.maximum(one(start=(8.0, 16.0)), one(start=(24.0, 16.0)))
    assert judge(clip)[0].things[0].shape is None


def test_seams_between_patches_spoil_the_shape(true: tuple[Tensor, list[str]]) -> None:
    pixels, captions = true
    draw, torn = torch.Generator().manual_seed(0), pixels.clone()
    for i in range(0, 32, 8):
        for j in range(0, 32, 8):
            shift = torch.randint(-3, 4, (2,), generator=draw).tolist()
            torn[..., i : i + 8, j : j + 8] = pixels.roll(shift, (-2, -1))[..., i : i + 8, j : j + 8]
    assert accuracy(torn, captions)["shape"] < 0.1


def test_noise_shows_nothing_and_little_noise_harms_nothing(true: tuple[Tensor, list[str]]) -> None:
    pixels, captions = true
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    assert accuracy(noise, captions) == dict.fromkeys(EXACT, 0.0)
    assert accuracy(pixels + 0.1 * noise, captions)["all"] == 1
    assert accuracy(background(pixels), captions) == dict.fromkeys(EXACT, 0.0)


def test_a_thing_that_comes_and_goes_is_reported_as_flickering() -> None:
    clip = one("green")
    gone = clip.clone()
    gone[:, :, 5:8] = background(clip)[:, :, 5:8]
    assert judge(gone)[0].things == () and judge(gone)[0].flickering == ("green",)
    brief = clip.clone()
    brief[:, :, 5] = background(clip)[:, :, 5]
    assert judge(brief)[0].things == (Thing("green", "square", "rests"),)
    assert not bool(judge(brief)[0].fits[0].present[5])


def test_restless_things_do_not_rest() -> None:
    clip, draw = one("blue", "circle"), torch.Generator().manual_seed(0)
    frames = [clip[:, :, t].roll(torch.randint(-3, 4, (2,), generator=draw).tolist(), (-2, -1)) for t in range(17)]
    assert judge(torch.stack(frames, 2))[0].things == (Thing("blue", "circle", None),)


def test_a_still_image_of_a_mover_rests() -> None:
    clip = one(motion="moves left", velocity=(-0.8, 0.0), start=(22.0, 16.0))[:, :, :1].expand(-1, -1, 17, -1, -1)
    assert judge(clip)[0].things[0].motion == "rests"


# --- words -----------------------------------------------------------------------------------------------------------


def verdict(*things: Thing, frames: int = 17) -> Verdict:
    return Verdict(things, (), (), (), frames, (32, 32))


RED, BLUE = Thing("red", "square", "moves left"), Thing("blue", "circle", "rotates")


def test_open_attributes_always_match() -> None:
    assert all(matches(verdict(RED), [Thing(None, None, None)]).values())
    assert matches(verdict(), [Thing(None, None, None)]) == {
        "colour": True, "shape": True, "motion": True, "count": False, "all": False,
    }  # fmt: skip


def test_order_is_free_but_attributes_may_not_swap() -> None:
    assert all(matches(verdict(BLUE, RED), [RED, BLUE]).values())
    swapped = verdict(Thing("blue", "square", "moves left"), Thing("red", "circle", "rotates"))
    assert not matches(swapped, [RED, BLUE])["all"]


def test_a_missing_or_additional_thing_is_no_full_match() -> None:
    missing, additional = matches(verdict(RED), [RED, BLUE]), matches(verdict(RED, BLUE), [RED])
    assert not missing["colour"] and not missing["count"] and not missing["all"]
    assert additional["colour"] and not additional["count"] and not additional["all"]


def test_an_image_has_no_motion_to_get_wrong() -> None:
    still = verdict(Thing("red", "square", None), frames=1)
    assert matches(still, [RED])["all"] and not matches(verdict(Thing("red", "square", None)), [RED])["motion"]


def test_tally_is_the_mean_of_matches() -> None:
    found = tally([verdict(RED), verdict(BLUE)], ["a red square moves left", "a blue square rotates"])
    assert found == {"colour": 1.0, "shape": 0.5, "motion": 1.0, "count": 1.0, "all": 0.5, "seen": 1.0}


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_outlines_have_the_length_of_geometry() -> None:
    hole = 2 * math.pi * 0.24
    want = {
        "circle": 2 * math.pi * 0.9 + hole,
        "square": 8 * 0.78 + hole,
        "triangle": 3 * math.sqrt(3) * 1.1 + hole,
        "cross": 8 * (0.98 - 0.36) + 8 * 0.36 + hole,
    }
    assert {shape: figure.outline for shape, figure in figures().items()} == pytest.approx(want, rel=0.025)
    assert figures()["circle"].area == pytest.approx(math.pi * (0.9**2 - 0.24**2), rel=1e-3)


def test_spin_recovers_a_known_rate_across_the_wrap_and_outliers() -> None:
    angle = torch.deg2rad(350 + 12.0 * torch.arange(17)) % (2 * math.pi)
    rate, score = spin(angle)
    assert rate == pytest.approx(12.0, abs=1e-3) and score == pytest.approx(1.0, abs=1e-5)
    angle[4] += math.pi
    assert spin(angle)[0] == pytest.approx(12.0, abs=1e-3)


def test_diagonal_and_uneven_paths_are_no_motion_of_the_world() -> None:
    def moving(path: Tensor) -> str | None:
        t = torch.zeros(len(path))
        return motion_of(Fit("red", path, t, t, t, t.bool(), torch.zeros(4)))

    t = torch.arange(17.0)
    assert moving(torch.stack([t, 0 * t], -1)) == "moves right"
    assert moving(torch.stack([t, t], -1)) is None
    assert moving(torch.stack([16 * (t > 8), 0 * t], -1)) is None
    assert moving(torch.stack([0.13 * t, 0 * t], -1)) is None  # too slow to move, too far to rest


def test_features_have_a_fixed_width_and_tell_clips_apart(true: tuple[Tensor, list[str]]) -> None:
    found = features(true[0])
    assert found.shape == (48, 51) and bool(torch.isfinite(found).all()) and float(found.abs().max()) < 3
    assert torch.equal(found, features(true[0]))
    assert float(torch.pdist(found).min()) > 0.1
    assert torch.equal(features(background(true[0][:1])), torch.zeros(1, 51))
    assert features(true[0][:2, :, :1]).shape == (2, 51)


@pytest.mark.parametrize("shape", [(3, 17, 32, 32), (2, 4, 17, 32, 32), (2, 3, 0, 32, 32)])
def test_what_is_no_batch_of_clips_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expected pixels"):
        judge(torch.zeros(shape))


def test_non_finite_pixels_and_missing_captions_are_named(true: tuple[Tensor, list[str]]) -> None:
    bad = true[0][:3].clone()
    bad[1, 0, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match=r"clips \[1\]"):
        judge(bad)
    with pytest.raises(UserError, match="3 clips and 2 captions"):
        accuracy(true[0][:3], true[1][:2])
