"""The `vdistill` command: what may be asked, and how every end of it looks. Imports nothing heavy itself."""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from .. import __version__
from ..core.errors import UserError
from .catalog import COMMANDS, SOLVERS, install_hint

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
EXAMPLES = """\
first steps:
  vdistill demo --out runs/demo                                   a student in minutes; open runs/demo/report.html
  vdistill demo stream                                            one that streams; open runs/demo_stream/report.html
  vdistill doctor                                                 what this machine has, and what is missing
  vdistill train configs/video/shapes_dmd2.yaml --out runs/mine   run it again to go on where it stopped
  vdistill sample runs/mine --prompt "a red square moves left" --out clips

Exit codes: 0 done, 1 the machine failed (disk full, no memory), 2 something to mend in what was asked, 130 Ctrl-C.
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        "vdistill",
        description="Distil slow video diffusion teachers into fast few-step students.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"vdistill {__version__}")
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        ARGUMENTS[name](commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + "."))
    return top


def _demo(p: argparse.ArgumentParser) -> None:
    what = "clip: a four-step student of the shipped teacher; stream: a causal one, and a minute of video from it"
    what = f"{what}; talk: one-pass students of a teacher that hears, and a minute of talking"
    kinds = ("clip", "stream", "talk")
    p.add_argument("what", nargs="?", choices=kinds, default="clip", help=f"{what} (default: clip)")
    p.add_argument("--out", metavar="DIR", type=Path, help="folder to write (default: runs/demo, or runs/demo_WHAT)")
    p.add_argument("--seconds", metavar="S", type=float, help="demo stream, talk: length of the video (default: 60)")
    p.add_argument("--clips", metavar="N", type=int, help="demo stream, talk: clips that are measured (default: 48)")
    p.add_argument("--teacher", metavar="MODEL", help="demo talk: run or folder of a teacher that hears")
    named = "demo talk: measure these, distil none: ours4, and any of scales, fast, ours2"
    p.add_argument("--students", metavar="NAME=MODEL", nargs="+", help=named)
    p.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    p.add_argument("--minutes", type=float, help="time to spend on distilling; the recipe's own without it")
    p.add_argument("--json", action="store_true", help="print the summary as JSON on stdout at the end")


def _prepare(p: argparse.ArgumentParser) -> None:
    from .prepare import arguments

    arguments(p)


def _train(p: argparse.ArgumentParser) -> None:
    p.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, see configs/")
    p.add_argument(
        "--out", metavar="RUN", type=Path, required=True, help="folder of the run, which goes on if unfinished"
    )
    _set(p)
    p.add_argument("--fresh", action="store_true", help="begin at step 0 even if RUN holds checkpoints")


def _check(p: argparse.ArgumentParser) -> None:
    p.add_argument("configs", metavar="CONFIG", nargs="*", help="YAML files")
    _set(p)
    p.add_argument("--keys", action="store_true", help="list every key with its default, meaning and unit")
    p.add_argument("--schema", action="store_true", help="print the JSON schema, for editors")


def _sample(p: argparse.ArgumentParser) -> None:
    _model(p)
    ask = p.add_mutually_exclusive_group(required=True)
    ask.add_argument("--prompt", metavar="TEXT", nargs="+", action="extend", help="one caption or more")
    ask.add_argument("--prompts", metavar="FILE", type=Path, help="a text file, one caption a line")
    _how(p)
    p.add_argument("--out", metavar="DIR", type=Path, default=Path("clips"), help="where to write (default: clips)")
    p.add_argument("--image", metavar="FILE", type=Path, help="first picture of all clips, where a model takes one")
    p.add_argument("--fps", type=float, default=8.0, help="frames a second of the files (default: 8)")
    ways = "how clips longer than the model's own are made: see docs/guides/long_video.md (default: error, refuse)"
    p.add_argument("--long", choices=("error", "direct", "windows", "extend"), default="error", help=ways)
    whole = "time above which windows are not used (default: 0.9; 1: always windows)"
    p.add_argument("--whole", metavar="T", type=float, help=whole)


def _eval(p: argparse.ArgumentParser) -> None:
    _model(p)
    what = "captions of the shapes world, or clips of new people where the model hears"
    p.add_argument("--clips", metavar="N", type=int, help=f"{what} (default: 128, or 48)")
    _how(p)
    long = "stream so long and measure every two seconds (causal), or talk so long and measure what is lost"
    p.add_argument("--seconds", metavar="S", type=float, help=long)
    split = "captions never trained on, those trained on, or all of the shapes world (default: test)"
    p.add_argument("--split", choices=("test", "train", "all"), help=split)
    hears = p.add_argument_group("of a model that hears")
    hears.add_argument("--long", metavar="N", type=int, help="clips of --seconds to measure (default: 3)")
    hears.add_argument("--duo", metavar="N", type=int, nargs="?", const=4, help="scenes of two people (default: 4)")
    hears.add_argument("--audio-scale", metavar="S", type=float, help="as in vdistill talk")
    hears.add_argument("--ref-scale", metavar="S", type=float, help="as in vdistill talk")
    p.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there too")


def _export(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    p.add_argument("--to", choices=("diffusers", "lora"), default="diffusers", help="form (default: diffusers)")
    p.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    p.add_argument("--guidance", metavar="S", type=float, help="fix the scale of a student that takes it as an input")
    p.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="of the weights on disk"
    )


def _plan(p: argparse.ArgumentParser) -> None:
    p.add_argument("config", metavar="CONFIG", type=Path, help="a YAML file, see configs/")
    _set(p)
    p.add_argument("--shape", metavar="NAME", help="published teacher to reckon with, where its folder is not here")
    p.add_argument("--gpu", metavar="NAME", default="a100-80", help="such as h100 or rtx4090 (default: a100-80)")
    p.add_argument("--gpus", metavar="N", type=int, default=1, help="that train together (default: 1)")
    p.add_argument("--mfu", metavar="X", type=float, default=0.4, help="share of the peak reached (default: 0.4)")
    p.add_argument("--json", action="store_true", help="print it as JSON")


def _bank(p: argparse.ArgumentParser) -> None:
    from .bank import arguments

    arguments(p)


def _convert(p: argparse.ArgumentParser) -> None:
    from .convert import arguments

    arguments(p)


def _stream(p: argparse.ArgumentParser) -> None:
    from .stream import arguments

    arguments(p)


def _talk(p: argparse.ArgumentParser) -> None:
    from .talk import arguments

    arguments(p)


def _doctor(p: argparse.ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="print it as JSON")


def _set(p: argparse.ArgumentParser) -> None:
    text = "override a key, such as method.steps=2 (also without --set)"
    p.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=text)


def _model(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", metavar="MODEL", help="run folder, diffusers folder, or 'shapes', the shipped teacher")


def _how(p: argparse.ArgumentParser) -> None:
    p.add_argument("--steps", metavar="N", type=int, help="of a teacher; a student's are its own")
    p.add_argument("--guidance", metavar="S", type=float, help="guidance scale of a teacher; 1 means none")
    p.add_argument("--scale", metavar="S", type=float, help="of a student that takes the guidance scale as an input")
    p.add_argument("--solver", choices=SOLVERS, help="of a teacher; own: its folder's scheduler (default: the model's)")
    p.add_argument("--seed", type=int, default=0, help="of the first noise; clip i gets seed + i (default: 0)")
    p.add_argument("--frames", type=int, help="length of the clips; the model's own without it")
    p.add_argument("--size", metavar="HxW", help="height x width in pixels; the model's own without it")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "demo": _demo,
    "prepare": _prepare,
    "train": _train,
    "check": _check,
    "sample": _sample,
    "stream": _stream,
    "talk": _talk,
    "eval": _eval,
    "export": _export,
    "bank": _bank,
    "plan": _plan,
    "convert": _convert,
    "doctor": _doctor,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, bare KEY=VALUE words of `train` as overrides. SystemExit(2) for what is not understood."""
    top = parser()
    args, rest = top.parse_known_args(argv)
    bare = [word for word in rest if args.command == "train" and OVERRIDE.match(word)]
    if len(bare) < len(rest):
        top.error(f"not understood: {' '.join(w for w in rest if w not in bare)}; see vdistill {args.command} --help")
    if bare:
        args.set = [*args.set, *bare]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code; a user's mistake and a failing machine are one line on stderr each."""
    args = parse(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # "Writing model shards", amid our own bar
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        _at_the_door(args)
        code = import_module(COMMANDS[args.command][0]).run(args)
        sys.stdout.flush()
        return int(code)
    except BrokenPipeError:  # whoever read our output has left, as in `vdistill check --keys | head`
        _close_output()
        return 141
    except (KeyboardInterrupt, Exception) as error:
        ending = describe(error)
        if ending is None or args.traceback:
            raise
        code, lines = ending
        _close_output()
        if hasattr(error, "faults") and os.environ.get("RANK", "0") != "0":  # every rank reads the same config
            time.sleep(30)  # a launcher ends all ranks with the first that fails: let rank 0 speak
        else:
            print(lines, file=sys.stderr)
        return code


def _at_the_door(args: argparse.Namespace) -> None:
    """A config is read before anything heavy is imported, so that its mistakes are told at once."""
    if args.command == "train":
        from .config import load

        load(args.config, args.set)


def _close_output() -> None:
    """What is still in stdout goes out, or nowhere if it cannot: Python would complain of that again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe(error: BaseException) -> tuple[int, str] | None:
    """(exit code, what to tell the user) of an error that is no bug; None for a bug, which deserves its traceback."""
    if isinstance(error, UserError):
        faults = getattr(error, "faults", None)  # a config's, which editors read as file:line: text
        return 2, str(error) if faults else f"vdistill: {error}"
    if isinstance(error, KeyboardInterrupt):
        return 130, "vdistill: interrupted; what was written stays, and the same command goes on where it can"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("vdistill"):
        package = error.name.split(".")[0]
        return 2, f"vdistill: this needs the package {package!r}: {install_hint(package)}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 1, f"vdistill: out of memory ({_first_line(error)}); lower train.batch or set train.guidance_batch"
    if isinstance(error, OSError):
        return 1, f"vdistill: {_os_error(error)}"
    return None


def _os_error(error: OSError) -> str:
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    text = f"{name}: {error.strerror or error}" if name else str(error.strerror or error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = next((p for p in [Path(name or "."), *Path(name or ".").parents] if p.exists()), Path("."))
        free = shutil.disk_usage(place).free
        return f"{text}; {free / 2**20:.1f} MiB are free there; checkpoints written before stay whole"
    return text


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
