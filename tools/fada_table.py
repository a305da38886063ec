"""The table of FADA's ablations out of the runs of tools/reproduce_fada.sh: DIR/table.md and DIR/table.json.

Rows that table.json has are not measured again; runs that are not there are left out and named. Use:
tools/fada_table.py DIR [--teacher MODEL] [--clips N] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from vdistill.app import config as configs
from vdistill.app.build_scales import plan_of
from vdistill.app.causal_file import read_causal
from vdistill.app.demo_talk import FEW, STEPS, talker, teacher_of
from vdistill.app.models import clip_shape, open_model
from vdistill.app.talk_exam import (
    HELD_OUT,
    IN_RANGE,
    Paper,
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
from vdistill.app.talk_shows import Talking, drift, duo, long
from vdistill.families.stock import StockFamily

CONFIG = Path(__file__).resolve().parents[1] / "configs/avatar/talker_scales.yaml"
JOINT = {"ref+audio": 2.0}
TITLES = {
    "A1": "Passes",
    "A2": "How scales are told: error to the guided target over what guidance does; sync, identity by scale",
    "A4": "Supervision by clips of which half are damaged; at (1, 1) and at the usual scales",
    "A7": "Long clips: the first and the last five seconds",
    "A8": "Two people in one picture: aperture energy of who is silent over that of who speaks",
}
ABOUT = """\
FADA's ablations (arXiv 2412.16915) on the talker world. **Our reconstruction**: FADA has no public code; teacher, data,
forms of tokens and losses, and measures are ours, so no number here is one of the paper's. Budget and commands:
`tools/reproduce_fada.sh`. Sync-PCC is better higher; identity error and jitter lower.
"""
NOTES = {
    "A4": "Not run: `sync`, as the world's clips bring no confidence of sync.",
    "A7": "A causal student (sink and rolling cache) is measured where DIR has a run of one, named causal.",
    "A8": "Not run: a teacher without the region loss; the shipped recipe has it, so masks here are residual and loss.",
}
Row = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Bench:
    """What rows are measured with. out: folder of the runs; name: of the teacher."""

    out: Path
    name: str
    clips: int
    seconds: float

    @cached_property
    def known(self) -> tuple[StockFamily, tuple[int, ...], Paper, Paper]:
        """(teacher, shape of latents, paper, a third of it)."""
        family, about = teacher_of(self.name)
        given = paper(self.clips, about.frames, about.height)
        shape = clip_shape(family, about.frames, about.height, about.width)
        return family, shape, given, given.part(slice(max(2, self.clips // 3)))

    @cached_property
    def scales(self) -> tuple[dict[str, float], dict[str, float]]:
        """(usual, largest)."""
        spec = configs.load(CONFIG).scales
        assert spec is not None
        return ({k: v.usual for k, v in spec.conditions.items()}, {k: v.top for k, v in spec.conditions.items()})

    def has(self, run: str) -> bool:
        """Whether a run is finished."""
        return (self.out / run / "student").is_dir()

    def student(self, run: str) -> StockFamily:
        """The student of a run."""
        return open_model(self.out / run)

    def rows(self) -> dict[str, tuple[str, Row]]:
        """ "A1/name" -> (the run it needs, its measures)."""
        return {**self.passes(), **self.tokens(), **self.supervision(), **self.lengths(), **self.masks()}

    # -- A1 ----------------------------------------------------------------------------------------------------------

    def passes(self) -> dict[str, tuple[str, Row]]:
        usual, _ = self.scales
        return {
            f"A1/{name}": (run, partial(self.scored, make))
            for name, run, make in (
                ("teacher, 25 steps of 3", "", lambda: guided_way(self.known[0], usual, STEPS)),
                ("teacher, 6 steps of 3", "", lambda: guided_way(self.known[0], usual, FEW)),
                ("teacher, 6 steps of 1, no guidance", "", lambda: guided_way(self.known[0], {}, FEW)),
                ("balanced, 6 steps of 3", "scales", lambda: guided_way(self.student("scales"), usual, FEW)),
                ("fast, 6 steps of 1", "six", lambda: told_way(self.student("six"), usual)),
                ("joint guidance, 6 of 1", "joint_six", lambda: told_way(self.student("joint_six"), JOINT)),
                ("no guidance, 6 of 1", "unguided_six", lambda: told_way(self.student("unguided_six"), {})),
            )
        }

    def scored(self, make: Callable[[], Way]) -> dict[str, float]:
        """The columns of a way to make clips."""
        _, shape, given, _ = self.known
        found = scores(rendered(make(), given, shape), given)
        return {k: found[k] for k in ("passes", "sync_pcc", "offset", "identity_error", "jitter", "seconds_per_clip")}

    # -- A2 ----------------------------------------------------------------------------------------------------------

    def tokens(self) -> dict[str, tuple[str, Row]]:
        runs = {
            "none": "tokens_none", "fixed": "tokens_fixed", "adaln": "tokens_adaln", "both, K = 4": "tokens_both",
            "token, K = 1": "tokens_token_1", "token, K = 4": "scales", "token, K = 8": "tokens_token_8",
        }  # fmt: skip
        return {f"A2/{name}": (run, partial(self.adjustable, run)) for name, run in runs.items()}

    def adjustable(self, run: str) -> dict[str, float]:
        """Errors to the guided target, and sync and identity at scales of 1, the usual and the largest."""
        teacher, shape, _, few = self.known
        family, (usual, most) = self.student(run), self.scales
        spec = configs.load(CONFIG).scales
        assert spec is not None
        plan, found, ask = plan_of(spec), dict[str, float](), partial(said, family, family.net)
        for where, points in (("usual", [usual]), ("in range", scale_points(most, IN_RANGE)),
                              ("held out", scale_points(most, HELD_OUT))):  # fmt: skip
            found[f"error, {where}"] = target_error(ask, teacher, plan, few, points).of_guidance
        for name, key, up in (("audio", "sync_pcc", 1), ("ref", "identity_error", -1)):
            rows = responses(family, few, shape, usual, name, (1.0, usual[name], most[name]))
            values = [row[key] for row in rows]
            found |= {f"{key}, {name} {row['scale']:g}": row[key] for row in rows}
            found[f"{name} monotone"] = float(all(up * (b - a) > 0 for a, b in zip(values, values[1:], strict=False)))
        return found

    # -- A4 ----------------------------------------------------------------------------------------------------------

    def supervision(self) -> dict[str, tuple[str, Row]]:
        runs = {
            "teacher only": "scales", "raw, region": "data_raw_region", "delta, region": "data_delta_region",
            "unit, region": "data_unit_region", "delta, const": "data_delta_const",
            "delta, by quality": "data_delta_by_quality", "delta, disagreement": "data_delta_disagreement",
            "delta, gradnorm": "data_delta_gradnorm", "data alone": "data_only",
            "delta, region, slow, replaces": "data_delta_slow", "the same, quality token": "data_delta_slow_quality",
        }  # fmt: skip
        return {f"A4/{name}": (run, partial(self.learned, run)) for name, run in runs.items()}

    def learned(self, run: str) -> dict[str, float]:
        """Sync, identity error and jitter without guidance and with the usual scales, in 25 steps of one pass."""
        _, shape, given, _ = self.known
        family, (usual, _), found = self.student(run), self.scales, dict[str, float]()
        for where, scales in (("(1, 1)", dict.fromkeys(usual, 1.0)), ("usual", usual)):
            row = scores(rendered(told_way(family, scales, STEPS), given, shape), given)
            found |= {f"{key}, {where}": row[key] for key in ("sync_pcc", "identity_error", "jitter")}
        return found

    # -- A7 and A8 ---------------------------------------------------------------------------------------------------

    def talker(self, run: str) -> Talking:
        _, about = teacher_of(self.name)
        return talker(self.student(run), self.out / run / "student", self.scales[0], about)

    def causal(self) -> Talking:
        """The student of the run "causal", which keeps its guidance in its weights."""
        _, about = teacher_of(self.name)
        family, folder = self.student("causal"), self.out / "causal" / "student"
        return Talking(family, {}, about.frames, about.height, causal=read_causal(folder))

    def lengths(self) -> dict[str, tuple[str, Row]]:
        return {
            "A7/blocks shown their past": ("six", lambda: both_ends(long(self.talker("six"), self.seconds).scores)),
            "A7/blocks drawn to their past": (
                "six", lambda: both_ends(long(replace(self.talker("six"), begins=0), self.seconds).scores)),
            "A7/shifted windows": (
                "six", lambda: both_ends(long(self.talker("six"), self.seconds, windows=True).scores)),
            "A7/causal, with a memory": ("causal", lambda: both_ends(long(self.causal(), self.seconds).scores)),
        }  # fmt: skip

    def masks(self) -> dict[str, tuple[str, Row]]:
        def leak(masked: bool) -> dict[str, float]:
            return {"crosstalk": duo(self.talker("six"), masked=masked).scores["crosstalk"]}

        return {
            "A8/one sound for both": ("six", lambda: leak(False)),
            "A8/a sound and a mask for each": ("six", lambda: leak(True)),
        }


def both_ends(found: Mapping[str, float]) -> dict[str, float]:
    """The columns of long clips."""
    names = [f"{key}_{end}" for key in ("sync_pcc", "identity_error", "colour") for end in ("first", "last")]
    return {k: found[k] for k in [*names, "offset_largest"]} | {"drift": drift(found)}


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown, a table for each ablation."""
    parts = [ABOUT]
    for ablation, title in TITLES.items():
        own = {name.split("/", 1)[1]: row for name, row in rows.items() if name.startswith(f"{ablation}/")}
        if not own:
            continue
        keys = list(dict.fromkeys(key for row in own.values() for key in row))
        lines = [f"## {ablation}. {title}\n", f"| | {' | '.join(k.replace('_', ' ') for k in keys)} |",
                 f"|---|{'---|' * len(keys)}"]  # fmt: skip
        for name, row in own.items():
            lines.append(f"| {name} | {' | '.join(f'{row[k]:.3g}' if k in row else '' for k in keys)} |")
        parts.append("\n".join(lines) + f"\n\n{NOTES.get(ablation, '')}".rstrip() + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", default="talker")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    bench, path = Bench(args.out, args.teacher, args.clips, args.seconds), args.out / "table.json"
    saved = json.loads(path.read_text()) if path.is_file() else {}
    how = {"teacher": args.teacher, "clips": args.clips, "seconds": args.seconds}
    found = saved.get("rows", {}) if saved.get("how") == how else {}
    for name, (run, measure) in bench.rows().items():
        if name in found:
            continue
        if run and not bench.has(run):
            print(f"{name}: no run {run}")
            continue
        found[name] = dict(measure())
        print(name, {k: round(v, 4) for k, v in found[name].items()})
        path.write_text(json.dumps({"how": how, "rows": found}, indent=1) + "\n")
    (args.out / "table.md").write_text(table(found))
    print(args.out / "table.md")


if __name__ == "__main__":
    main()
