"""`vdistill demo talk`: the talker teacher into students of one pass that keep its scales, and what they look like."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from ..families.stock import StockFamily
from .about import About
from .about import about as told_by
from .build_avatar import conditions_of
from .build_scales import plan_of
from .demos import distil, interrupted, machine, recipe
from .generate import Sampled
from .lock import as_folder
from .models import about_model, clip_shape, finite, model_folder, open_model, whole_number
from .schema import Config
from .talk import TALKER
from .talk_exam import (
    HELD_OUT,
    IN_RANGE,
    Paper,
    TargetError,
    Way,
    guided_way,
    paper,
    rendered,
    responses,
    said,
    scale_points,
    scores,
    target_error,
    told_way,
)  # fmt: skip
from .talk_report import films, page_of, write_talk_report
from .talk_shows import Shown, Talking, both, long, on_average, realtime, scenes
from .train import STUDENT, peak_gib, say

TEACHER = "talker"
ASSET = "demo_talk.yaml"
CLIPS, SECONDS = 48, 60.0
LONG, SCENES = 4, 4  # clips of so many seconds, and scenes of two people
PASSES = 3  # of the chain: neither, reference, reference and sound
MAIN = "ours4"  # the student whose scales, minute and session are shown, and that comes with the package
STEPS, FEW = 25, 6  # of the teacher, and of the balanced student
PROBES = {"audio": (1.0, 2.0, 4.0), "ref": (1.0, 1.5, 3.0)}  # values of each scale whose effect is measured


@dataclass(frozen=True)
class Stage:
    """One training. share: of --minutes; overrides: of the recipe, told of the folder it starts from."""

    share: float
    steps: int = 0
    times: tuple[float, ...] = ()

    def config(self, name: str, start: Path | str, about: About, seed: int) -> Config:
        """Its config, from a model folder whose clips `about` tells."""
        found = [f"name=demo_talk_{name}", f"family.path={json.dumps(str(start))}",
                 f"family.size={about.height}", f"family.frames={about.frames}"]  # fmt: skip
        if self.times:
            found += ["method.supervision=null", f"method.times={list(self.times)}", "method.substeps=4",
                      "method.inputs=mix", "optim.lr=2e-4", f"train.steps={self.steps}"]  # fmt: skip
        return recipe(ASSET, seed, found)


STAGES = {
    "scales": Stage(0.4),
    "fast": Stage(0.2, 320, (1.0, 0.94, 0.86, 0.75, 0.6, 0.375)),
    "ours4": Stage(0.2, 320, (1.0, 0.9, 0.75, 0.5)),
    "ours2": Stage(0.2, 320, (1.0, 0.75)),
}
"""Guidance first, then steps: the last three start from the first."""


def run(args: argparse.Namespace) -> int:
    """0 when the report is written; 130 after Ctrl-C, and the same command goes on."""
    begun, out = time.perf_counter(), Path(args.out or "runs/demo_talk")
    as_folder(out)
    finite(args.minutes, 0.001, "--minutes")
    clips = CLIPS if args.clips is None else args.clips
    whole_number(clips, 2, "--clips", 10_000)
    seconds = SECONDS if args.seconds is None else args.seconds
    if not 10 <= seconds <= 600:
        raise UserError(f"must be from 10 to 600, found {seconds:g}", "--seconds")
    teacher, about = teacher_of(args.teacher or TEACHER)
    folders = students(args, out, about)
    if folders is None:
        return 130
    out.mkdir(parents=True, exist_ok=True)
    show = measured(teacher, about, folders, args.seed, clips, seconds)
    found = show.summary() | {"clips": clips, "seconds": seconds, "seed": args.seed, "machine": machine()}
    found |= {"teacher_model": args.teacher or TEACHER, "students": {k: str(v) for k, v in folders.items()}}
    found |= {"wall_s": time.perf_counter() - begun, "peak_rss_gib": peak_gib(torch.device("cpu"))}
    (out / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    for line in spoken_lines(found):
        say(line)
    video = films(out, show.longs[0], show.duos[0], about.height)
    write_talk_report(out / "report.html", page_of(show, found, video, folders))
    print(json.dumps(found) if args.json else out / "report.html")
    return 0


def teacher_of(name: str) -> tuple[StockFamily, About]:
    """The teacher and what is known of it. UserError for one that does not hear, or a student."""
    family = open_model(name)
    conditions_of(family)
    if family.times is not None:
        what = f"is a student of {len(family.times)} steps"
        raise UserError(what, name, "give the teacher it was distilled from")
    about = about_model(family, model_folder(name))
    if about.height != about.width:
        raise UserError(f"makes clips of {about.width}x{about.height}", name, "the talker world is square")
    return family, about


def students(args: argparse.Namespace, out: Path, about: About) -> dict[str, Path] | None:
    """Model folders by stage: of students that are named, of the one that comes with the package, or, with --minutes or
    for another teacher, of all of them, distilled here; None where a signal ended it."""
    if args.students is not None:
        if args.minutes is not None:
            raise UserError("measures students, and --minutes distils them", "--students", "give one of both")
        return named(args.students)
    if args.minutes is None and args.teacher in (None, TEACHER):
        return {MAIN: model_folder(TALKER)}
    found: dict[str, Path] = {}
    start: Path | str = args.teacher or TEACHER
    for name, stage in STAGES.items():
        say(f"distilling {name}")
        minutes = None if args.minutes is None else stage.share * args.minutes
        if interrupted(distil(stage.config(name, start, about, args.seed), out / name, minutes)):
            return None
        found[name] = out / name / STUDENT
        start = found["scales"]
    return found


def named(words: Sequence[str]) -> dict[str, Path]:
    """NAME=MODEL: students that are there, in the order of their stages. UserError for other names, or without MAIN."""
    found: dict[str, Path] = {}
    for word in words:
        name, _, model = word.partition("=")
        if name not in STAGES or not model:
            raise UserError(f"found {word!r}", "--students", f"give NAME=MODEL, a name of {', '.join(STAGES)}")
        found[name] = model_folder(model)
        family = open_model(found[name])
        conditions_of(family)
        if (family.times is None) != (not STAGES[name].times):
            what = "takes any number of steps" if STAGES[name].times else "is a student of few steps"
            raise UserError(f"{what}, {name} does not", model, "give it another name")
    if MAIN not in found:
        raise UserError(f"lacks {MAIN}, the one whose minute is shown", "--students", f"add {MAIN}=MODEL")
    return {name: found[name] for name in STAGES if name in found}


# -- what is measured -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Show:
    """Everything measured and made. rows: way -> scores; made: way -> clips of the paper; errors: to the guided target,
    of the student named scales, if there is one; response: scale -> rows."""

    rows: dict[str, dict[str, float]]
    made: dict[str, Sampled]
    given: Paper
    errors: dict[str, TargetError]
    response: dict[str, list[dict[str, float]]]
    longs: Sequence[Shown]
    duos: Sequence[Shown]
    sessions: dict[str, dict[str, float]]

    def summary(self) -> dict[str, Any]:
        """A dictionary for each way, then single numbers."""
        full = self.rows["teacher"]
        against = {
            name: {
                "passes": full["passes"] / row["passes"],
                "speedup": full["seconds_per_clip"] / row["seconds_per_clip"],
                **{k: row[k] / full[k] for k in ("sync_pcc", "identity_error", "jitter") if full[k]},
            }
            for name, row in self.rows.items()
        }
        live, leaks = on_average(self.longs), [each.scores["crosstalk"] for each in self.duos]
        return {
            **self.rows,
            "main": MAIN,
            "against_teacher": against,
            **{f"target_error_{where}": error.relative for where, error in self.errors.items()},
            **{f"ignorant_error_{where}": error.ignorant for where, error in self.errors.items()},
            **{f"guidance_error_{where}": error.of_guidance for where, error in self.errors.items()},
            "sync_by_audio_scale": {f"{r['scale']:g}": r["sync_pcc"] for r in self.response["audio"]},
            "identity_by_ref_scale": {f"{r['scale']:g}": r["identity_error"] for r in self.response["ref"]},
            "drift_60s": live["drift"],
            "long": live,
            "drifts_60s": [each.scores["drift"] for each in self.longs],
            "duo_leak": sum(leaks) / len(leaks),
            "duo_leaks": leaks,
            "session_realtime_factor": live["realtime_factor"],
            "sessions": self.sessions,
        }


def measured(
    teacher: StockFamily, about: About, folders: Mapping[str, Path], seed: int, clips: int, seconds: float
) -> Show:
    """Teacher and students on people and voices nobody has seen, a long clip, and two people."""
    config = recipe(ASSET, seed)
    assert config.scales is not None
    usual = {name: each.usual for name, each in config.scales.conditions.items()}
    most = {name: each.top for name, each in config.scales.conditions.items()}
    opened = {name: open_model(folder) for name, folder in folders.items()}
    shape = clip_shape(teacher, about.frames, about.height, about.width)
    say(f"measuring {clips} clips of people and voices nobody has seen")
    given = paper(clips, about.frames, about.height)
    few = given.part(slice(max(2, clips // 3)))
    made = {name: rendered(way, given, shape, seed) for name, way in ways(teacher, opened, usual).items()}
    rows = {name: scores(each, given) for name, each in made.items()}
    say("measuring scales: in the range that was learned, and beyond it")
    errors = {}
    if student := opened.get("scales"):
        ask, plan = partial(said, student, student.net), plan_of(config.scales)
        for where, shares in (("in_range", IN_RANGE), ("held_out", HELD_OUT)):
            errors[where] = target_error(ask, teacher, plan, few, scale_points(most, shares))
    response = {name: responses(opened[MAIN], few, shape, usual, name, values) for name, values in PROBES.items()}
    talkers = {name: talker(family, folders[name], usual, about) for name, family in opened.items() if name != "scales"}
    say(f"{LONG} clips of {seconds:g} s, and {SCENES} of two people who take turns")
    sessions = {name: realtime(talker) for name, talker in talkers.items()}
    longs = [long(talkers[MAIN], seconds, seed + i, index=i) for i in range(LONG)]
    duos = [both(talkers[MAIN], clip, seed + i) for i, clip in enumerate(islice(scenes(about.height), SCENES))]
    return Show(rows, made, given, errors, response, longs, duos, sessions)


def talker(family: StockFamily, folder: Path, scales: Mapping[str, float], teacher: About) -> Talking:
    """A student in sessions; it goes on from the past as it learned to, or as its teacher did."""
    own = told_by(folder)
    past = own if own.begins else teacher
    return Talking(family, scales, teacher.frames, teacher.height, past.begins, past.level)


def ways(teacher: StockFamily, opened: Mapping[str, StockFamily], usual: Mapping[str, float]) -> dict[str, Way]:
    """The ways in the order of the table, of the students there are. plain: the teacher without guidance in as many
    passes as fast would take."""
    balanced = {"balanced": guided_way(opened["scales"], usual, FEW)} if "scales" in opened else {}
    students = {name: told_way(family, usual) for name, family in opened.items() if name != "scales"}
    return {"teacher": guided_way(teacher, usual, STEPS), **balanced, **students, "plain": guided_way(teacher, {}, FEW)}


def spoken_lines(found: Mapping[str, Any]) -> Sequence[str]:
    """What was found, for the terminal."""
    lines = [
        f"{name}: {found[name]['passes']} passes ({against['passes']:.3g}x fewer), sync {found[name]['sync_pcc']:.3f}, "
        f"identity error {found[name]['identity_error']:.3f}, jitter {found[name]['jitter']:.4f}, "
        f"{found[name]['seconds_per_clip']:.2f} s a clip"
        for name, against in found["against_teacher"].items()
    ]
    return [
        *lines,
        *(f"error to the guided target, {name}: {found[f'target_error_{where}']:.3f} of it; who ignores the scales: "
          f"{found[f'ignorant_error_{where}']:.3f}"
          for name, where in (("in range", "in_range"), ("beyond it", "held_out"))
          if f"target_error_{where}" in found),
        f"drift over {found['seconds']:g} s: {found['drift_60s']:+.1%}; leak between two speakers: "
        f"{found['duo_leak']:.3f}; session: {found['session_realtime_factor']:.2f} x real time",
    ]  # fmt: skip
