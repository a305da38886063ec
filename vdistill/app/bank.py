"""`vdistill bank CONFIG --out BANK`: a teacher's trajectories on disk, for training that needs no teacher passes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:  # the command line reads `arguments` without paying for torch
    from ..core.bank import Shard
    from .trajectories import Trajectories

SOLVERS = ("ddim", "euler", "heun", "dpmpp_2m")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `vdistill bank`."""
    add = parser.add_argument
    add("config", metavar="CONFIG", type=Path, help="the YAML file of the training: its family, data and method")
    add("--out", metavar="BANK", type=Path, required=True, help="folder to write; run again to go on or to add")
    add("--count", metavar="N", type=int, required=True, help="trajectories the bank is to hold")
    add("--steps", metavar="K", type=int, default=50, help="steps of the teacher (default: 50)")
    add(
        "--keep",
        metavar="WHICH",
        default="pairs",
        help="states to keep beside the result: pairs (the noise), path (all), student (at the times of the config's "
        "student), or times such as 1,0.5 (default: pairs)",
    )
    add("--solver", choices=SOLVERS, default="ddim", help="of the teacher (default: ddim)")
    add("--guidance", metavar="S", help="guidance scale, or LOW:HIGH to draw one for each; the method's without it")
    add("--batch", metavar="B", type=int, default=16, help="trajectories computed at once (default: 16)")
    add("--seed", type=int, help="of noise and captions (default: the config's)")
    add("--shard", metavar="N", type=int, default=16, help="trajectories in a file (default: 16)")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="on disk (default: float32)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--rank", metavar="R", type=int, help="which of several processes this is (default: $RANK, or 0)")
    add("--world", metavar="W", type=int, help="how many processes write the bank (default: $WORLD_SIZE, or 1)")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a key of the config")


class Stopped(BaseException):
    """SIGINT or SIGTERM came; shards written before are whole."""


@dataclass(frozen=True)
class Share:
    """What this process writes of a bank of `count` trajectories, `shard` in a file: shards rank, rank + world, ..."""

    count: int
    shard: int
    batch: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return -(-self.count // self.shard)

    def indices(self, number: int) -> range:
        """Trajectories of a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, self.count))

    def missing(self, found: dict[int, Shard]) -> list[int]:
        """Shards of all processes that are not there whole."""
        whole = {n for n, s in found.items() if not s.damage and s.count >= len(self.indices(n))}
        return [n for n in range(len(self)) if n not in whole]

    def own(self, numbers: Sequence[int]) -> list[int]:
        """Those of them that are this process's."""
        return [n for n in numbers if n % self.world == self.rank]


def run(args: argparse.Namespace) -> int:
    """0 when this process's share is written, 130 after Ctrl-C, 0 after SIGTERM (whole shards stay). UserError else."""
    from . import config as configs
    from .models import device_of
    from .trajectories import open_trajectories

    share, scale = share_of(args), scale_of(args.guidance)
    config, out = configs.load(args.config, args.set), Path(args.out)
    seed = config.seed if args.seed is None else args.seed
    with signals():
        try:
            made_of = open_trajectories(
                config,
                steps=args.steps,
                keep=args.keep,
                solver=args.solver,
                scale=scale,
                seed=seed,
                dtype=args.dtype,
                device=device_of(args.device),
            )
            write(out, made_of, share)
        except Stopped as stopped:
            say(f"{stopped}: shards written so far are whole; the same command goes on from there")
            return 130 if str(stopped) == "SIGINT" else 0
    return 0


def write(out: Path, trajectories: Trajectories, share: Share) -> None:
    """This process's share of the bank in `out`, from where it stands. UserError for a bank of other settings."""
    from tqdm import tqdm

    from ..core.bank import BankWriter, part, written
    from .lock import as_folder, sole_writer

    as_folder(out)
    claim(out, trajectories.settings | {"shard": share.shard}, share.count)
    home = part(out, share.rank)
    with sole_writer(home):
        missing = share.missing(written(out)[1])
        room(out, trajectories, share, missing)
        writer, todo = BankWriter(home, trajectories.keep), share.own(missing)
        total, begun = sum(len(share.indices(n)) for n in todo), time.perf_counter()
        hidden = True if share.rank else None
        with tqdm(total=total, desc="bank", unit="trajectory", disable=hidden) as bar:
            for number in todo:
                shard = []
                for batch in batches(share.indices(number), share.batch):
                    shard.append(trajectories.make(batch))
                    bar.update(len(batch))
                store(writer, number, shard)
        seconds = time.perf_counter() - begun
    rate = f"{total} trajectories in {seconds:.1f} s, {total / seconds:.2f} a second" if total else "nothing to do"
    left = len(share.missing(written(out)[1]))
    state = f"{left} shards are still to come from other processes" if left else f"all {share.count} are there"
    say(f"{f'rank {share.rank}: ' if share.world > 1 else ''}{rate}; {state}: {out}")


def store(writer: Any, number: int, made: Sequence[Any]) -> None:
    """One shard of the batches that make it."""
    import torch

    from ..core.cond import Cond

    states, conds, texts = zip(*made, strict=True)
    writer.add(torch.cat(states), Cond.cat(conds), number, [text for some in texts for text in some])


def batches(indices: range, size: int) -> Iterator[range]:
    """Neighbours, `size` at a time."""
    return (indices[i : i + size] for i in range(0, len(indices), size))


def claim(out: Path, settings: dict[str, Any], count: int) -> None:
    """Make the folder this bank's. UserError, naming what differs, for a bank made with other settings."""
    from ..data.bank import ABOUT, read_about, write_about

    asked = json.loads(json.dumps(settings))
    if not (out / ABOUT).exists():
        if out.exists() and any(p.name[0] != "." and not p.name.startswith("part-") for p in out.iterdir()):
            raise UserError("holds files and is no bank of this command", str(out), "use another --out")
        out.mkdir(parents=True, exist_ok=True)
        write_about(out, count, settings)
    there, known = read_about(out)
    other = [f"{k} {known.get(k)!r}, not {asked.get(k)!r}" for k in {**known, **asked} if known.get(k) != asked.get(k)]
    if other:
        raise UserError(f"was made with {'; '.join(other)}", str(out), "use another --out")
    if there != count:
        write_about(out, count, settings)


def room(out: Path, trajectories: Trajectories, share: Share, missing: Sequence[int]) -> None:
    """Say how large the bank becomes. UserError when the disk has not the room for what is missing."""
    (each, once), count = trajectories.bytes(), sum(len(share.indices(n)) for n in missing)
    whole, needed, free = each * share.count + once * len(share), each * count + once * len(missing), free_bytes(out)
    if not share.rank:
        say(f"{share.count} trajectories of {size(each)}, {size(whole)} in all; {count} to go; {size(free)} are free")
    if needed > free:
        found = f"{count} trajectories need {size(needed)}, {size(free)} are free"
        raise UserError(found, str(out), "lower --count, keep fewer states, or --dtype bfloat16")


def free_bytes(folder: Path) -> int:
    """What is free where the bank goes."""
    return shutil.disk_usage(folder).free


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            break
        count, unit = count / 1024, "TiB"
    return f"{count:.3g} {unit}"


def share_of(args: argparse.Namespace) -> Share:
    """Checked numbers of the command line and of the launcher's environment. UserError for what cannot be."""
    from .models import whole_number

    for key in ("count", "steps", "batch", "shard"):
        whole_number(getattr(args, key), 1, f"--{key}")
    whole_number(args.seed, 0, "--seed", 2**63)
    world = launched("WORLD_SIZE", 1) if args.world is None else args.world
    rank = launched("RANK", 0) if args.rank is None else args.rank
    whole_number(world, 1, "--world")
    if not 0 <= rank < world:
        raise UserError(f"of {world} processes is one of 0..{world - 1}, found {rank}", "--rank")
    return Share(args.count, args.shard, args.batch, rank, world)


def launched(name: str, default: int) -> int:
    """A number torchrun puts into the environment."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise UserError(f"expected a whole number, found {text!r}", f"${name}")
    return int(text)


def scale_of(text: str | None) -> float | tuple[float, float] | None:
    """A scale, or LOW:HIGH. UserError for anything else."""
    from .models import finite

    if text is None:
        return None
    try:
        numbers = [float(word) for word in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise UserError(f"expected a scale or LOW:HIGH, found {text!r}", "--guidance", "such as 4 or 1:6")
    for number in numbers:
        finite(number, 0, "--guidance")
    if numbers[0] > numbers[-1]:
        raise UserError(f"{numbers[0]:g} is above {numbers[1]:g}", "--guidance")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped, wherever the work is."""

    def stop(number: int, where: Any) -> None:
        raise Stopped(signal.Signals(number).name)

    try:
        old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller handles signals
        old = {}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """To the user, on stderr."""
    print(text, file=sys.stderr)
