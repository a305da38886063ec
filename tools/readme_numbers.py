"""Put the numbers of a demo run into the README, and keep the run's summary as their source.

    python tools/readme_numbers.py runs/demo/summary.json     copy it to docs/demo_summary.json, rewrite its block
    python tools/readme_numbers.py runs/demo_stream/summary.json     likewise docs/demo_stream_summary.json
    python tools/readme_numbers.py runs/demo_talk/summary.json       likewise docs/demo_talk_summary.json
    python tools/readme_numbers.py --check                    exit 1 when a block is not what its file says

The blocks stand between the comments `<!-- numbers:begin -->` and `<!-- numbers:end -->`, or likewise
`stream-numbers` and `talk-numbers`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def clip(s: Mapping[str, Any]) -> list[str]:
    """What `vdistill demo` found."""
    gap = s["teacher_accuracy"] - s["teacher_same_cost_accuracy"]
    closed = (s["student_accuracy"] - s["teacher_same_cost_accuracy"]) / gap if gap > 0 else 1.0
    return [
        "| | network passes | every attribute right |",
        "|---|---|---|",
        f"| teacher, full cost | {s['teacher_passes']} | {share(s['teacher_accuracy'])} |",
        f"| teacher, at the student's cost | {s['student_passes']} | {share(s['teacher_same_cost_accuracy'])} |",
        f"| **student**, {s['student_passes']} passes, no guidance | {s['student_passes']} "
        f"| **{share(s['student_accuracy'])}** |",
        "",
        f"The student closes {share(closed)} of that gap, makes a clip {s['speedup']:.1f} times faster, and keeps "
        f"{share(s['diversity_ratio'])} of the teacher's diversity. The whole demo took {spent(s)}.",
    ]


def stream(s: Mapping[str, Any]) -> list[str]:
    """What `vdistill demo stream` found."""
    return [
        f"| every attribute right | first 5 s | last 5 s of {s['seconds']:.0f} s |",
        "|---|---|---|",
        f"| teacher, clips of 2 s, 100 passes | {share(s['teacher_accuracy'])} | |",
        f"| causal student as shipped | {share(s['init_only_accuracy_first_5s'])} "
        f"| {share(s['init_only_accuracy_last_5s'])} |",
        f"| **the same after Self-Forcing here** | **{share(s['accuracy_first_5s'])}** "
        f"| **{share(s['accuracy_last_5s'])}** |",
        f"| the teacher, captions of the whole world | {share(s['world_teacher_accuracy'])} | |",
        f"| **the student, captions of the whole world** | **{share(s['world_accuracy_first_5s'])}** "
        f"| **{share(s['world_accuracy_last_5s'])}** |",
        "",
        f"First frame after {s['first_frame_ms']:.0f} ms, then {s['fps']:.0f} frames a second (it plays at "
        f"{s['native_fps']:.0f}); a block costs {s['cached_speedup']:.1f} times less than computing its past again. "
        f"{s['clips']} captions of things never trained on, and {s['clips']} as the world draws them, "
        f"{s['world_held_out']} of them of such things; the whole demo took {spent(s)}.",
    ]


TALKERS = {
    "teacher": "teacher, 25 steps of 3 passes",
    "balanced": "student that is told its scales, 6 steps of 3",
    "fast": "student of 6 steps",
    "ours4": "**student of 4 steps**, as shipped",
    "ours2": "student of 2 steps",
    "plain": "teacher, 6 steps of 1, no guidance",
}


def talk(s: Mapping[str, Any]) -> list[str]:
    """What `vdistill demo talk` found, of the ways it measured."""
    rows = [
        f"| {text} | {s[name]['passes']} | {s[name]['sync_pcc']:.3f} | {s[name]['identity_error']:.3f} "
        f"| {s[name]['jitter']:.4f} | {s[name]['seconds_per_clip']:.2f} |"
        for name, text in TALKERS.items() if name in s
    ]  # fmt: skip
    live, long = s["sessions"][s["main"]], s["long"]
    return [
        "| | network passes | Sync-PCC | identity error | jitter | seconds a clip |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"{s['clips']} clips of 17 frames, of people nobody has seen and of voices held out. A live session of the "
        f"student runs {live['realtime_factor']:.1f} times as fast as real time; over a minute, on average of "
        f"{len(s['drifts_60s'])} clips, sync goes from {long['sync_pcc_first']:.2f} to {long['sync_pcc_last']:.2f} and "
        f"identity error from {long['identity_error_first']:.2f} to {long['identity_error_last']:.2f}; in pictures of "
        f"two, {share(s['duo_leak'])} of one mouth's energy leaks into the other ({s['machine']}).",
    ]


def spent(s: Mapping[str, Any]) -> str:
    """Time and memory, and of which machine where the summary knows."""
    where = f" ({s['machine']})" if isinstance(s.get("machine"), str) else ""
    return f"{s['wall_s'] / 60:.1f} minutes and {s['peak_rss_gib']:.1f} GiB{where}"


@dataclass(frozen=True)
class Block:
    """Lines of the README between comments that name it, from a summary that is kept in the repository. mark: a key
    that only its summaries have."""

    name: str
    kept: Path
    mark: str
    lines: Callable[[Mapping[str, Any]], list[str]]

    def text(self, summary: Mapping[str, Any]) -> str:
        """SystemExit naming the first key a summary lacks."""
        try:
            return "\n".join(self.lines(summary)) + "\n"
        except KeyError as error:
            sys.exit(f"the summary lacks {error.args[0]}")

    def filled(self, readme: str, summary: Mapping[str, Any]) -> str:
        """The README with the block replaced. SystemExit when it has no block."""
        between = re.compile(rf"(<!-- {self.name}:begin -->\n).*?(<!-- {self.name}:end -->)", re.DOTALL)
        text = self.text(summary)
        new, count = between.subn(lambda m: m.group(1) + text + m.group(2), readme)
        return new if count == 1 else sys.exit(f"README.md has {count} blocks {self.name}, not one")


BLOCKS = (
    Block("numbers", ROOT / "docs" / "demo_summary.json", "student_accuracy", clip),
    Block("stream-numbers", ROOT / "docs" / "demo_stream_summary.json", "first_frame_ms", stream),
    Block("talk-numbers", ROOT / "docs" / "demo_talk_summary.json", "duo_leak", talk),
)


def keep(path: Path) -> None:
    """Copy a summary to where its block takes it from. SystemExit for one of no demo."""
    summary = json.loads(path.read_text())
    block = next((b for b in BLOCKS if b.mark in summary), None)
    if block is None:
        sys.exit(f"{path} is no summary of a demo: it lacks {' and '.join(b.mark for b in BLOCKS)}")
    block.text(summary)
    block.kept.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", nargs="?", type=Path, help="summary.json of a demo run")
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    if args.summary:
        keep(args.summary)
    readme = new = README.read_text()
    for block in BLOCKS:
        if not block.kept.is_file():
            sys.exit(f"no {block.kept.relative_to(ROOT)}; name the summary.json of a demo run")
        new = block.filled(new, json.loads(block.kept.read_text()))
    if args.check:
        return int(new != readme)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
