"""Put the numbers of a demo run into the README, and keep the run's summary as their source.

    python tools/readme_numbers.py runs/demo/summary.json     copy it to docs/demo_summary.json, rewrite the block
    python tools/readme_numbers.py --check                    exit 1 when the block is not what that file says

The block stands between the comments `<!-- numbers:begin -->` and `<!-- numbers:end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "demo_summary.json"
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- numbers:begin -->\n).*?(<!-- numbers:end -->)", re.DOTALL)
KEYS = (
    "teacher_accuracy",
    "student_accuracy",
    "teacher_same_cost_accuracy",
    "diversity_ratio",
    "speedup",
    "teacher_passes",
    "student_passes",
    "wall_s",
    "peak_rss_gib",
)


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def block(summary: Mapping[str, Any]) -> str:
    """The README's table. SystemExit naming the keys a summary lacks."""
    if missing := [key for key in KEYS if key not in summary]:
        sys.exit(f"the summary lacks {', '.join(missing)}")
    s = summary
    same = f"{s['student_passes']} passes"
    gap = s["teacher_accuracy"] - s["teacher_same_cost_accuracy"]
    closed = (s["student_accuracy"] - s["teacher_same_cost_accuracy"]) / gap if gap > 0 else 1.0
    lines = [
        "| | network passes | every attribute right |",
        "|---|---|---|",
        f"| teacher, full cost | {s['teacher_passes']} | {share(s['teacher_accuracy'])} |",
        f"| teacher, at the student's cost | {s['student_passes']} | {share(s['teacher_same_cost_accuracy'])} |",
        f"| **student**, {same}, no guidance | {s['student_passes']} | **{share(s['student_accuracy'])}** |",
        "",
        f"The student closes {share(closed)} of that gap, makes a clip {s['speedup']:.1f} times faster, and keeps "
        f"{share(s['diversity_ratio'])} of the teacher's diversity. The whole demo took {s['wall_s'] / 60:.1f} minutes "
        f"and {s['peak_rss_gib']:.1f} GiB" + (f" ({s['machine']})" if isinstance(s.get("machine"), str) else "") + ".",
    ]
    return "\n".join(lines) + "\n"


def filled(readme: str, text: str) -> str:
    """The README with the block replaced. SystemExit when it has no block."""
    new, count = BLOCK.subn(lambda m: m.group(1) + text + m.group(2), readme)
    return new if count == 1 else sys.exit(f"README.md has {count} number blocks, not one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summary", nargs="?", type=Path, help="summary.json of a demo run")
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    if args.summary:
        summary = json.loads(args.summary.read_text())
        block(summary)
        KEPT.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    if not KEPT.is_file():
        sys.exit(f"no {KEPT.relative_to(ROOT)}; name the summary.json of a demo run")
    readme = README.read_text()
    new = filled(readme, block(json.loads(KEPT.read_text())))
    if args.check:
        return int(new != readme)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
