"""From a YAML file and overrides to a checked `Config`, or to every fault at once, each with its file and line.

`extends: other.yaml` (one, relative to the file) is read first and this file laid over it: sections merge key by key,
lists and values replace, and a section with another `name` replaces the whole section. Overrides come last. Paths in
the config itself are relative to where the command runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..core.errors import UserError
from .config_faults import UNIONS, told
from .schema import Config
from .yaml_lines import Fault, Key, Tree, parse, read, scalar

SHIPPED = ("shapes", "shapes_causal", "talker", "talker_student")
"""Names of models that come with the package."""


class ConfigError(UserError):
    """Everything wrong with a config; `faults` holds it one by one, the message one line each."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, faults)))


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `scalar` would take for something else, such as "5e-6"."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = scalar(text) == text and "\n" not in text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _quoted)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a file under overrides "method.steps=2". ConfigError with all faults; UserError if unreadable."""
    return checked(tree_of(Path(path), overrides), str(path))


def checked(tree: Tree, where: str = "config") -> Config:
    """The config a tree means. ConfigError with the faults of the writing and of the meaning."""
    faults = list(tree.faults)
    config: Config | None = None
    if not isinstance(tree.value, dict):
        what = "is empty" if tree.value is None else "holds no 'key: value' lines"
        if not faults:
            faults.append(Fault(where, "", f"{what}; a config has name, family, data, method and train"))
    else:
        try:
            config = Config.model_validate(tree.value)
        except ValidationError as error:
            faults += told(error, tree, where)
    if faults or config is None:
        raise ConfigError(sorted(dict.fromkeys(faults), key=lambda fault: fault.order))
    return config


def tree_of(path: Path, overrides: Sequence[str] = ()) -> Tree:
    """What is written, `extends` and overrides laid over each other; faults of the writing are in it, not raised."""
    tree = _extended(path, ())
    for override in overrides:
        tree = _over(tree, _override(override))
    return tree


def dump(config: Config) -> str:
    """YAML of a whole config, defaults included, that `load` reads as the same config."""
    plain = json.loads(config.model_dump_json())  # tuples become lists
    return str(yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def missing_paths(config: Config, tree: Tree | None = None) -> list[Fault]:
    """A fault for every path in the config where nothing is (yet)."""
    found = []
    for key, path, makes in _paths(config):
        if not Path(path).exists():
            where = _place(tree, key) if tree else ""
            found.append(Fault(where, ".".join(map(str, key)), f"nothing at {path!r}{makes and '; ' + makes}"))
    return found


MAKES = {
    "latents": "vdistill prepare makes it",
    "prompts": "a text file with one caption a line, or a folder that vdistill prepare makes",
    "media": "a folder of clips, or its metadata.jsonl or metadata.csv",
    "bank": "vdistill bank makes it",
}
"""Where the data of each kind comes from."""


def _paths(config: Config) -> Iterator[tuple[Key, str, str]]:
    """(key, path, where such a thing comes from)."""
    path = getattr(config.family, "path", None)
    if path is not None and path not in SHIPPED:
        yield ("family", "path"), path, ""
    if config.causal and config.causal.start and config.causal.start not in SHIPPED:
        yield ("causal", "start"), config.causal.start, "vdistill train makes it"
    for name in ("start", "image_teacher"):  # of methods that take one
        if (named := getattr(config.method, name, None)) is not None and named not in SHIPPED:
            yield ("method", name), named, "vdistill train makes it"
    judge = getattr(config.method, "judge", None)
    if judge is not None and judge.start is not None and judge.start not in SHIPPED:
        yield ("method", "judge", "start"), judge.start, "vdistill train makes it"
    parts = getattr(config.data, "parts", None)
    keys: dict[Key, Any] = {("data",): config.data} if parts is None else {}
    keys |= {("data", "parts", i): part for i, part in enumerate(parts or ())}
    for key, part in keys.items():
        if path := getattr(part, "path", None):
            yield (*key, "path"), path, MAKES.get(part.name, "")
    if config.validation.image is not None:
        yield ("validation", "image"), config.validation.image, "a PNG or JPEG"


def _place(tree: Tree, key: Key) -> str:
    while key not in tree.places and key:
        key = key[:-1]
    return tree.places.get(key, "")


def _extended(path: Path, seen: tuple[Path, ...]) -> Tree:
    tree = read(path)
    if not isinstance(tree.value, dict) or "extends" not in tree.value:
        return tree
    value = {k: v for k, v in tree.value.items() if k != "extends"}
    own = Tree(value, tree.places, tree.faults)
    base, where = tree.value["extends"], tree.places[("extends",)]
    here = path.resolve()
    if not isinstance(base, str) or not base:
        return own.with_fault(Fault(where, "extends", f"must be the path of one config, found {base!r}"))
    target = path.parent / base
    if target.resolve() in (here, *seen):
        return own.with_fault(Fault(where, "extends", f"{base} leads back to a config that extends this one"))
    if not target.is_file():
        return own.with_fault(Fault(where, "extends", f"no file {target}; the path is relative to {path.parent}"))
    return _over(_extended(target, (here, *seen)), own)


def _override(text: str) -> Tree:
    """A tree of one value out of "method.steps=2"."""
    dotted, equals, written = text.partition("=")
    where = f"--set {dotted.strip()}"
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        return Tree({}, {}, [Fault(f"--set {text}", "", "must look like method.steps=2")])
    inner = parse(written, where, lines=False)
    places: dict[Key, str] = {(*keys, *key): _deeper(where, key) for key in inner.places}
    faults = [Fault(where, "", fault.text) for fault in inner.faults]
    value = inner.value
    for i in range(len(keys) - 1, -1, -1):
        value, places[tuple(keys[: i + 1])] = {keys[i]: value}, where
    return Tree(value, places, faults)


def _deeper(where: str, key: Key) -> str:
    return ".".join([where, *map(str, key)])


def _over(base: Tree, top: Tree) -> Tree:
    """`top` laid over `base`. A value laid over a section, or the other way round, replaces it."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        kept = base.value if top.value is None else top.value
        return Tree(kept, {**base.places, **top.places}, [*base.faults, *top.faults])
    places = dict(base.places)
    value = _merged(base.value, top.value, (), places)
    return Tree(value, {**places, **top.places}, [*base.faults, *top.faults])


def _merged(base: dict[str, Any], top: dict[str, Any], key: Key, places: dict[Key, str]) -> dict[str, Any]:
    found = dict(base)
    for name, value in top.items():
        old, here = base.get(name), (*key, name)
        other = here[0] in UNIONS and len(here) == 1 and isinstance(value, dict) and "name" in value
        other = other and isinstance(old, dict) and old.get("name") != value["name"] and len(value) > 0
        if isinstance(old, dict) and isinstance(value, dict) and not other:
            found[name] = _merged(old, value, here, places)
            continue
        for place in [p for p in places if p[: len(here)] == here]:
            del places[place]
        found[name] = value
    return found
