"""The door of the app: what is written is what is meant, and every mistake is named with its place and a way out."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from vdistill.app import catalog, config
from vdistill.app.config import ConfigError, dump, load, missing_paths, tree_of
from vdistill.app.config_faults import UNIONS, distance, nearest
from vdistill.app.schema import Config
from vdistill.app.schema_method import GuidanceSpec, MethodDmd2, MethodLcm
from vdistill.app.yaml_lines import parse, scalar
from vdistill.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(ROOT.glob("configs/**/*.yaml"))
GOOD = """\
name: mine
family: {name: tiny, path: shapes}
data:
  name: shapes
method:
  name: dmd2
  steps: 4
  guidance:
    scale: 2.0
scope: {name: full}
optim:
  lr: 1e-4
train:
  steps: 100
  batch: 4
"""


def written(tmp_path: Path, text: str, name: str = "c.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def faults_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return [str(f).removeprefix(f"{path.parent}/") for f in caught.value.faults]


def test_a_good_config_means_what_it_says(tmp_path: Path) -> None:
    found = load(written(tmp_path, GOOD))
    assert isinstance(found.method, MethodDmd2)
    assert (found.optim.lr, found.method.guidance.scale) == (1e-4, 2.0)
    assert (found.train.steps, found.scope.name) == (100, "full")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-6", 5e-6), ("1E3", 1000.0), ("-.5", -0.5), ("1.", 1.0), ("010", 10), ("-7", -7), ("true", True),
        ("on", "on"), ("yes", "yes"), ("No", "No"), ("True", "True"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"), ("1_000", "1_000"), (".inf", ".inf"), ("", None), ("~", None), ("e5", "e5"), ("1e", "1e"),
    ],
)  # fmt: skip
def test_a_scalar_is_what_it_looks_like(text: str, value: Any) -> None:
    assert scalar(text) == value and type(scalar(text)) is type(value)
    assert parse(f"a: {text}", "f").value == {"a": value}
    assert parse(f"a: '{text}'", "f").value == {"a": text}


def change(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


ERRORS: list[tuple[str, int, str]] = [  # config, line of the fault, what it says
    (change("  batch: 4", "  bacth: 4"), 15, "train.bacth: unknown key; did you mean 'batch'?"),
    (change("  steps: 4", "  critic_per_studnt: 4"), 7, "unknown key; did you mean 'critic_per_student'?"),
    (change("optim:", "optm:"), 11, "optm: unknown key; did you mean 'optim'?"),
    (change("    scale: 2.0", "    sclae: 2.0"), 9, "method.guidance.sclae: unknown key; did you mean 'scale'?"),
    (GOOD + "batch: 3\n", 16, "batch: unknown key; did you mean 'train.batch'?"),
    (GOOD + "zzzzzz: 3\n", 16, "zzzzzz: unknown key; allowed: name, seed, family"),
    (change("  name: dmd2", "  name: dmd"), 6, "method.name: 'dmd' is unknown; did you mean 'dmd2'? allowed: flow"),
    (change("  name: dmd2\n", ""), 5, "method.name: is missing; allowed: flow, forcing, ode_init, causal_"),
    (change("name: mine\n", ""), 0, "name: is missing"),
    (change("  batch: 4", "  batch: 4\n  batch: 5"), 16, "train.batch: duplicate key; first written in line 15"),
    (GOOD + "name: again\n", 16, "name: duplicate key; first written in line 1"),
    (change("  batch: 4", "  batch: four"), 15, "train.batch: expected a whole number, found 'four'"),
    (change("  batch: 4", "  batch: '4'"), 15, "expected a whole number, found '4'; take the quotes away"),
    (change("  batch: 4", "  batch: 4.5"), 15, "train.batch: expected a whole number, found 4.5"),
    (change("  batch: 4", "  batch: true"), 15, "train.batch: expected a whole number, found true"),
    (change("  batch: 4", "  batch:"), 15, "train.batch: expected a whole number, found nothing"),
    (change("  batch: 4", "  batch: 0"), 15, "train.batch: must be at least 1, found 0"),
    (change("  batch: 4", "  batch: [4]"), 15, "train.batch: expected a whole number, found a list"),
    (change("  lr: 1e-4", "  lr: -1e-4"), 12, "optim.lr: must be above 0, found -0.0001"),
    (change("  lr: 1e-4", "  lr: 1e999"), 12, "optim.lr: expected a finite number, found inf"),
    (change("  lr: 1e-4", "  lr: .nan"), 12, "optim.lr: expected a number, found '.nan'"),
    (change("  lr: 1e-4", "  betas: [0.9, 1.0]"), 12, "optim.betas[1]: must be below 1, found 1.0"),
    (change("optim:\n  lr: 1e-4", "optim: fast"), 11, "optim: expected a section of 'key: value' lines, found 'fast'"),
    (change("  steps: 4", "  times: [0.5, 1.0]"), 7, "method.times: must be descending times in (0, 1], found [0.5"),
    (change("  steps: 4", "  times: [1.0, 0.0]"), 7, "method.times: must be descending times in (0, 1]"),
    (change("  steps: 4", "  steps: 4\n  times: [1.0, 0.5]"), 8, "method.times: 2 times for 4 steps; say one of them"),
    (change("  steps: 4", "  t_min: 0.9\n  t_max: 0.5"), 7, "method.t_min: 0.9 is not below t_max 0.5"),
    (change("    scale: 2.0", "    interval: [0.8, 0.2]"), 9, "method.guidance.interval: must be [low, high]"),
    (change("    scale: 2.0", "    kind: chain"), 8, "method.guidance.scales: chain needs a scale for each condition"),
    (change("    scale: 2.0", "    names: [tex]"), 9, "guidance.names: no condition 'tex' in family tiny; it has text"),
    (change("path: shapes", "dim: 256"), 2, "family.path: dmd2 needs a trained teacher"),
    (change("path: shapes", "path: shapes, dim: 64"), 2, "family.dim: is fixed by the folder 'shapes'; leave it out"),
    (change("path: shapes", "path: shapes, attention: flash_hub"), 2, "family.attention: 'flash_hub' is unknown"),
    (change("path: shapes", "path: teacher.pt"), 2, "family.path: 'teacher.pt' is pickled, which can run code"),
    (change("path: shapes", "path: 'https://x.org/y'"), 2, "is not a path on this machine; nothing is fetched or run"),
    (change("path: shapes", "path: 'pipe:ls'"), 2, "is not a path on this machine; nothing is fetched or run"),
    (change("  name: shapes", "  name: analytic"), 4, "data.name: analytic does not go with family tiny"),
    (change("path: shapes", "path: shapes, size: 64") .replace("  name: shapes", "  name: shapes\n  size: 32"), 5,
     "data.size: 32 differs from family.size 64; say one of them"),
    (change("  steps: 4", "  _target_: os.system"), 7, "method._target_: unknown key; a config names things of"),
    (change("  steps: 4", "  gan_layers: [1]"), 7, "method.gan_layers: has no effect while gan_weight is 0"),
    (change("  steps: 4", "  divergence: forward_kl"), 7, "method.divergence: forward_kl needs a judge: add judge"),
    (change("  steps: 4", "  divergence: jeffreys\n  gan_weight: 0.1\n  gan_loss: hinge"), 7,
     "method.divergence: jeffreys needs a judge whose logit is a log ratio: ns or minimax, not hinge"),
    (change("  steps: 4", "  divergence: jeffreys\n  judge: {mismatched: true, text: true}"), 7,
     "method.divergence: jeffreys needs a judge of samples alone; leave mismatched out"),
    (change("  steps: 4", "  divergence: jeffreys\n  objective: sid"), 7,
     "method.divergence: has no effect with objective: sid"),
    (change("scope: {name: full}", "scope: {name: full, rank: 4}"), 10, "scope.rank: unknown key"),
    (change("scope: {name: full}", "report_to: [tensorbord]"), 10, "report_to[0]: 'tensorbord' is unknown; did"),
    (change("name: mine", "name: ../mine"), 1, "name: must be letters, digits"),
    (change("  steps: 4", "  steps: &x 4"), 7, "anchor &x: write the value out"),
    (change("  steps: 4", "  <<: {steps: 4}"), 7, "method.<<: merge keys are not read"),
    (change("  steps: 4", "  steps: !!int 4"), 7, "only plain values are read"),
    (change("  steps: 4", "\tsteps: 4"), 7, "not YAML"),
    (change("  steps: 4", "  steps: [4"), 8, "not YAML"),
]  # fmt: skip


def test_the_table_of_errors_is_long_enough() -> None:
    assert len(ERRORS) >= 30


@pytest.mark.parametrize(("text", "line", "says"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    found = faults_of(written(tmp_path, text))
    place = f"c.yaml:{line}: " if line else "c.yaml: "
    assert any(f.startswith(place) and says in f for f in found), found
    assert len(found) == 1 or "name" in says or "YAML" in says or "gan" in says, found


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("scale", "sclae").replace("name: dmd2", "name: dmd3").replace("lr: 1e-4", "lr: x")
    text = text.replace("  batch: 4", "  bacth: 4\n  bacth: 4").replace("data:\n", "data: !!x\n")
    found = faults_of(written(tmp_path, text))
    assert [f.split(": ")[0] for f in found] == [f"c.yaml:{n}" for n in (3, 6, 9, 12, 15, 16)]


def test_parts_that_do_not_fit_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("name: shapes", "name: prompts\n  path: p.txt").replace("steps: 4", "inputs: data")
    text = text.replace("scale: 2.0", "names: [txt]").replace("lr: 1e-4", "critic_lr: 1e-4").replace("path: shapes", "")
    assert [f.split(": ")[1] for f in faults_of(written(tmp_path, text))] == [
        "family.path", "method.inputs", "method.guidance.names",
    ]  # fmt: skip


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(section, key) of every key of a dmd2 run."""
    chosen = {"family": "tiny", "data": "shapes", "method": "dmd2", "scope": "lora"}
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if not prefix and name in chosen:
            kind = UNIONS[name][chosen[name]]
        yield prefix, name
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")


def typo(word: str, draw: random.Random) -> str:
    """One slip: a letter left out, doubled, wrong, or swapped with its neighbour."""
    i = draw.randrange(len(word))
    slips = [word[:i] + word[i + 1 :], word[: i + 1] + word[i:], word[:i] + draw.choice("aeinrst") + word[i + 1 :]]
    if i + 1 < len(word):
        slips.append(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    return draw.choice(slips)


def test_fifty_one_letter_typos_find_their_key(tmp_path: Path) -> None:
    draw, right, tried = random.Random(0), 0, 0
    keys = [(section, key) for section, key in leaves(Config) if key != "name"]
    while tried < 50:
        section, key = draw.choice(keys)
        wrong = typo(key, draw)
        if not wrong or (section, wrong) in keys or wrong == key:
            continue
        text = GOOD.replace("scope: {name: full}", "scope: {name: lora}")
        found = faults_of(written(tmp_path, text), f"{section}{wrong}=1")
        tried += 1
        right += any(f == f"--set {section}{wrong}: unknown key; did you mean '{key}'?" for f in found)
    assert right >= 45, f"{right} of {tried}"


@pytest.mark.parametrize(
    ("a", "b", "d"),
    [("abc", "abc", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("", "abc", 3), ("window", "windw", 1), ("ca", "abc", 3)],
)
def test_distance_counts_slips(a: str, b: str, d: int) -> None:
    assert distance(a, b) == distance(b, a) == d


def test_nothing_near_gives_no_suggestion() -> None:
    assert nearest("elephant", ["lr", "ema", "decay"]) is None


# -- overrides and extends ------------------------------------------------------------------------------------------


def test_overrides_win_and_are_checked_like_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    overrides = ["method.guidance.scale=3", "optim.betas=[0.8, 0.9]", "name=on", "train.batch=2", "train.batch=8"]
    found = load(path, overrides)
    assert isinstance(found.method, MethodDmd2)
    assert (found.method.guidance.scale, found.optim.betas) == (3, (0.8, 0.9))
    assert (found.name, found.train.batch) == ("on", 8)
    assert faults_of(path, "method.windw=1", "train.batch=x", "nonsense", "optim.lr=!!x 1", "data..x=1") == [
        "--set data..x=1: must look like method.steps=2",
        "--set method.windw: unknown key; allowed: " + ", ".join(MethodDmd2.model_fields),
        "--set nonsense: must look like method.steps=2",
        "--set optim.lr: tag !!x: only plain values are read",
        "--set train.batch: expected a whole number, found 'x'",
    ]  # fmt: skip


def test_an_override_of_a_section_with_another_name_replaces_it(tmp_path: Path) -> None:
    found = load(written(tmp_path, GOOD), ["method={name: lcm, steps: 2}"])
    assert isinstance(found.method, MethodLcm) and found.method.steps == 2


def test_extends_takes_everything_and_the_child_wins(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    written(tmp_path / "base", GOOD)
    child = written(tmp_path, "extends: base/c.yaml\nname: child\nmethod: {guidance: {rescale: 0.5}}\n", "d.yaml")
    found = load(child)
    assert isinstance(found.method, MethodDmd2)
    assert (found.name, found.method.guidance.scale, found.method.guidance.rescale) == ("child", 2.0, 0.5)
    other = written(tmp_path, "extends: d.yaml\nmethod: {name: lcm}\n", "e.yaml")
    assert load(other).method == MethodLcm()


def test_a_fault_of_the_parent_is_told_with_the_parents_line(tmp_path: Path) -> None:
    written(tmp_path, GOOD.replace("batch", "bacth"))
    child = written(tmp_path, "extends: c.yaml\nsede: 3\n", "d.yaml")
    assert [f.split(": ")[:2] for f in faults_of(child)] == [["c.yaml:15", "train.bacth"], ["d.yaml:2", "sede"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("extends: no.yaml", "extends: no file"),
        ("extends: d.yaml", "leads back to a config that extends this one"),
        ("extends: [a, b]", "must be the path of one config"),
        ("extends: e.yaml", "leads back"),
    ],
)
def test_a_bad_parent_is_named(tmp_path: Path, text: str, says: str) -> None:
    written(tmp_path, "extends: d.yaml\n", "e.yaml")
    assert any(says in f for f in faults_of(written(tmp_path, text + "\n" + GOOD, "d.yaml")))


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "[" * 2000, "\0", "a: *b", "? [a]\n: 1"])
def test_what_is_no_config_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    assert all("\n" not in f for f in faults_of(written(tmp_path, text)))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"#")
    for path in (tmp_path / "no.yaml", tmp_path, tmp_path / "binary.yaml", tmp_path / "big.yaml"):
        with pytest.raises(UserError, match=path.name):
            load(path)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "name: !!python/object/new:os.system ['touch {}']",
        "name: !!python/name:os.system",
        "!!python/object:os.system {{a: 'touch {}'}}",
        "method: {{_target_: os.system, _args_: ['touch {}']}}",
        "name: ${{oc.env:HOME}}{}",
    ],
)
def test_a_config_runs_nothing(tmp_path: Path, text: str) -> None:
    mark = tmp_path / "ran"
    faults_of(written(tmp_path, text.format(mark)))
    assert not mark.exists()


def test_a_bomb_of_aliases_costs_nothing(tmp_path: Path) -> None:
    rows = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert len(faults_of(written(tmp_path, "a0: &a0 [x]\n" + "\n".join(rows)))) > 40


# -- what is shipped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.relative_to(ROOT / "configs").as_posix())
def test_a_shipped_config_is_right_and_survives_writing(path: Path, tmp_path: Path) -> None:
    found = load(path)
    assert load(written(tmp_path, dump(found))) == found


def test_names_of_shipped_configs_differ() -> None:
    names = [load(path).name for path in SHIPPED]
    assert len(names) == len(set(names)) >= 10


def test_strings_that_look_like_numbers_survive_writing(tmp_path: Path) -> None:
    prompts = ["5e-6", "on", "null", "~", "1:30", "a: b", "- x", "é", "a\nb", "'", "010", " x ", "#", "{", "0x1"]
    found = load(written(tmp_path, GOOD), [f"validation.prompts={json.dumps(prompts)}"])
    assert load(written(tmp_path, dump(found), "again.yaml")).validation.prompts == tuple(prompts)


def test_length_and_size_are_said_once(tmp_path: Path) -> None:
    for override in (["family.frames=9", "family.size=64"], ["data.frames=9", "data.size=64"]):
        found = load(written(tmp_path, GOOD), override)
        assert all((getattr(s, "frames"), getattr(s, "size")) == (9, 64) for s in (found.family, found.data))  # noqa: B009


def test_times_say_the_number_of_steps(tmp_path: Path) -> None:
    found = load(written(tmp_path, GOOD.replace("steps: 4", "times: [1, 0.5]")))
    assert isinstance(found.method, MethodDmd2) and (found.method.steps, found.method.times) == (2, (1.0, 0.5))


def test_a_path_where_nothing_is_gets_named_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("  name: shapes", "  name: latents\n  path: nowhere"))
    (found,) = missing_paths(load(path), tree_of(path))
    assert str(found) == f"{path}:5: data.path: nothing at 'nowhere'; vdistill prepare makes it"
    assert missing_paths(load(path, [f"data.path={tmp_path}"])) == []


def test_every_kind_of_data_says_where_it_comes_from(tmp_path: Path) -> None:
    said = {"media": "; a folder of clips, or its metadata", "bank": "; vdistill bank makes it"}
    for name, makes in said.items():
        data = f"  name: {name}\n  path: nowhere"
        (found,) = missing_paths(load(written(tmp_path, GOOD.replace("  name: shapes", data))))
        assert str(found).startswith(f"data.path: nothing at 'nowhere'{makes}")
    parts = "  name: mix\n  parts: [{name: shapes}, {name: media, path: here}, {name: latents, path: there}]"
    path = written(tmp_path, GOOD.replace("  name: shapes", parts))
    found = [str(fault) for fault in missing_paths(load(path, ["validation.image=none.png"]), tree_of(path))]
    assert found[0].startswith(f"{path}:5: data.parts.1.path: nothing at 'here'; a folder of clips")
    assert found[1].endswith("data.parts.2.path: nothing at 'there'; vdistill prepare makes it")
    assert found[2].endswith("validation.image: nothing at 'none.png'; a PNG or JPEG")


def sections(model: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    yield model
    for name, field in model.model_fields.items():
        kinds: list[Any] = [field.annotation, *get_args(field.annotation)]
        if model is Config and name in UNIONS:
            kinds = [*UNIONS[name].values()]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind)


def test_every_key_says_what_it_means_and_in_which_unit() -> None:
    silent = [
        f"{model.__name__}.{name}"
        for model in sections()
        for name, field in model.model_fields.items()
        if not field.description or not (isinstance(e := field.json_schema_extra, dict) and e.get("unit"))
    ]
    assert silent == [] and GuidanceSpec in sections()


def test_the_schema_for_editors_is_whole() -> None:
    schema = Config.model_json_schema()
    assert {"name", "family", "method", "train"} <= set(schema["properties"]) and "MethodDmd2" in schema["$defs"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Train"]["properties"]["batch"]["default"] == 16


def test_the_catalog_and_the_schema_know_the_same_names() -> None:
    tables = {"family": catalog.FAMILIES, "data": catalog.DATA, "method": catalog.METHODS, "scope": catalog.SCOPES}
    assert {section: set(names) for section, names in UNIONS.items()} == {s: set(t) for s, t in tables.items()}
    assert set(get_args(GuidanceSpec.model_fields["kind"].annotation)) == set(catalog.GUIDANCES)
    analytic = UNIONS["family"]["analytic"].model_fields
    assert set(get_args(analytic["target"].annotation)) == set(catalog.TARGETS)
    assert set(get_args(analytic["schedule"].annotation)) == set(catalog.SCHEDULES)


@pytest.mark.parametrize("table", ["METHODS", "SCOPES", "GUIDANCES", "TARGETS", "FAMILIES", "DATA"])
def test_every_name_of_the_catalog_leads_somewhere(table: str) -> None:
    names = getattr(catalog, table)
    assert all(callable(catalog.find(names, name)) for name in names)


def test_the_literals_are_those_of_the_engine() -> None:
    from vdistill.core.losses.gan import Kind as Gan
    from vdistill.core.losses.regression import Weighting
    from vdistill.core.schedule import Kind
    from vdistill.core.solvers import Solver

    method = UNIONS["method"]
    assert set(get_args(method["dmd2"].model_fields["gan_loss"].annotation)) == set(get_args(Gan))
    assert set(get_args(method["flow"].model_fields["weight"].annotation)) == set(get_args(Weighting))
    assert set(catalog.SCHEDULES) == set(get_args(Kind)) and set(catalog.SOLVERS) == {"own", *get_args(Solver)}


def test_reading_a_config_does_not_import_torch() -> None:
    code = "import sys; from vdistill.app.config import load; load(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(SHIPPED[0])], cwd=ROOT).returncode == 0


def test_every_fault_of_a_config_is_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(written(tmp_path, GOOD.replace("batch", "bacth").replace("lr", "rl")))
    assert str(caught.value).splitlines() == [str(f) for f in caught.value.faults] and len(caught.value.faults) == 2
