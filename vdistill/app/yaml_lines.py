"""YAML with line numbers and without surprises: what is written is what is meant, and every fault says where it is.

YAML 1.2 scalars: `5e-6` is a number, `on`, `yes` and `1:30` are strings. Refused: duplicate keys, tags, anchors and
merge keys, so a file is a tree of plain values and reading it runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import UserError

Key = tuple[str | int, ...]
"""Place of a value: ("optim", "betas", 0)."""
LARGEST = 1 << 20  # bytes of a config file

NUMBERS = {
    "int": re.compile(r"[-+]?[0-9]+\Z"),
    "float": re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"),
}
WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True)
class Fault:
    """One thing wrong. where: "file.yaml:9" or "--set method.x"; key: dotted path or ""; text: what, and what helps."""

    where: str
    key: str
    text: str

    def __str__(self) -> str:
        key = "" if self.where == f"--set {self.key}" else self.key
        return ": ".join(part for part in (self.where, key, self.text) if part)

    @property
    def order(self) -> tuple[str, int]:
        """File, then line."""
        file, _, line = self.where.rpartition(":")
        return (file, int(line)) if line.isdigit() else (self.where, 0)


@dataclass
class Tree:
    """Plain values, where each was written, and what was wrong in the writing."""

    value: Any
    places: dict[Key, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def with_fault(self, fault: Fault) -> Tree:
        """The same with one more thing wrong."""
        return Tree(self.value, self.places, [*self.faults, fault])


class _Loader(yaml.SafeLoader):
    """Composes nodes only; tags, anchors and aliases become faults, scalars are left as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.refused: list[tuple[int, str]] = []

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        line = mark.line
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self.refused.append((line, f"alias *{event.anchor}: write the value out"))
            return yaml.ScalarNode("", "", mark, mark)
        if event.anchor is not None:
            self.refused.append((line, f"anchor &{event.anchor}: write the value out"))
            event.anchor = None
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.refused.append((line, f"tag {tag}: only plain values are read"))
            event.tag = None
            if isinstance(event, yaml.ScalarEvent):
                event.implicit = (True, True)
        return super().compose_node(parent, index)  # type: ignore[no-untyped-call]


def scalar(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in WORDS:
        return WORDS[text]
    if NUMBERS["int"].match(text):
        return int(text) if len(text) < 20 else float(text)
    return float(text) if NUMBERS["float"].match(text) else text


def parse(text: str, where: str, *, lines: bool = True) -> Tree:
    """A tree out of YAML text. where: the file, or with lines=False the whole place. Never raises."""
    tree = Tree(None)

    def place(line: int) -> str:
        return f"{where}:{line + 1}" if lines else where

    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        tree.faults += [Fault(place(line), "", why) for line, why in loader.refused]
        tree.value = _value(node, (), tree, place) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = " ".join(filter(None, [error.problem, error.context and f"({error.context})"]))
        tree.faults.append(Fault(place(mark.line) if mark else where, "", f"not YAML: {why}"))
    except (yaml.YAMLError, ValueError) as error:
        tree.faults.append(Fault(where, "", f"not YAML: {' '.join(str(error).split())[:200]}"))
    except RecursionError:
        tree.faults.append(Fault(where, "", "not a config: nested too deep"))
    return tree


def read(path: Path) -> Tree:
    """The tree of a file. UserError when it cannot be read or is no text of at most a megabyte."""
    try:
        with path.open("rb") as handle:
            data = handle.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({getattr(error, 'strerror', None) or error})", str(path)) from error
    if len(data) > LARGEST:
        raise UserError(f"more than {LARGEST} bytes; is it a config?", str(path))
    try:
        return parse(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text (byte {error.start}); is it a config?", str(path)) from error


def _value(node: Any, key: Key, tree: Tree, place: Any) -> Any:
    tree.places.setdefault(key, place(node.start_mark.line))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, key, tree, place)
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*key, i), tree, place) for i, each in enumerate(node.value)]
    return scalar(node.value) if node.style is None else node.value


def _mapping(node: Any, key: Key, tree: Tree, place: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    first: dict[str, int] = {}
    dotted = ".".join(map(str, key))
    for name_node, value_node in node.value:
        line = name_node.start_mark.line
        if not isinstance(name_node, yaml.ScalarNode):
            tree.faults.append(Fault(place(line), dotted, "a key must be a plain word"))
            continue
        name = str(name_node.value)
        full = ".".join(filter(None, [dotted, name]))
        if name == "<<":
            tree.faults.append(Fault(place(line), full, "merge keys are not read; use one 'extends: other.yaml'"))
        elif name in first:
            tree.faults.append(Fault(place(line), full, f"duplicate key; first written in line {first[name] + 1}"))
        else:
            first[name], tree.places[(*key, name)] = line, place(line)
            found[name] = _value(value_node, (*key, name), tree, place)
    return found
