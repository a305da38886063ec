"""What is measured of a model's clips of the `shapes` world, in one flat dictionary for logs, tables and summaries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ..core.errors import UserError
from ..eval import temporal
from ..eval.diversity import Diversity
from ..eval.diversity import diversity as count
from ..eval.frechet import frechet
from ..worlds.judge import Verdict, describe, features, judge, matches, tally
from ..worlds.shapes import Thing, parse


def score(pixels: Tensor, captions: Sequence[str], truth: Tensor | None = None) -> dict[str, float]:
    """Measure clips [B, 3, T, H, W] in [-1, 1] made for these captions.

    accuracy: share of clips with everything right; colour, shape, motion, count, seen: shares of their own;
    frechet: squared distance of the judge's features from those of `truth` (clips, or their `features` [N, 51], kept
    from before), when given and B >= 2; motion_energy, stability (T >= 2), flicker, jitter, pulse (T >= 3): means over
    clips, as defined in eval/temporal.py.
    """
    if len(pixels) != len(captions) or not captions:
        raise UserError(f"{len(pixels)} clips and {len(captions)} captions", "score", "give one caption a clip")
    verdicts = judge(pixels)
    found = tally(verdicts, captions)
    found = {"accuracy": found.pop("all"), **found}
    if truth is not None and len(pixels) > 1:
        reference = truth if truth.ndim == 2 else features(truth)
        found["frechet"] = frechet(describe(verdicts), reference)
    return {**found, **_in_time(pixels)}


def _in_time(pixels: Tensor) -> dict[str, float]:
    measures: dict[str, Callable[[Tensor], Tensor]] = {}
    if pixels.shape[2] >= 2:
        measures |= {"motion_energy": temporal.motion_energy, "stability": temporal.stability}
    if pixels.shape[2] >= 3:
        measures |= {"flicker": temporal.flicker, "jitter": temporal.jitter, "pulse": temporal.pulse}
    return {name: float(measure(pixels).mean()) for name, measure in measures.items()}


def diversity(clips: Mapping[str, Tensor]) -> dict[str, float]:
    """Variety within open captions: caption -> its clips [N, 3, T, H, W]; every caption should have as many.

    distinct, entropy (nats), effective: of the attribute tuples (colour, shape, motion) shown, mean over captions;
    recognised: share of clips that count, that is whose every attribute could be read and agrees with the caption.
    """
    if not clips:
        raise UserError("no captions", "diversity", "give at least one open caption and its clips")
    found = [outcomes(text, judge(pixels)) for text, pixels in clips.items()]
    samples = sum(d.samples for d in found)
    return {
        "distinct": sum(d.distinct for d in found) / len(found),
        "entropy": sum(d.entropy for d in found) / len(found),
        "effective": sum(d.effective for d in found) / len(found),
        "recognised": sum(d.recognised for d in found) / samples,
    }


def outcomes(text: str, verdicts: Sequence[Verdict]) -> Diversity:
    """Diversity of one caption's clips."""
    wanted = parse(text)
    return count(_outcome(verdict, wanted) for verdict in verdicts)


def _outcome(verdict: Verdict, wanted: Sequence[Thing]) -> tuple[Thing, ...] | None:
    """What the clip shows, in an order of its own; None where it fails its caption or cannot be read."""
    read = all(t.shape and (t.motion or verdict.frames == 1) for t in verdict.things)
    if not read or not matches(verdict, wanted)["all"]:
        return None
    return tuple(sorted(verdict.things, key=lambda t: t.phrase()))
