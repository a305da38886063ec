"""The `judge:` section: what is refused before training, in one line, and what goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from vdistill.app import config as configs
from vdistill.app.build import build
from vdistill.app.cli import main
from vdistill.app.config import load
from vdistill.app.schema_judge import Judge
from vdistill.core.errors import UserError
from vdistill.core.losses.gan import Kind
from vdistill.core.optim import Optimizer
from vdistill.discriminators.adversarial import Adversarial
from vdistill.discriminators.augment import AUGMENTS
from vdistill.methods.dmd2 import Dmd2

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(ROOT.glob("configs/video/shapes_*judge_*.yaml"))
START = """name: mine
family: {{name: {family}}}
data: {data}
method:
  name: dmd2
  judge: {judge}
train: {train}
"""


def written(
    folder: Path,
    judge: str,
    family: str = "tiny, path: shapes",
    data: str = "{name: shapes}",
    train: str = "{steps: 4, batch: 2}",
    more: str = "",
) -> Path:
    path = folder / "mine.yaml"
    path.write_text(START.format(family=family, data=data, judge=judge, train=train) + more)
    return path


CAUSAL = "causal: {block: 1, teacher: causal}\n"
FRUGAL = "{steps: 4, batch: 2, gradient_checkpointing: true}"
ANALYTIC = {"family": "analytic, target: classes", "data": "{name: analytic}"}
TALKER = {"data": "{name: talker, size: 32, frames: 17}"}
REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("{layers: [7]}", {}, "method.judge.layers: layers [7], the network has 0..5"),
    ("{features: teacher, layers: [6]}", {}, "method.judge.layers: layers [6], the network has 0..5"),
    ("{layers: [3]}", ANALYTIC, "judge.layers: [3], the network has 0..2"),
    ("{kind: latent}", ANALYTIC, "is judged by kind: tokens"),
    ("{}", {"data": "{name: prompts, path: x.txt}"}, "method.judge: compares with real clips"),
    ("{r1: 1.0, penalty: exact}", {"family": "tiny, path: shapes, attention: flash"}, "which flash has not; say probe"),
    ("{r1: 1.0, penalty: exact}", {"family": "tiny, path: shapes, attention: sage"}, "which sage has not; say probe"),
    ("{r1: 1.0, penalty: exact}", {"family": "tiny, path: shapes, attention: xformers"}, "which xformers has not"),
    ("{r1: 1.0, penalty: exact}", {"train": FRUGAL}, "activations that gradient_checkpointing gives up; say probe"),
    ("{kind: latent, r1: 1.0, penalty: heads}", {}, "method.judge.penalty: kind: latent has no heads on features"),
    ("{penalty: heads}", {}, "method.judge.penalty: has no effect while r1 and r2 are 0"),
    ("{penalty: exact}", {}, "method.judge.penalty: has no effect while r1 and r2 are 0"),
    ("{kind: motion}", {"family": "tiny, path: shapes, frames: 1"}, "motion needs two frames or more"),
    ("{kind: motion}", {"data": "{name: shapes, images: 0.2}"}, "shapes mixes in images, which do not move"),
    ("{kind: latent, layers: [1]}", {}, "method.judge.layers: kind: latent looks at latents"),
    ("{kind: latent, features: teacher}", {}, "method.judge.features: kind: latent looks at latents"),
    ("{kind: latent, mismatched: true}", {}, "method.judge.mismatched: kind: latent does not see the text"),
    ("{kind: motion, feature_matching: 1.0}", {}, "method.judge.feature_matching: kind: motion has no features"),
    ("{mismatched: true}", {"train": "{steps: 4, batch: 1}"}, "needs another clip's text; train.batch must be 2"),
    ("{later: 0.5}", {}, "method.judge.later: belongs to a judge that looks at pairs"),
    ("{share: 0.1, weight: 0.1}", {}, "method.judge.share: takes the place of weight"),
    ("{t_min: 0.9, t_max: 0.5}", {}, "method.judge.t_min: 0.9 is not below t_max 0.5"),
    ("{augment: [flip, flip]}", {}, "method.judge.augment: names one twice"),
    ("{kind: pixel}", {}, "method.judge.kind: 'pixel' is unknown"),
    ("{kind: pixels, features: teacher}", {}, "method.judge.features: kind: pixels looks at decoded frames"),
    ("{kind: pixels, t_max: 0.5}", {}, "method.judge.t_max: has no effect with kind: pixels, which looks at clean"),
    ("{kind: pixels, levels: 2}", {}, "method.judge.levels: has no effect with kind: pixels"),
    ("{kind: pixels, layers: [3]}", {}, "method.judge.layers: [3], images: random has layers 0..2"),
    ("{kind: pixels, images: nowhere/dino}", {}, "nowhere/dino: no such folder or file; name a transformers folder"),
    ("{kind: pixels, images: docs}", {}, "docs: holds no config.json, so it is no transformers folder"),
    ("{kind: pixels, images: README.md}", {}, "README.md: is no TorchScript file"),
    ("{kind: pixels, images: 'https://x.org/dino'}", {}, "images: 'https://x.org/dino' is not a path on this machine"),
    ("{kind: pixels}\n  divergence: jensen_shannon", {}, "pixels sees no noised clips, whose density ratio divergence"),
    ("{kind: pixels}", ANALYTIC, "is judged by kind: tokens"),
    ("{images: docs}", {}, "method.judge.images: belongs to kind: pixels; leave it out of kind: tokens"),
    ("{frames: 3}", {}, "method.judge.frames: belongs to kind: pixels"),
    ("{kind: latent, head: cross}", {}, "method.judge.head: kind: latent has no tokens to read"),
    ("{head: cross, hidden: 10}", {}, "method.judge.hidden: 10 does not divide among the 4 heads"),
    ("{start: runs/none}", {}, "method.judge.start: features: critic begin anew in every run"),
    ("{kind: latent, start: 'https://x.org/a'}", {}, "start: 'https://x.org/a' is not a path on this machine"),
    ("{condition: audio}", {}, "method.judge.condition: clips of shapes have no 'audio'; they have text"),
    ("{condition: text, text: true}", {}, "method.judge.condition: text is said by text: true already"),
    ("{where: {}}", {}, "method.judge.where: says nothing; say (last: 3)"),
    ("{where: {last: 0}}", {}, "method.judge.where.last: "),
    ("{where: {region: lip}}", {}, "method.judge.where.region: clips of shapes have no 'lip'; they have none"),
    ("{where: {last: 2}, head: cross}", {}, "method.judge.where: head: cross has one logit a clip; say kind: latent"),
    ("{where: {last: 2}, kind: pixels}", {}, "method.judge.where: kind: pixels draws its frames"),
    ("{kind: pixels, condition: audio}", TALKER, "audio runs along the clip, and kind: pixels sees frames"),
    ("{kind: latent, where: {region: hand}}", TALKER, "clips of talker have no 'hand'; they have face, lip, person"),
    ("{where: {last: 2}}", ANALYTIC, "method.judge.where: features of analytic have no even grid of places"),
    ("{}\n  gan_weight: 0.1", {}, "method.gan_weight: and judge are two ways to say one thing"),
    ("{}\n  inputs: rollout", {"more": CAUSAL}, "of whole clips, which a causal critic does not see; say kind: latent"),
]


@pytest.mark.parametrize(("judge", "other", "said"), REFUSED)
def test_check_refuses_in_one_line(
    judge: str,
    other: dict[str, Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["check", str(written(tmp_path, judge, **other))]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1 and said in lines[0], lines


def test_what_lacks_the_network_is_refused_by_training_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"layers \[7\], the network has 0\.\.5"):
        build(load(written(tmp_path, "{layers: [7]}")))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_judge_is_right_reads_back_and_builds(path: Path) -> None:
    config = load(path)
    again = configs.dump(config)
    assert "gan_weight" in again and "judge:" in again
    method = build(config).method
    assert isinstance(method, Dmd2) and isinstance(method.terms[0], Adversarial)
    assert set(method.learners["critic"].keys()) == {"critic", "gan"}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("judge", "method", "weights"),
    [
        ("{r1: 10}", "dmd2", (3e-3, 0.01)),
        ("{features: teacher, r2: 5}", "dmd2", (3e-3, 1.0)),
        ("{kind: motion}", "dmd2", (3e-3, 1.0)),
        ("{r1: 10}", "adversarial", (1.0, 1.0)),
        ("{weight: 0.5, watch_weight: 2.0, r1: 10}", "adversarial", (0.5, 2.0)),
    ],
)
def test_weights_and_penalties_are_those_of_the_section(
    judge: str, method: str, weights: tuple[float, float], tmp_path: Path
) -> None:
    path = written(tmp_path, judge)
    path.write_text(path.read_text().replace("name: dmd2", f"name: {method}"))
    config = load(path)
    built: Any = build(config).method
    term = built.term if method == "adversarial" else built.terms[0]
    assert (term.weight, term.watch_weight) == weights
    spec: Any = config.method
    want = [(weight, of) for weight, of in ((spec.judge.r1, "real"), (spec.judge.r2, "fake")) if weight]
    assert [(p.weight, p.of) for p in term.penalties] == want


def test_a_judge_reads_back_as_it_was_and_a_run_without_one_is_written_as_before(tmp_path: Path) -> None:
    path = written(tmp_path, "{kind: motion, share: 0.2, r1: 10, text: true, augment: [flip]}")
    config = load(path)
    (again := tmp_path / "again.yaml").write_text(configs.dump(config))
    assert load(again) == config
    plain = load(ROOT / "configs" / "video" / "shapes_dmd2.yaml")
    assert "judge" not in configs.dump(plain)


def test_the_literals_are_those_of_the_engine() -> None:
    assert set(get_args(Judge.model_fields["loss"].annotation)) == set(get_args(Kind))
    assert set(get_args(get_args(Judge.model_fields["augment"].annotation)[0])) == set(AUGMENTS)


def test_what_only_judges_learns_at_its_own_rate(tmp_path: Path) -> None:
    config = load(written(tmp_path, "{kind: latent, rate: 10}"))
    built = build(config)
    assert built.optim["critic"].rates["gan"] == 10 and not built.optim["student"].rates
    module = built.method.learners["critic"]
    optim = Optimizer(built.optim["critic"], module)
    factors = {id(p): group["factor"] for part in optim.parts for group in part.param_groups for p in group["params"]}
    found = {name.partition(".")[0]: factors[id(p)] for name, p in module.named_parameters()}
    assert found == {"critic": 1.0, "gan": 10.0}
    plain = load(written(tmp_path, "{kind: latent}"))
    assert "rate" not in plain.model_dump()["method"]["judge"] and not build(plain).optim["critic"].rates
