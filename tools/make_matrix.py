"""The table of families and methods, made from what the contract test found: nothing in it is typed by hand.

    python tools/make_matrix.py            run the contract test; write its results and the tables
    python tools/make_matrix.py --check    exit 1 unless page and README say what docs/families.json holds

The results are docs/families.json; the tables docs/families.md and the README's block. A cell is *exact* when every
contract test of the variant passed and the method trained it, and *real* when verified on published weights
(docs/real_weights.json: variant -> method -> what was measured; empty until someone has done it).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEST = "tests/families/test_contract.py"
KEPT, REAL, PAGE, README = (
    ROOT / p for p in ("docs/families.json", "docs/real_weights.json", "docs/families.md", "README.md")
)
BLOCK = re.compile(r"(<!-- families:begin -->\n).*?(<!-- families:end -->)", re.DOTALL)
METHODS = {"flow": "flow", "guidance": "guidance distillation", "lcm": "LCM", "dmd2": "DMD2"}
MOVES = "test_a_method_moves_the_student_and_nothing_else"
HEAD = """# Families and methods

Made by `python tools/make_matrix.py` from the results of `{test}` ({count} tests on tiny random
weights of the stock diffusers classes; diffusers {diffusers}, torch {torch}). *Exact*: the noise path, a guided 5-step
sampling loop, the attention seam, tapped features, the exported student in its stock pipeline and a LoRA through the
stock loader agree with diffusers to 1e-5, and the method trained the student without touching the teacher. *Real*:
verified on published weights; where no cell says so, no checkpoint was at hand. The last column: how a student takes
the guidance scale as an input, so that it stays a dial after distillation.

"""


class Outcomes:
    """A pytest plugin: test -> variant (or method-variant) -> passed."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, bool]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        match = re.search(r"::(\w+)\[(.+)\]$", report.nodeid)
        if match and (report.when == "call" or report.failed):
            self.found[match[1]][match[2]] = report.passed


def ran() -> dict[str, Any]:
    """Run the contract test: {versions, tests, rows}; rows: variant -> family, pipeline, contract, methods, scale."""
    import diffusers
    import torch

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", str(ROOT / TEST)], plugins=[outcomes])
    found = outcomes.found
    contract = import_module("contract")  # beside the test

    rows = {}
    for variant in contract.REGISTERED:
        family = contract.case(variant).family
        rows[variant] = {
            "family": family.name,
            "pipeline": type(family.pipe).__name__,
            "contract": {test: passed[variant] for test, passed in sorted(found.items()) if variant in passed},
            "methods": {m: found[MOVES].get(f"{m}-{variant}", False) for m in METHODS},
            "scale": scale_input(family),
        }
    versions = {"diffusers": diffusers.__version__, "torch": torch.__version__}
    return {"versions": versions, "tests": sum(map(len, found.values())), "rows": rows}


def scale_input(family: Any) -> str:
    """How a student takes the guidance scale: "own", "added", or why it cannot."""
    from vdistill.core.errors import UserError

    network = family.network_of()
    if network.takes_scale:
        return "own"
    try:
        network.with_scale_input()
    except UserError as error:
        return f"not supported ({error.what})"
    return "added"


def cell(row: Mapping[str, Any], method: str, real: Mapping[str, str]) -> str:
    """What is known of one method on one variant."""
    if method in real:
        return f"real: {real[method]}"
    if not all(row["contract"].values()):
        return "broken: " + ", ".join(test for test, passed in row["contract"].items() if not passed)
    return "exact" if row["methods"][method] else "fails"


def table(kept: Mapping[str, Any], real: Mapping[str, Mapping[str, str]]) -> str:
    """The markdown table."""
    lines = [
        f"| variant | opens | {' | '.join(METHODS.values())} | scale as an input |",
        "|---|---|" + "---|" * (len(METHODS) + 1),
    ]
    for variant, row in kept["rows"].items():
        cells = [cell(row, method, real.get(variant, {})) for method in METHODS]
        lines.append(f"| {variant} (`{row['family']}`) | {row['pipeline']} | {' | '.join(cells)} | {row['scale']} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """File -> what it should hold."""
    kept = json.loads(KEPT.read_text())
    real = json.loads(REAL.read_text()) if REAL.is_file() else {}
    shown = table(kept, real)
    head = HEAD.format(test=TEST, count=kept["tests"], **kept["versions"])
    return {PAGE: head + shown, README: BLOCK.sub(lambda m: m[1] + shown + m[2], README.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.check:
        KEPT.write_text(json.dumps(ran(), indent=1) + "\n")
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text() != text]
    if args.check and stale:
        sys.exit(f"{', '.join(p.name for p in stale)}: not what {KEPT.name} says; run python tools/make_matrix.py")
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
