"""The weighted mean of model folders with the same network, as a new folder: students of one start, further or less far
on one way, often have a mean that is better than any of them (Wortsman et al. 2022, arXiv 2203.05482).

    python tools/mean_of_models.py OUT MODEL=WEIGHT MODEL=WEIGHT ...

Weights are divided by their sum. Everything that is no weight (steps, scheduler, card) is the first folder's. Exit code
2 for folders that differ in a tensor's name or shape, and for an OUT that exists.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

KIND = "*.safetensors"


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """ValueError, naming it, for a broken file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read ({error}); make or fetch the model again") from error


def mean(files: Mapping[Path, float]) -> dict[str, torch.Tensor]:
    """Of all tensors, summed in double precision, in the dtype of the first file's. ValueError where they differ."""
    first, *_ = files
    total = sum(files.values())
    kept = weights_of(first)
    sums = {name: torch.zeros(each.shape, dtype=torch.float64) for name, each in kept.items()}
    for path, weight in files.items():
        found = weights_of(path)
        if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in kept.items()}:
            raise ValueError(f"{path}: its tensors are not those of {first}; give models of one network")
        for name, each in found.items():
            sums[name] += weight / total * each.double()
    return {name: sums[name].to(each.dtype).contiguous() for name, each in kept.items()}


def merge(out: Path, models: Mapping[Path, float]) -> None:
    """Write the folder, whole or not at all. ValueError for folders that differ, before anything is written."""
    first, *_ = models
    names = sorted(path.relative_to(first) for path in first.rglob(KIND))
    if not names:
        raise ValueError(f"{first}: no {KIND} in it; give model folders")
    for model in models:
        if lost := [str(name) for name in names if not (model / name).is_file()]:
            raise ValueError(f"{model}: lacks {lost[0]}, which {first} has")
    means = {name: mean({model / name: weight for model, weight in models.items()}) for name in names}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        shutil.copytree(first, whole := Path(folder) / "whole")
        for name, tensors in means.items():
            with safe_open(str(first / name), "pt") as file:
                about = file.metadata()
            save_file(tensors, whole / name, metadata=about)
        whole.rename(out)


def asked(words: list[str]) -> dict[Path, float]:
    """MODEL=WEIGHT. ValueError for other words, and for weights that are not above 0."""
    found: dict[Path, float] = {}
    for word in words:
        model, _, weight = word.rpartition("=")
        try:
            found[Path(model)] = float(weight)
        except ValueError:
            found[Path(model)] = 0.0
        if not model or not 0 < found[Path(model)] < float("inf"):
            raise ValueError(f"{word}: expected MODEL=WEIGHT, the weight a number above 0")
    if len(found) < 2:
        raise ValueError("give two models or more")
    return found


def main() -> int:
    if len(sys.argv) < 4:
        print(__doc__, file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    try:
        if out.exists():
            raise ValueError(f"{out}: is there already; give a new folder")
        merge(out, asked(sys.argv[2:]))
    except (ValueError, OSError, SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
