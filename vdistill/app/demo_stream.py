"""`vdistill demo stream`: the shipped causal student learns on from its own rollouts, and streams for a minute."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..causal.attend import Masked
from ..causal.masks import block_causal
from ..core.errors import UserError
from ..data.writer import video_writer
from ..worlds.endless import WINDOW, accuracy_at
from ..worlds.shapes import held_out, parse
from .demos import TEACHER, distil, facts, interrupted, machine, recipe
from .evaluate import exam
from .generate import generate
from .lock import as_folder
from .models import finite, open_model, whole_number
from .over_time import ENDS, FPS, measured, streamed, summary
from .report import Sampler
from .schema import Config
from .stream import Cue, played, stream
from .stream_report import StreamReport, Way, write_stream_report
from .streaming import causal_of, stream_of
from .train import CONFIG, peak_gib, say

PROMPTS = ("a red circle moves left", "a cyan square moves up")
SHOWN, SIZE = 4, 32
STILLS = 12  # frames of the stream on the page
AGAIN = 20  # number of the block whose cost is compared with that of computing the whole past again
DRIFT = ("sharpness", "motion_energy", "contrast", "identity")


def run(args: argparse.Namespace) -> int:
    """0 when the report is written; 130 after Ctrl-C, and the same command goes on."""
    begun, out = time.perf_counter(), Path(args.out or "runs/demo_stream")
    as_folder(out)
    finite(args.minutes, 0.001, "--minutes")
    seconds = 60.0 if args.seconds is None else args.seconds
    if not 2 * ENDS <= seconds < float("inf"):
        raise UserError(f"must be {2 * ENDS:g} or more, found {seconds:g}", "--seconds")
    clips = 48 if args.clips is None else args.clips
    whole_number(clips, SHOWN, "--clips")
    config = recipe("demo_stream.yaml", args.seed)
    engine = distil(config, out / "run", args.minutes)
    if interrupted(engine):
        return 130
    say(f"streaming {seconds:g} s with another prompt from second {seconds / 2:g} on")
    shown = show(out / "run", out / "stream.mp4", seconds, args.seed)
    say(f"measuring {clips} streams of {seconds:g} s, with Self-Forcing and without, and the teacher; then others")
    results = compared(config, out / "run", clips, seconds)
    found: dict[str, Any] = results.summary() | shown.summary() | {"cached_speedup": cached_speedup(out / "run")}
    found |= {"seconds": seconds, "clips": clips, "seed": args.seed, "steps": engine.step, "machine": machine()}
    found |= {"wall_s": time.perf_counter() - begun, "peak_rss_gib": peak_gib(torch.device("cpu"))}
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    write_stream_report(out / "report.html", page(results, shown, out, config, found))
    print(json.dumps(found) if args.json else out / "report.html")
    return 0


# -- one stream, watched --------------------------------------------------------------------------------------------


@dataclass
class Shown:
    """A stream as it was made. rows: a block each, with "second" of the video, "seconds" it took, "frames", and bytes
    of the "process" (0 where the system does not tell) and of what the stream "remembered"."""

    path: Path
    switch: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    stills: list[tuple[float, Tensor]] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """first_frame_ms, fps, native_fps, block_ms, memory_growth."""
        later = self.rows[1:]
        quarter = next(r for r in self.rows if r["second"] >= self.rows[-1]["second"] / 4)
        return {
            "first_frame_ms": 1000 * self.rows[0]["seconds"],
            "fps": sum(r["frames"] for r in later) / sum(r["seconds"] for r in later),
            "native_fps": FPS,
            "block_ms": 1000 * median(r["seconds"] for r in later),
            "memory_growth": self.rows[-1]["remembered"] / quarter["remembered"],
        }


def show(model: Path, path: Path, seconds: float, seed: int) -> Shown:
    """Stream into a file, and note what every block took."""
    live, found = stream(model, PROMPTS[0], seed=seed), Shown(path, seconds / 2)
    how = argparse.Namespace(how="recache", over=4, fps=FPS)
    with video_writer(path, FPS, scale=8) as file:
        for chunk, row in played(live, [Cue(found.switch, PROMPTS[1])], how, seconds):
            second = file.frames / FPS
            file.write(chunk[0])
            if second >= len(found.stills) * seconds / STILLS:
                found.stills.append((second, chunk[0, :, 0]))
            found.rows.append({**row, "second": second, "remembered": live.stream.nbytes(), "process": resident()})
    return found


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


@torch.no_grad()
def cached_speedup(model: Path) -> float:
    """Seconds of a block when all blocks before it are computed again at each step, over seconds with memory."""
    family, spec = open_model(model), causal_of(model)
    live = stream_of(family, spec, [PROMPTS[0]], (SIZE, SIZE))
    clip = torch.cat([next(live) for _ in range(AGAIN)], 2)
    times, mask = live.plan.times, Masked(block_causal(live.plan.layout, AGAIN + 1))
    past = torch.zeros(1, clip.shape[2], dtype=torch.float64)

    def again() -> None:
        for t in times:
            x = torch.cat([clip, torch.randn_like(clip[:, :, :1])], 2)
            family.net.x0(x, torch.cat([past, past[:, :1] + t], 1), live.cond, attend=mask)

    with_memory, without = [], []
    for _ in range(9):  # in turn, so that other work on the machine is shared by both
        with_memory.append(taken(lambda: next(live)))
        without.append(taken(again))
    return median(without[1:]) / median(with_memory[1:])


def taken(work: Any) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# -- many streams, measured -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Streams:
    """What a model made of the captions, and what was measured of it. ends: pixels of the first and last two seconds of
    the clips that are shown."""

    name: str
    passes: int
    rows: list[dict[str, float]]
    ends: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Results:
    """The student, the same without Self-Forcing, and the teacher's clips, of held-out captions; the student of
    captions of the whole world, as they come, and how many of these are held out; the teacher's accuracies."""

    student: Streams
    init: Streams
    world: Streams
    teacher_accuracy: float
    world_teacher_accuracy: float
    world_held_out: int
    teacher: Tensor
    captions: Sequence[str]

    def summary(self) -> dict[str, float]:
        """Accuracies of the teacher's clips and of both ends of the streams."""
        found = {"teacher_accuracy": self.teacher_accuracy, "world_teacher_accuracy": self.world_teacher_accuracy}
        found["world_held_out"] = self.world_held_out
        ends = {"": self.student, "init_only_": self.init, "world_": self.world}
        return found | {f"{who}{k}": v for who, made in ends.items() for k, v in summary(made.rows).items()}


def compared(config: Config, model: Path, clips: int, seconds: float) -> Results:
    """Stream every caption with both students and let the teacher make a clip of it; then others with the student."""
    start, teacher = getattr(config.family, "path", ""), open_model("shapes")
    captions, others = exam(clips).captions, exam(clips, split="all").captions
    student = streams("Student, self-forced", str(model), captions, seconds)
    init = streams("Without Self-Forcing", start, captions, seconds)
    world = streams("Student, captions as the world draws them", str(model), others, seconds)
    made = [generate(teacher, told, TEACHER, WINDOW, (SIZE, SIZE)).pixels for told in (captions, others)]
    right = [accuracy_at(pixels, told, 0)["all"] for pixels, told in zip(made, (captions, others), strict=True)]
    count = sum(held_out(parse(caption)[0]) for caption in others)
    return Results(student, init, world, right[0], right[1], count, made[0][:SHOWN], captions)


def streams(name: str, model: str, captions: Sequence[str], seconds: float) -> Streams:
    """Every caption streamed at once."""
    family, spec = open_model(model), causal_of(model)
    pixels = streamed(family, spec, captions, seconds, SIZE)
    passes = len(spec.times or family.times or ()) + 1
    ends = pixels[:SHOWN, :, :WINDOW].clone(), pixels[:SHOWN, :, -WINDOW:].clone()
    return Streams(name, passes, measured(pixels, captions), ends)


# -- the page -------------------------------------------------------------------------------------------------------


def page(results: Results, shown: Shown, out: Path, config: Config, found: dict[str, Any]) -> StreamReport:
    """What the report shows."""
    student, init, world, end = results.student, results.init, results.world, f"last {WINDOW / FPS:.0f} s"
    samplers = [
        Sampler(name, list(clips), 0, 0.0, {}, {})
        for name, clips in (
            ("Teacher, 50 steps", results.teacher), ("Student, first 2 s", student.ends[0]),
            (f"Student, {end}", student.ends[1]), (f"Without Self-Forcing, {end}", init.ends[1]),
        )
    ]  # fmt: skip
    first = student.rows[0]
    process = [(r["second"], r["process"] / 2**20) for r in shown.rows if r["process"]]
    return StreamReport(
        title="A causal student, streaming on this machine",
        subtitle=f"{found['seconds']:.0f} s of video in {student.passes} network passes a block, at "
        f"{found['fps']:.0f} frames a second; the prompt changes on the way.",
        video=shown.path.read_bytes(),
        poster=shown.stills[0][1],
        prompts=[(0.0, PROMPTS[0]), (shown.switch, PROMPTS[1])],
        strip=shown.stills,
        ways=[way(student), way(init), way(world)],
        samplers=samplers,
        captions=list(results.captions[:SHOWN]),
        accuracy={s.name: [(r["second"] + 1, r["accuracy"]) for r in s.rows] for s in (student, init, world)},
        drift={
            k.replace("_", " "): [(r["second"] + 1, r[k] / first[k]) for r in student.rows] for k in DRIFT if first[k]
        },
        latency=[(r["second"], 1000 * r["seconds"]) for r in shown.rows],
        memory={"process": process, "remembered": [(r["second"], r["remembered"] / 2**20) for r in shown.rows]},
        facts=facts(config, found, len(results.captions)),
        command_to_continue=f"vdistill train {out / 'run' / CONFIG} --out {out / 'run'} "
        f"train.steps={2 * config.train.steps}",
        summary=found,
    )  # fmt: skip


def way(made: Streams) -> Way:
    """A column of the table."""
    ends, last = summary(made.rows), made.rows[-1]
    return Way(
        made.name,
        made.passes,
        {
            "Every attribute right, first 5 s": ends["accuracy_first_5s"],
            "Every attribute right, last 5 s": ends["accuracy_last_5s"],
            "Colour right, last 2 s": last["colour"],
            "Shape right, last 2 s": last["shape"],
            "Motion right, last 2 s": last["motion"],
        },
    )
