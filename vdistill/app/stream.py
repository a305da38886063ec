"""`vdistill stream MODEL`: video without end from a causal student, with prompts that change on the way.

As a library: `for pixels in vdistill.stream("runs/causal", "a red square moves left"): ...`
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:  # the command line reads `arguments` without paying for torch
    from torch import Tensor

    from ..causal.stream import Switch
    from .live import Live

HOW = ("recache", "keep", "blend", "cut")


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `vdistill stream`."""
    from ..families.wan_presets import PRESETS

    add = parser.add_argument
    add("model", metavar="MODEL", help="run or folder of a causal student; with --weights the base pipeline of it")
    add("--prompt", metavar="TEXT", help="what to show; the snapshot's with --resume")
    add("--switch", metavar="SECONDS:TEXT", action="append", default=[], help="from then on another prompt; repeatable")
    add("--how", choices=HOW, default="recache", help="what a switch does to what is remembered (default: recache)")
    add("--over", metavar="N", type=int, default=4, help="blocks that --how blend takes (default: 4)")
    add("--seconds", metavar="S", type=float, help="length (default: 10, or until Ctrl-C with --seconds 0)")
    add("--image", metavar="FILE", type=Path, help="a picture to begin with")
    add("--edit", metavar="FILE", type=Path, help="a video to paint over, as far as it goes")
    add("--strength", metavar="T", type=float, default=0.8, help="noise it is painted over from (default: 0.8)")
    add("--seed", type=int, default=0, help="of the noise (default: 0)")
    add("--steps", metavar="N", type=int, help="of a causal teacher; a student's are its own")
    add("--guidance", metavar="S", type=float, help="guidance scale of a causal teacher")
    add("--size", metavar="HxW", help="height x width in pixels; the model's own without it")
    add("--window", metavar="N", type=int, help="latent frames a block sees, in place of the model's")
    add("--sink", metavar="N", type=int, help="first latent frames that stay in the window, in place of the model's")
    add("--places", choices=("absolute", "relative", "anchored"), help="rotary places, in place of the model's")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add("--offload", action="store_true", help="keep what is remembered in main memory")
    add("--compile", action="store_true", help="torch.compile the network: a slower first block, faster ones after it")
    add("--fps", type=float, default=8.0, help="frames a second of the file (default: 8)")
    add("--out", metavar="FILE", type=Path, default=Path("stream.mp4"), help="MP4 to write (default: stream.mp4)")
    add("--snapshot", metavar="FILE", type=Path, help="keep the stream's end there, to go on from")
    add("--resume", metavar="FILE", type=Path, help="go on from a snapshot")
    add("--preset", choices=[name for name, p in PRESETS.items() if p.causal], help="whose blocks and times")
    add(
        "--weights", metavar="FILE", type=Path, help="public causal checkpoint (.safetensors) over MODEL; with --preset"
    )


@dataclass(frozen=True)
class Cue:
    """A prompt from a second on."""

    seconds: float
    prompt: str


def cues(texts: list[str]) -> list[Cue]:
    """From SECONDS:TEXT. UserError for anything else, or for two at once."""
    found = []
    for text in texts:
        at, colon, prompt = text.partition(":")
        try:
            found.append(Cue(float(at), prompt.strip()))
        except ValueError:
            raise UserError(f"expected SECONDS:TEXT such as 30:'a blue circle', found {text!r}", "--switch") from None
        if not colon or not prompt.strip() or not 0 < found[-1].seconds < float("inf"):
            raise UserError(f"expected SECONDS:TEXT with seconds above 0, found {text!r}", "--switch")
    found.sort(key=lambda cue: cue.seconds)
    for a, b in itertools.pairwise(found):
        if a.seconds == b.seconds:
            raise UserError(f"two prompts at second {a.seconds:g}", "--switch")
    return found


def run(args: argparse.Namespace) -> int:
    """Stream into a file; prints it. Ctrl-C ends the stream, and the file is whole."""
    from ..data.writer import video_writer
    from .live import opened
    from .lock import as_folder
    from .models import finite

    plan = cues(args.switch)
    finite(args.seconds, 0, "--seconds")
    finite(args.fps, 0.01, "--fps")
    if args.prompt is None and args.resume is None:
        raise UserError("no prompt", "stream", "give --prompt TEXT")
    if not 0 < args.strength <= 1:
        raise UserError(f"must be above 0 and at most 1, found {args.strength:g}", "--strength")
    for path, kind in ((args.out, ".mp4"), (args.snapshot, "")):
        if path is not None and (path.is_dir() or not path.name.endswith(kind)):
            raise UserError(
                "is a folder" if path.is_dir() else f"is no name of an {kind} file", str(path), "name a file"
            )
        if path is not None:
            as_folder(path.parent)
    live = opened(args)
    for cue in plan:
        live.family.text([cue.prompt])  # a caption that is too long is told now
    seconds = 10.0 if args.seconds is None else args.seconds or float("inf")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    scale = max(1, 256 // live.size[1])
    with stopping() as stopped, video_writer(args.out, args.fps, scale=scale) as file:
        for chunk, row in played(live, plan, args, seconds):
            file.write(chunk[0])
            rows.append(row)
            if stopped():
                print(f"ended after {file.frames / args.fps:.1f} s", file=sys.stderr)
                break
    if args.snapshot:
        live.keep(args.snapshot)
    args.out.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(args.out)
    tell(rows, args.fps)
    return 0


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM let the block under way be finished; what is yielded says whether one came. A second
    one interrupts as ever."""
    came: list[int] = []

    def note(number: int, where: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the caller handles signals
        old = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def played(
    live: Live, plan: list[Cue], args: argparse.Namespace, seconds: float
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Chunks of pixels, and what each took, until `seconds` are made."""
    made, waiting = 0, list(plan)
    while made < seconds * args.fps:
        while waiting and made >= waiting[0].seconds * args.fps:
            cue = waiting.pop(0)
            live.say(cue.prompt, args.how, args.over)
            if made > cue.seconds * args.fps:
                say = f"'{cue.prompt}' begins at {made / args.fps:.2f} s, with a block, and not at {cue.seconds:g} s"
                print(say, file=sys.stderr)
        begun = time.perf_counter()
        pixels = next(live)
        taken = time.perf_counter() - begun
        if seconds < float("inf") and (left := round(seconds * args.fps) - made) < pixels.shape[2]:
            pixels, live.waiting = pixels[:, :, :left], pixels[:, :, left:]
        made += pixels.shape[2]
        yield pixels, {"frames": pixels.shape[2], "seconds": round(taken, 4), "prompt": live.prompt}


def tell(rows: list[dict[str, Any]], fps: float) -> None:
    """First frame, pace and length of a stream, on stderr."""
    if not rows:
        return
    frames, later = sum(r["frames"] for r in rows), rows[1:] or rows
    pace = sum(r["frames"] for r in later) / sum(r["seconds"] for r in later)
    first = 1000 * rows[0]["seconds"]
    print(
        f"{frames / fps:.1f} s of video, first frames after {first:.0f} ms, {pace:.1f} frames a second", file=sys.stderr
    )


def stream(model: str | Path, prompt: str | None = None, *, how: Switch = "recache", **options: Any) -> Live:
    """An endless iterator over chunks of pixels [1, 3, T, H, W] in [-1, 1] of a causal student.

    options: as `vdistill stream` takes them, with underscores (seed, size, window, sink, places, image, resume, preset,
    weights, ...). `say(prompt)` changes the prompt between two chunks, `keep(file)` saves the stream there.
    """
    from .live import opened

    parser = argparse.ArgumentParser(prog="vdistill.stream", exit_on_error=False)
    arguments(parser)
    known = vars(parser.parse_args([str(model)]))
    if unknown := options.keys() - known.keys():
        raise UserError(f"no option {min(unknown)!r}", "stream", f"there are {', '.join(sorted(known))}")
    return opened(argparse.Namespace(**{**known, "prompt": prompt, "how": how, **options}))
