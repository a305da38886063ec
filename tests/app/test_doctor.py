"""What doctor says of this machine is true."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch

from vdistill.app import doctor
from vdistill.app.catalog import EXTRAS, install_hint
from vdistill.app.cli import main


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return doctor.examine()


def test_versions_are_the_installed_ones(found: dict[str, object]) -> None:
    packages = found["packages"]
    assert isinstance(packages, dict) and packages["torch"] == metadata.version("torch") == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["missing"] == [n for n, v in packages.items() if v is None]


def test_cores_and_memory_are_those_of_this_process(found: dict[str, object]) -> None:
    cores, memory = found["cores"], found["memory_gib"]
    assert isinstance(cores, dict) and isinstance(memory, dict)
    assert 0 < cores["granted"] <= cores["usable"] == len(os.sched_getaffinity(0)) <= cores["machine"]
    assert 0 < memory["free"] <= memory["machine"]


def test_devices_and_attention_agree_with_torch(found: dict[str, object]) -> None:
    torch_facts, attention = found["torch"], found["attention"]
    assert isinstance(torch_facts, dict) and isinstance(attention, dict)
    assert len([d for d in torch_facts["devices"] if d.startswith("cuda")]) == torch.cuda.device_count()
    assert set(attention) == {"native", "flex", "flash", "xformers", "sage"} and attention["native"] == "works"
    if not torch.cuda.is_available():
        assert attention["flex"] == "needs CUDA" and all(v != "works" for k, v in attention.items() if k != "native")


def test_bf16_agrees_with_the_instructions_of_the_cpu(found: dict[str, object]) -> None:
    torch_facts, flags = found["torch"], Path("/proc/cpuinfo").read_text()
    assert isinstance(torch_facts, dict)
    if platform.machine() == "x86_64":
        assert torch_facts["bf16"] == ("avx512bw" in flags)
    assert f"bf16      {'works' if torch_facts['bf16'] else 'emulated'}" in "\n".join(doctor.told(found))


def test_every_extra_says_how_to_get_it(found: dict[str, object]) -> None:
    lines = "\n".join(doctor.told(found))
    for package, (extra, purpose) in EXTRAS.items():
        assert package in lines
        if doctor.version_of(package) is None:
            assert f"missing; for {purpose}: pip install 'vdistill[{extra}]'" in lines


def test_extras_are_those_of_the_project() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    extras = {k: " ".join(v).replace("-", "_") for k, v in project["optional-dependencies"].items()}
    assert [p for p, (extra, _) in EXTRAS.items() if p not in extras[extra]] == []
    assert install_hint("wandb") == "pip install 'vdistill[track]'"
    needed = " ".join(project["dependencies"]).lower()
    assert [n for n in doctor.NEEDED if n.lower() not in needed] == []


def test_a_package_that_does_not_import_is_told_apart_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenpack.py").write_text("raise RuntimeError('built for another torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.version_of("brokenpack") == "unknown" and doctor.version_of("no_such_pack") is None
    assert doctor.import_fault("brokenpack") == "does not import (RuntimeError: built for another torch)"
    assert doctor.import_fault("json") == ""


def test_trouble_makes_it_unhealthy(found: dict[str, object]) -> None:
    sick = {**found, "missing": ["av"], "troubles": {"torchvision": "does not import"}, "healthy": False}
    lines = doctor.told(sick)
    assert "MISSING   av: pip install av" in lines and "TROUBLE   torchvision: does not import" in lines


def test_json_is_json_and_the_exit_code_is_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == (0 if said["healthy"] else 1) and said["vdistill"]
