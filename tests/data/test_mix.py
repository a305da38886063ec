"""Several sources by weight: exact frequencies, one order for any number of ranks, nothing left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from vdistill.app.build import build, engine_of
from vdistill.app.config import ConfigError, load
from vdistill.core.cond import Cond
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.core.step import Batch
from vdistill.data.loader import Feed
from vdistill.data.mix import BLOCK, Mixed


class Numbers:
    """Sample i is the number i; groups of equal shape, of one and of several frames."""

    def __init__(self, name: str, groups: tuple[int, ...], frames: tuple[int, ...]) -> None:
        self.name, self.groups, self.frames = name, groups, frames
        self.shapes = tuple((3, t, 4, 4) for t in frames)
        self.shape = self.shapes[0]

    def __len__(self) -> int:
        return sum(self.groups)

    def captions(self) -> tuple[str, ...]:
        return ("",) * len(self)

    def batch(self, indices: Sequence[int]) -> Batch:
        group = sum(indices[0] >= sum(self.groups[: g + 1]) for g in range(len(self.groups)))
        x = torch.stack([torch.full(self.shapes[group], float(i)) for i in indices])
        return Batch(x, Cond(), keys=tuple(f"{self.name}/{i}" for i in indices))


VIDEOS, IMAGES = Numbers("video", (10, 13), (5, 3)), Numbers("image", (7,), (1,))


def mixed(weights: Sequence[float], batch: int = 2, micro: int = 3, seed: int = 0) -> Mixed:
    return Mixed([Feed(data, batch, micro, seed) for data in (VIDEOS, IMAGES)], weights, micro, seed)


def keys(source: object, micro: int, steps: int) -> list[tuple[str, ...]]:
    return [source(step, m).keys for step in range(steps) for m in range(micro)]  # type: ignore[operator]


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (3.0, 0.0)])
def test_with_all_the_weight_a_source_gives_exactly_what_it_gives_alone(weights: tuple[float, float]) -> None:
    alone = Feed(VIDEOS if weights[0] else IMAGES, 2, 3, 5)
    found = mixed(weights, seed=5)
    for step in range(40):
        for micro in range(3):
            one, other = found(step, micro), alone(step, micro)
            assert one.keys == other.keys and torch.equal(one.x, other.x)


def test_each_source_comes_as_often_as_its_weight_says() -> None:
    for weights in ((0.5, 0.5), (7.0, 3.0), (0.02, 0.98)):
        many, share = 20 * BLOCK, weights[0] / sum(weights)
        source = mixed(weights)
        count = sum(source.place(n)[0] == 0 for n in range(many))
        assert abs(count - many * share) < 4 * math.sqrt(many * share * (1 - share))


def test_which_source_is_the_named_draw() -> None:
    source = mixed((0.3, 0.7), seed=9)
    for n in (0, 1, BLOCK - 1, BLOCK, 5 * BLOCK + 3):
        drawn = Rng(9, step=n // BLOCK, turn="data").uniform("mix", (BLOCK,))[n % BLOCK]
        assert source.place(n)[0] == int(drawn >= 0.3)


def test_a_resumed_run_sees_the_same_batches_in_any_order_of_asking() -> None:
    whole = mixed((0.6, 0.4))
    places = [whole.place(n) for n in range(3 * BLOCK)]
    assert [mixed((0.6, 0.4)).place(n) for n in (3 * BLOCK - 1, 1500, 0)] == [places[n] for n in (-1, 1500, 0)]
    fresh, told = mixed((0.6, 0.4)), keys(mixed((0.6, 0.4)), 3, 50)
    assert [fresh(step, m).keys for step in reversed(range(50)) for m in reversed(range(3))] == told[::-1]


def test_ranks_agree_and_their_number_changes_nothing() -> None:
    one_rank = keys(mixed((0.6, 0.4), micro=4), 4, 60)
    ranks = [mixed((0.6, 0.4), micro=4) for _ in range(4)]  # each asks for its own micro-batch only
    assert [ranks[m](step, m).keys for step in range(60) for m in range(4)] == one_rank


def test_nothing_of_a_part_comes_twice_before_everything_came_once() -> None:
    data = [Numbers("a", (12,), (5,)), Numbers("b", (8,), (1,))]
    source = Mixed([Feed(d, 2, 2, 0) for d in data], (0.7, 0.3), 2, 0)
    seen = keys(source, 2, 60)
    for part in data:
        own = [key for batch in seen for key in batch if key.startswith(part.name)]
        for i in range(0, len(own) - len(part) + 1, len(part)):
            assert len({*own[i : i + len(part)]}) == len(part)


def test_a_micro_batch_is_of_one_source_and_one_shape() -> None:
    source = mixed((0.5, 0.5))
    frames = {(batch.keys[0].split("/")[0], batch.x.shape[2]) for n in range(60) for batch in [source(n, n % 3)]}
    assert frames == {("video", 5), ("video", 3), ("image", 1)}
    assert all(len({k.split("/")[0] for k in batch}) == 1 for batch in keys(source, 3, 30))


def test_the_shapes_of_a_mixture_are_those_of_its_parts_the_heaviest_first() -> None:
    found = mixed((0.2, 0.8)).data
    assert found is not None and found.shape == (3, 1, 4, 4)
    assert set(found.shapes) == {(3, 1, 4, 4), (3, 5, 4, 4), (3, 3, 4, 4)}


@pytest.mark.parametrize("weights", [(), (1.0,), (0.0, 0.0), (-1.0, 2.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_weights_that_are_none_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="data.weights"):
        mixed(weights)


CONFIG = """\
name: mixed
family: {{name: wan, random_tiny: wan, frames: 5, height: 32, width: 32, long_text: cut}}
data:
  name: mix
  parts:
    - {{name: shapes}}
    - {{name: shapes, images: 1.0}}
  weights: {weights}
method: {{name: flow}}
scope: {{name: lora, rank: 2}}
train: {{steps: 4, batch: 2, micro: 2, checkpoint_every: 2}}
"""


def config(tmp_path: Path, weights: str, text: str = CONFIG) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text.format(weights=weights))
    return path


def test_a_config_mixes_images_with_clips_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    found = load(config(tmp_path, "[0.5, 0.5]"))
    source = build(found).source
    batches = [source(step, micro).x.shape[2] for step in range(8) for micro in range(2)]
    assert set(batches) == {1, 2}  # latent frames of one picture and of five

    def weights(out: Path, *stops: int) -> dict[str, torch.Tensor]:
        for steps in stops:
            built = build(found)
            engine = engine_of(found, built, out)
            engine.resume()
            engine.run(lambda report, e=engine, n=steps: e.stop("pause") if report.step == n else None)
        return built.plain_student().net.state_dict()

    whole, parts = weights(tmp_path / "whole", 4), weights(tmp_path / "parts", 2, 4)
    assert all(torch.equal(v, parts[k]) for k, v in whole.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": "[1, 2, 3]"}, "data.weights: [1.0, 2.0, 3.0] for 2 parts"),
        ({"weights": "[0, 0]"}, "data.weights: [0.0, 0.0] for 2 parts"),
        ({"weights": "[-1, 2]"}, "data.weights[0]: must be at least 0"),
        (
            {"weights": "[]", "name: shapes, images": "name: shapes, imges"},
            "data.parts[1].imges: unknown key; did you mean 'images'?",
        ),
        ({"weights": "[]", "{{name: shapes}}": "{{name: latents}}"}, "data.parts[0].path: is missing"),
        (
            {"weights": "[]", "{{name: shapes}}": "{{name: prompts, path: x}}"},
            "data.parts[0].name: 'prompts' is unknown; allowed: shapes, latents, media",
        ),
    ],
)
def test_a_mistake_in_a_part_is_named(tmp_path: Path, change: dict[str, str], says: str) -> None:
    text = CONFIG
    for old, new in change.items():
        text = text.replace(old, new) if old != "weights" else text
    with pytest.raises(ConfigError) as caught:
        load(config(tmp_path, change["weights"], text))
    assert any(says in str(fault) for fault in caught.value.faults), [str(f) for f in caught.value.faults]
