"""What pydantic found wrong, said in one line each: where, which key, what was found, what would do."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .schema import Config, Data, Family, Scope
from .schema_method import Method
from .section import section_in
from .yaml_lines import Fault, Key, Tree

UNIONS: dict[str, dict[str, type[BaseModel]]] = {
    section: {
        name: each for each in get_args(get_args(kind)[0]) for name in get_args(each.model_fields["name"].annotation)
    }
    for section, kind in {"family": Family, "data": Data, "method": Method, "scope": Scope}.items()
}
"""section -> name -> class, for the sections that are one of several."""

KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a section of 'key: value' lines",
    "model_type": "a section of 'key: value' lines",
    "model_attributes_type": "a section of 'key: value' lines",
    "finite_number": "a finite number",
}
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def told(error: ValidationError, tree: Tree, where: str) -> list[Fault]:
    """One fault for each thing wrong."""
    details = error.errors(include_url=False)
    guessed = _with_guessed_names(details, tree.value)
    if guessed is not None:  # a section whose name is mistyped is looked into under the name that was meant
        found = [f for d in details if d["type"] == "union_tag_invalid" for f in _faults(d, tree, where)]
        tree = Tree(guessed, tree.places)
        try:
            Config.model_validate(guessed)
        except ValidationError as more:
            found += [f for d in more.errors(include_url=False) for f in _faults(d, tree, where)]
    else:
        found = [f for d in details for f in _faults(d, tree, where)]
    meant = {fault.text.split("'")[1] for fault in found if "; did you mean '" in fault.text}
    found = [f for f in found if not (f.text.startswith("is missing") and f.key in meant)]
    return found


def _faults(detail: ErrorDetails, tree: Tree, where: str) -> Iterator[Fault]:
    key = _key(detail["loc"])
    if detail["type"] == "faults":
        for name, text in detail["ctx"]["faults"]:
            full = (*key, *name.split(".")) if name else key
            yield Fault(_place(full, tree, where), _dotted(full), text)
        return
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = (*key, "name")
    yield Fault(_place(key, tree, where), _dotted(key), _text(detail, key, tree.value))


def _key(loc: tuple[int | str, ...]) -> Key:
    """pydantic's place without the names of the unions' members it puts behind a section, or a part of a mixture."""
    key = (loc[0], *loc[2:]) if loc and loc[0] in UNIONS else tuple(loc)
    behind = zip((None, *key), key, strict=False)
    return tuple(part for last, part in behind if not (isinstance(last, int) and part in UNIONS["data"]))


def _dotted(key: Key) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in key).lstrip(".")


def _place(key: Key, tree: Tree, where: str) -> str:
    """Where the key, or the nearest section around it, was written."""
    short = key
    while short and short not in tree.places:
        short = short[:-1]
    return tree.places.get(short, where) if short else where


def _text(detail: ErrorDetails, key: Key, value: Any) -> str:
    kind, given, ctx = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{_instead_of(key, value)}"
    if kind == "missing":
        section = len(key) == 1 and key[0] in UNIONS
        return "is missing" + (f"; allowed: {', '.join(UNIONS[str(key[0])])} (as its name)" if section else "")
    if kind == "union_tag_not_found":
        return f"is missing; allowed: {', '.join(UNIONS[str(key[0])])}"
    if kind == "union_tag_invalid":
        return _not_one_of(str(ctx["tag"]), re.findall(r"'(\w+)'", ctx["expected_tags"]))
    if kind == "literal_error":
        return _not_one_of(given, [part.strip("'") for part in ctx["expected"].replace(" or ", ", ").split(", ")])
    if kind in BOUNDS:
        which, word = BOUNDS[kind]
        return f"must be {word} {ctx[which]:g}, found {_shown(given)}"
    if kind in KINDS:
        hint = "; take the quotes away" if isinstance(given, str) and kind in ("int_type", "float_type") else ""
        return f"expected {KINDS[kind]}, found {_shown(given)}{hint if _numeric(given) else ''}"
    if kind in ("too_short", "too_long"):
        return f"has {ctx['actual_length']} entries, needs {'more' if kind == 'too_short' else 'fewer'}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '.', '_' and '-', found {_shown(given)}"
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, found {_shown(given)}"


def _numeric(given: Any) -> bool:
    try:
        float(given)
    except (TypeError, ValueError):
        return False
    return True


def _shown(given: Any) -> str:
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    if not isinstance(given, str | int | float):
        return "a list" if isinstance(given, list) else "a section"
    text = repr(given)
    return text if len(text) <= 80 else text[:77] + "..."


def _not_one_of(given: Any, allowed: Sequence[str]) -> str:
    near = nearest(given, allowed) if isinstance(given, str) else None
    hint = f"did you mean {near!r}? " if near else ""
    return f"{_shown(given)} is unknown; {hint}allowed: {', '.join(allowed)}"


def _instead_of(key: Key, value: Any) -> str:
    word, here = str(key[-1]), key[:-1]
    if word == "_target_":
        return "; a config names things of vdistill's catalog, it does not call Python"
    model = model_at(here, value)
    siblings = [*model.model_fields] if model else []
    near = nearest(word, siblings)
    if near:
        return f"; did you mean '{near}'?"
    elsewhere = [dotted for dotted in _everything(value) if dotted.split(".")[-1] == word]
    if elsewhere:
        return f"; did you mean '{elsewhere[0]}'?"
    return f"; allowed: {', '.join(siblings)}" if siblings else ""


def model_at(key: Key, value: Any) -> type[BaseModel] | None:
    """The class of the section at a place, given what the config says its names are."""
    model: type[BaseModel] | None = Config
    for part in key:
        if isinstance(part, int):  # a part of a mixture, a data section of its own
            value = value[part] if isinstance(value, list) and part < len(value) else None
            model = UNIONS["data"].get(value.get("name", "") if isinstance(value, dict) else "")
            continue
        value = value.get(part) if isinstance(value, dict) else None
        if model is Config and part in UNIONS:
            model = UNIONS[str(part)].get(value.get("name", "") if isinstance(value, dict) else "")
        else:
            field = model.model_fields.get(str(part)) if model else None
            model = section_in(field.annotation) if field else None
    return model


def _everything(value: Any) -> Iterator[str]:
    """Dotted names of all keys this config could have."""
    for name in Config.model_fields:
        yield name
        model = model_at((name,), value)
        for inner in model.model_fields if model else ():
            yield f"{name}.{inner}"
            deeper = model_at((name, inner), value)
            yield from (f"{name}.{inner}.{leaf}" for leaf in (deeper.model_fields if deeper else ()))


def _with_guessed_names(details: Sequence[ErrorDetails], value: Any) -> Any:
    guessed = None
    for detail in details:
        if detail["type"] == "union_tag_invalid":
            section = str(detail["loc"][0])
            near = nearest(str(value[section]["name"]), [*UNIONS[section]])
            if near:
                guessed = copy.deepcopy(value) if guessed is None else guessed
                guessed[section]["name"] = near
    return guessed


def nearest(word: str, words: Sequence[str]) -> str | None:
    """The word that a slip of the fingers turned into this one, or None."""
    scored = sorted((distance(word.lower(), each), each) for each in words)
    return scored[0][1] if scored and scored[0][0] <= max(1, len(word) // 3) else None


def distance(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours (optimal string alignment)."""
    two, one = [0] * (len(b) + 1), [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(one[j] + 1, row[-1] + 1, one[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], two[j - 2] + 1)
        two, one = one, row
    return one[-1]
