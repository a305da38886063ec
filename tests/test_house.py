"""The house around the package: pins, install commands, links, headers. What a newcomer would trip over first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".json", ".svg", ".html", ""}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pins() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines if line)}


def written_here() -> list[Path]:
    """Every text file that belongs to the project: what git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / line for line in listed.stdout.splitlines()]
    return [f for f in files if f.is_file() and f.suffix in TEXT and f.name != "LICENSE"]


@pytest.mark.parametrize("which", ["core", "dev"])
def test_every_requirement_is_pinned_within_its_own_range(which: str) -> None:
    wanted = PROJECT["dependencies"] if which == "core" else PROJECT["optional-dependencies"]["dev"]
    for requirement in map(Requirement, wanted):
        pinned = pins().get(canonicalize_name(requirement.name))
        assert pinned, f"{requirement.name} has no line in constraints.txt"
        assert requirement.specifier.contains(Version(pinned)), f"{requirement} does not admit {pinned}"


def test_no_pin_carries_a_local_version() -> None:
    assert [name for name, version in pins().items() if "+" in version] == []


def test_packages_that_break_beside_cpu_torch_stay_out() -> None:
    unwanted = {"torchvision", "torchaudio", "lpips", "torch-fidelity", "timm"}
    everything = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    assert not unwanted & ({canonicalize_name(Requirement(r).name) for r in everything} | set(pins()))


def test_every_promised_extra_is_there() -> None:
    assert {"media", "audio", "serve", "cuda", "track", "dev"} <= set(PROJECT["optional-dependencies"])


def test_every_install_command_uses_the_constraints() -> None:
    files = [ROOT / "Makefile", ROOT / ".ci" / "run", *PAGES]
    bad = [
        f"{relative(file)}: {line.strip()}"
        for file in files
        for line in file.read_text().splitlines()
        if re.search(r"pip install\b.*(-e |vdistill|\.\[)", line) and "-c constraints.txt" not in line
    ]
    assert bad == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", page.read_text())
    for link in (a or b for a, b in links):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.split("#")[0]).exists(), f"{relative(page)} links to {link}"


def test_every_guide_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [g.name for g in ROOT.glob("docs/guides/*.md") if f"guides/{g.name}" not in index] == []


def test_the_changelog_opens_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first and first.group(1) == PROJECT["version"]


def test_the_package_says_the_same_version() -> None:
    said = re.search(r'^__version__ = "(.+)"', (ROOT / "vdistill" / "__init__.py").read_text(), re.MULTILINE)
    assert said and said.group(1) == PROJECT["version"]


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text and PROJECT["license"] == "Apache-2.0"


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    paths = re.compile("/(?:" + "|".join(["work/main", "tmp/venv", "home/[a-z]", "opt/wheels", "root/"]) + ")")
    assert [relative(f) for f in written_here() if paths.search(f.read_text(errors="replace"))] == []


def test_no_weights_are_pickled() -> None:
    pickled = {".pt", ".pth", ".ckpt", ".pkl", ".bin"}
    assert [relative(f) for f in (ROOT / "vdistill").rglob("*") if f.suffix in pickled] == []


def test_the_table_of_families_is_what_the_contract_test_found() -> None:
    done = subprocess.run([sys.executable, "tools/make_matrix.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shipped_weights_are_small_and_carry_a_card() -> None:
    weights = list((ROOT / "vdistill").glob("assets/**/*.safetensors"))
    assert weights, "the teacher is missing"
    for folder in {f.relative_to(ROOT / "vdistill" / "assets").parts[0] for f in weights}:
        assert list((ROOT / "vdistill" / "assets" / folder).rglob("*.md")), f"assets/{folder} has no model card"
        most = 15e6 if "talker" in folder else 12e6
        assert sum(f.stat().st_size for f in weights if folder in f.parts) <= most, folder
    assert sum(f.stat().st_size for f in weights) <= 60e6


@pytest.mark.parametrize("config", CONFIGS, ids=relative)
def test_every_config_opens_with_a_header(config: Path) -> None:
    """Paper, hardware, hours and what number to expect, as comments before the first key."""
    lines = config.read_text().splitlines()
    header = "\n".join(lines[: next(i for i, line in enumerate(lines) if line and not line.startswith("#"))]).lower()
    assert [word for word in ("hardware", "time", "expect") if word not in header] == []


def cpu_seconds_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


def test_help_is_quick_and_leaves_torch_alone() -> None:
    """`vdistill --help` in under half a second, without torch. CPU seconds, so that a busy machine passes too."""
    code = "import sys; from vdistill.app.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'diffusers', 'transformers', 'av', 'numpy', 'pydantic'} & set(sys.modules)\n"
    code += "sys.exit(f'imported {heavy}' if heavy else 0)"
    seconds = []
    for _ in range(3):
        start = cpu_seconds_of_children()
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        seconds.append(cpu_seconds_of_children() - start)
        assert run.returncode == 0, run.stderr
        assert "demo" in run.stdout and "distil" in run.stdout.lower()
    assert min(seconds) < 0.5


def test_a_socket_beyond_loopback_is_refused() -> None:
    import socket

    with pytest.raises(PermissionError, match="loopback"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(PermissionError, match="loopback"):
        socket.create_connection(("example.org", 80), timeout=1)


def test_a_loopback_socket_works() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        there, _ = server.accept()
        client.sendall(b"hi")
        assert there.recv(2) == b"hi"
        there.close()
