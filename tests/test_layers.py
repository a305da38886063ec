"""Who may import whom, and what no file of the package may contain: the architecture as a test, read with `ast`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vdistill"
FILES = sorted(PACKAGE.rglob("*.py"))
GUESTS = {"methods", "families", "causal", "video", "avatar", "discriminators", "data", "worlds", "eval"}
LAYERS = GUESTS | {"core", "app", "serve"}

CORE_PACKAGES = {"torch", "einops", "safetensors"}
HOMES = {  # third-party package -> where in the package it may be imported
    "accelerate": {"core/engine.py", "app/train.py"},  # app: the trackers it asks for
    "peft": {"core/scope.py", "families/"},
    "diffusers": {"families/", "avatar/", "app/export.py"},
    "transformers": {"families/", "avatar/", "app/export.py"},
    "av": {"data/", "avatar/", "worlds/"},
    "decord": {"data/", "avatar/", "worlds/"},
    "librosa": {"data/", "avatar/", "worlds/"},
    "soundfile": {"data/", "avatar/", "worlds/"},
}
NOT_IN_CORE = {"video", "frame", "fps", "audio", "face", "lip"}
LONGEST, HARD_LONGEST = 300, 400
REASONS_TO_BE_LONG: dict[str, str] = {}  # path inside the package -> why one idea needs more than 300 lines


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def layer(path: str) -> str:
    return path.split("/")[0] if "/" in path else ""


def imports(path: str, tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file, relative ones resolved to `vdistill....`."""
    package = ["vdistill", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            bare = whole == "vdistill" or whole in {f"vdistill.{each}" for each in LAYERS}
            yield from (f"{whole}.{alias.name}" for alias in node.names) if bare else [whole]


def import_faults(path: str, source: str) -> list[str]:
    """Every import of a file that the architecture forbids, as sentences."""
    faults, home = [], layer(path)
    for dotted in imports(path, ast.parse(source)):
        top, *rest = dotted.split(".")
        if top != "vdistill":
            if home == "core" and top not in CORE_PACKAGES | sys.stdlib_module_names | set(HOMES):
                faults.append(f"{path} imports {top}; core knows {', '.join(sorted(CORE_PACKAGES))} only")
            if top in HOMES and not any(path == h or (h.endswith("/") and path.startswith(h)) for h in HOMES[top]):
                faults.append(f"{path} imports {top}; its home is {', '.join(sorted(HOMES[top]))}")
            continue
        other = rest[0] if rest and rest[0] in LAYERS else ""
        if not other and home != "app":
            faults.append(f"{path} imports the package's front door {dotted}")
        elif home == "core" and other != "core":
            faults.append(f"{path} imports {dotted}; core imports nothing above it")
        elif home in GUESTS and other not in ("core", home):
            faults.append(f"{path} imports {dotted}; {home} may import core and itself, never a sibling")
        elif home == "serve" and other not in ("core", "app", "serve"):
            faults.append(f"{path} imports {dotted}; serve may import core and app")
    return faults


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def words(identifier: str) -> set[str]:
    """`maxFrame_count` -> {max, frame, count}; a plural counts as its singular."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)
    return {w for part in parts for w in (part.lower(), part.lower().removesuffix("s"))}


def modality_faults(path: str, source: str) -> list[str]:
    found = {i for i in identifiers(ast.parse(source)) if words(i) & NOT_IN_CORE}
    return [f"{path} says {i!r}; core is blind to modality" for i in sorted(found)]


def content_faults(path: str, source: str) -> list[str]:
    """Pickle, hidden non-finite values, stubs and asserts-for-users that no file of the package may contain."""
    faults = []
    for node in ast.walk(tree := ast.parse(source)):
        where = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
            faults.append(f"{where} calls torch.load; weights are safetensors")
        if isinstance(node, ast.Attribute | ast.Name | ast.alias) and ast.unparse(node).split(".")[-1] == "nan_to_num":
            faults.append(f"{where} hides non-finite values with nan_to_num")
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            faults.append(f"{where} is a stub")
        if isinstance(node, ast.ClassDef) and (bad := words(node.name) & {"manager", "helper", "util", "base"}):
            faults.append(f"{where} class {node.name}: {', '.join(bad)} is not an idea")
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    faults += [f"{path} imports {dotted}" for dotted in imports(path, tree) if dotted.split(".")[0] in banned]
    faults += [f"{path} still says {word}" for word in ("TODO", "FIXME", "XXX") if re.search(rf"\b{word}\b", source)]
    return faults


def import_graph() -> dict[str, set[str]]:
    """core file -> the core files it imports when it is loaded (imports inside functions do not count)."""
    graph = {}
    for file in PACKAGE.glob("core/**/*.py"):
        tree, found = ast.parse(file.read_text()), set()
        for node in tree.body:
            for dotted in imports(name(file), node) if isinstance(node, ast.Import | ast.ImportFrom) else ():
                stem = dotted.removeprefix("vdistill.").replace(".", "/")
                found |= {p for p in (f"{stem}.py", f"{stem}/__init__.py") if (PACKAGE / p).is_file()}
        graph[name(file)] = found
    return graph


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_keeps_the_layers(file: Path) -> None:
    assert import_faults(name(file), file.read_text()) == []


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("core/**/*.py")), ids=name)
def test_core_is_blind_to_modality(file: Path) -> None:
    assert modality_faults(name(file), file.read_text()) == []


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_holds_nothing_forbidden(file: Path) -> None:
    assert content_faults(name(file), file.read_text()) == []


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_is_short(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= (HARD_LONGEST if name(file) in REASONS_TO_BE_LONG else LONGEST), "split it by idea"


def test_every_method_is_one_short_file() -> None:
    long = {name(f): n for f in PACKAGE.glob("methods/*.py") if (n := len(f.read_text().splitlines())) > 150}
    assert long == {}


def test_core_imports_run_in_one_direction() -> None:
    graph, done, path = import_graph(), set(), []

    def visit(file: str) -> None:
        assert file not in path, f"import cycle: {' -> '.join([*path[path.index(file) :], file])}"
        if file not in done:
            path.append(file)
            for each in sorted(graph.get(file, ())):
                visit(each)
            path.pop()
            done.add(file)

    for file in graph:
        visit(file)


def test_nothing_in_the_package_imports_tests_or_tools() -> None:
    for file in FILES:
        tops = {dotted.split(".")[0] for dotted in imports(name(file), ast.parse(file.read_text()))}
        assert not tops & {"tests", "tools"}, name(file)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/cond.py", "import diffusers"),
        ("core/cond.py", "import numpy"),
        ("core/cond.py", "def f():\n    from ..methods.flow import Flow"),
        ("core/optim.py", "import accelerate"),
        ("methods/flow.py", "from ..families.tiny import TinyFamily"),
        ("methods/flow.py", "from .. import data"),
        ("methods/flow.py", "from vdistill.eval.frechet import frechet"),
        ("methods/flow.py", "import vdistill"),
        ("methods/flow.py", "from .. import __version__"),
        ("methods/flow.py", "import peft"),
        ("eval/drift.py", "import av"),
        ("data/media.py", "import transformers"),
        ("serve/web.py", "from ..families import tiny"),
    ],
)
def test_a_forbidden_import_is_seen(path: str, source: str) -> None:
    assert len(import_faults(path, source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "import pickle",
        "from torch import nan_to_num",
        "x.nan_to_num()",
        "raise NotImplementedError",
        "class ClipManager: ...",
        "x = 1  # TODO later",
    ],
)
def test_forbidden_content_is_seen(source: str) -> None:
    assert content_faults("core/x.py", source)


@pytest.mark.parametrize(
    "source", ["frames = 1", "def f(max_frame): ...", "x.videoFPS", "f(audio=1)", "class LipSync: ..."]
)
def test_a_modality_word_in_core_is_seen(source: str) -> None:
    assert modality_faults("core/x.py", source)


@pytest.mark.parametrize("source", ["clip(x)", "flip = 1", "interface = 2", "ellipse = 3", "'frame'"])
def test_an_innocent_word_in_core_is_not(source: str) -> None:
    assert modality_faults("core/x.py", source) == []
