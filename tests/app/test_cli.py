"""The command as a user meets it: quick help, one clear line for every mistake, exit codes that mean something."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vdistill
from vdistill.app.catalog import COMMANDS, SOLVERS
from vdistill.app.cli import ARGUMENTS, describe, main, parse, parser
from vdistill.core.errors import NonFinite, UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "video" / "shapes_dmd2.yaml")


def vd(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    """`python -m vdistill WORDS` in a process of its own."""
    command = [sys.executable, "-m", "vdistill", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **more)  # type: ignore[call-overload,no-any-return]


def test_the_command_line_is_built_without_heavy_packages() -> None:
    code = "import sys, vdistill; from vdistill.app.cli import parser; parser().format_help()\n"
    code += "print(*{'torch', 'numpy', 'diffusers', 'transformers', 'av', 'pydantic', 'yaml'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"vdistill {command}" in shown and COMMANDS[command][1][1:40] in shown


def test_every_command_has_arguments_and_every_argument_has_help() -> None:
    assert set(ARGUMENTS) == set(COMMANDS)
    for command, build in ARGUMENTS.items():
        build(own := argparse.ArgumentParser(command))
        assert [a.dest for a in own._actions if not a.help] == []


def test_the_arguments_other_modules_rely_on() -> None:
    asked = parse(["train", "c.yaml", "--out", "r", "--set", "a.b=1", "c.d=2", "--fresh"])
    assert (asked.config, asked.out, asked.set, asked.fresh) == (Path("c.yaml"), Path("r"), ["a.b=1", "c.d=2"], True)
    assert parse(["train", "c.yaml", "x.y=1", "--out", "r"]).set == ["x.y=1"]
    asked = parse(["sample", "shapes", "--prompt", "a", "b", "--prompt", "c", "--steps", "8", "--guidance", "2"])
    assert (asked.model, asked.prompt, asked.steps, asked.guidance) == ("shapes", ["a", "b", "c"], 8, 2.0)
    assert (asked.prompts, asked.seed, asked.out, asked.frames) == (None, 0, Path("clips"), None)
    assert asked.solver is None and "own" in SOLVERS
    asked = parse(["eval", "r", "--clips", "4", "--json", "f.json"])
    assert (asked.model, asked.clips, asked.steps, asked.guidance, asked.json) == ("r", 4, None, None, Path("f.json"))
    asked = parse(["export", "r", "--to", "lora", "o"])
    assert (asked.run, asked.to, asked.out) == (Path("r"), "lora", Path("o"))
    asked = parse(["demo", "--out", "o", "--minutes", "3", "--json"])
    assert (asked.out, asked.seed, asked.minutes, asked.json) == (Path("o"), 0, 3.0, True)
    asked = parse(["prepare", "src", "--out", "o", "--frames", "17", "--fps", "8", "--limit-bad", "0.1", "--allow-bad"])
    assert (asked.src, asked.out, asked.frames, asked.allow_bad) == (Path("src"), Path("o"), 17, True)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trian"],
        ["train", "c.yaml"],
        ["train", "c.yaml", "--out", "r", "--fesh"],
        ["train", "c.yaml", "--out", "r", "x"],
        ["sample", "m"],
        ["export", "r", "--to", "onnx", "o"],
        ["sample", "m", "--prompt", "a", "--x"],
    ],
    ids=" ".join,
)
def test_what_is_not_understood_exits_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "vdistill" in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    with pytest.raises(SystemExit):
        main(["--version"])
    said = capsys.readouterr().out.split()[-1]
    assert said == vdistill.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


# -- how it ends ----------------------------------------------------------------------------------------------------


def test_check_says_ok_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", CONFIG, "train.steps=7"]) == 0
    assert "shapes_dmd2.yaml: ok" in (shown := capsys.readouterr()).out and "7 steps" in shown.out and not shown.err


def test_check_goes_through_all_files_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"extends: {CONFIG}\nmethod:\n  windw: 3\n  stpes: 3\n")
    assert main(["check", str(bad), str(tmp_path / "none.yaml"), CONFIG]) == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[1] == f"{bad}:4: method.stpes: unknown key; did you mean 'steps'?"
    assert shown.err.splitlines()[2].startswith(f"{tmp_path}/none.yaml: cannot be read") and ": ok" in shown.out


def test_check_says_which_paths_are_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"extends: {CONFIG}\ndata: {{name: latents, path: nowhere}}\n")
    assert main(["check", str(own)]) == 0
    assert capsys.readouterr().err == f"note: {own}:2: data.path: nothing at 'nowhere'; vdistill prepare makes it\n"


def test_keys_and_schema_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert main(["check", "--keys"]) == 0
    assert "method.critic_per_student" in (keys := capsys.readouterr().out) and "train.steps" in keys
    assert main(["check", "--schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)
    assert main(["check"]) == 2


def test_a_bad_config_of_train_is_told_like_check_tells_it() -> None:
    done = vd("train", CONFIG, "--out", "unused", "method.windw=3")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("--set method.windw: unknown key") and len(done.stderr.splitlines()) == 1
    assert not (ROOT / "unused").exists()


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("too short", "clip 3", "drop it"), 2, "vdistill: clip 3: too short; drop it"),
        (NonFinite("not finite", "student"), 2, "vdistill: student: not finite"),
        (KeyboardInterrupt(), 130, "vdistill: interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "vdistill: /x/y: No space left on device; "),
        (PermissionError(errno.EACCES, "Permission denied", b"/x"), 1, "vdistill: /x: Permission denied"),
        (OSError("odd"), 1, "vdistill: odd"),
        (MemoryError(), 1, "vdistill: out of memory (MemoryError); lower train.batch"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb.sdk"), 2, "pip install 'vdistill[track]'"),
    ],
)
def test_no_traceback_for_what_is_no_bug(error: BaseException, code: int, says: str) -> None:
    ending = describe(error)
    assert ending and ending[0] == code and says in ending[1] and "\n" not in ending[1]


def test_a_full_disk_tells_how_much_is_free() -> None:
    ending = describe(OSError(errno.ENOSPC, "No space left on device", "/tmp/no/such"))
    assert ending and "MiB are free there" in ending[1]


@pytest.mark.parametrize("bug", [ValueError("x"), RuntimeError("x"), ModuleNotFoundError(name="vdistill.app.x")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    assert describe(bug) is None


def test_a_reader_who_leaves_gets_no_complaint() -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m vdistill check --schema | head -c 1 >/dev/null', sys.executable],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stderr, done.returncode in (0, 141)) == ("", True)
    left = subprocess.Popen([sys.executable, "-m", "vdistill", "check", "--schema"], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip
    assert left.stdout and left.stderr
    left.stdout.close()
    assert left.stderr.read() == b"" and left.wait() == 141
    left.stderr.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_to_a_full_disk_is_one_line_and_exit_1() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "vdistill", "check", CONFIG], cwd=ROOT, stdout=full,
                              stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("vdistill: No space left") and done.stderr.count("\n") == 1


def test_the_public_names_load_when_asked_for() -> None:
    assert set(vdistill.__all__) <= set(dir(vdistill)) and len(vdistill.__all__) >= 12
    assert all(getattr(vdistill, name) is not None for name in vdistill.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vdistill.nothing  # noqa: B018


def test_the_parser_is_whole() -> None:
    assert all(command in parser().format_help() for command in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        (["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no"], 1),
        (["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], 2),
    ],
    ids=["accelerate", "torchrun"],
)  # fmt: skip
def test_launchers_start_it(launcher: list[str], processes: int) -> None:
    command = [sys.executable, "-m", *launcher, "-m", "vdistill"]
    done = subprocess.run([*command, "check", CONFIG], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("shapes_dmd2.yaml: ok") == processes, done.stderr
    wrong = [*command, "train", CONFIG, "--out", "unused", "train.stpes=3"]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr.count("did you mean 'steps'?") == 1
