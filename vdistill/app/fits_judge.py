"""Whether a judge fits the run it is in: each rule one sentence, with the key to point at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .schema_judge import PIXELS, TOKENS, Judge

if TYPE_CHECKING:
    from .schema import Config

TWICE = (None, "native", "_native_math")
"""Attention backends with a second derivative: PyTorch's own, on plain matrix products."""

CLIPS_HAVE = {
    "shapes": (("text",), ()),
    "talker": (("text", "audio", "ref"), ("face", "lip", "person")),
    "talking": (("text", "audio", "ref"), ("face", "lip", "person")),
}
"""World -> (conditions, regions) of its clips; what other data has is seen when it is opened."""
ALONG = ("audio",)
"""Conditions that run along a clip."""
UNEVEN = ("sd", "sdxl", "animatediff")
"""Families whose blocks see places of several sizes."""


def judge_misfits(config: Config) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong with it)."""
    judge = getattr(config.method, "judge", None)
    if not isinstance(judge, Judge):
        return
    yield from _real_clips(config, judge)
    yield from _what_it_looks_at(config, judge)
    yield from _what_the_clips_have(config, judge)
    if judge.later is not None and config.method.name != "progressive" and not getattr(config.method, "conditional", 0):
        yield "method.judge.later", "belongs to a judge that looks at pairs, as that of progressive; leave it out"
    if judge.kind == TOKENS and judge.penalty == "exact":
        yield from _second_derivative(config)
    if judge.mismatched and config.train.batch < 2:
        yield "method.judge.mismatched", "needs another clip's text; train.batch must be 2 or more"


def _real_clips(config: Config, judge: Judge) -> Iterator[tuple[str, str]]:
    if config.data.name == "prompts" and config.method.name == "dmd2":
        yield (
            "method.judge",
            "compares with real clips, as in latents, media or bank; with prompts leave it out",
        )
    if judge.kind != "motion":
        return
    if getattr(config.family, "clip", (0,))[0] == 1:
        yield "method.judge.kind", "motion needs two frames or more; for images say latent"
    for part in getattr(config.data, "parts", (config.data,)):
        if getattr(part, "images", 0):
            yield (
                "method.judge.kind",
                f"{part.name} mixes in images, which do not move; say latent, or images: 0",
            )


def _what_it_looks_at(config: Config, judge: Judge) -> Iterator[tuple[str, str]]:
    tokens, causal = judge.kind == TOKENS, config.causal
    if causal is not None and causal.teacher == "causal" and tokens:
        yield "method.judge", "features are of whole clips, which a causal critic does not see; say kind: latent"
    if config.family.name == "analytic" and (not tokens or judge.features == "teacher" or judge.text):
        yield "method.judge", "the analytic family is judged by kind: tokens on the critic's features, without text"
    if config.family.name == "analytic" and tokens and max(judge.layers, default=0) >= config.family.layers:
        yield "method.judge.layers", f"{[*judge.layers]}, the network has 0..{config.family.layers - 1}"
    if judge.feature_matching and judge.kind not in (TOKENS, PIXELS):
        yield "method.judge.feature_matching", f"kind: {judge.kind} has no features of a network; say kind: tokens"
    if judge.mismatched and not (tokens or judge.text or judge.condition):
        yield "method.judge.mismatched", f"kind: {judge.kind} does not see the text; say text: true"
    if judge.kind == PIXELS and getattr(config.method, "divergence", "reverse_kl") != "reverse_kl":
        yield "method.judge.kind", "pixels sees no noised clips, whose density ratio divergence needs; say latent"
    if judge.where is not None and tokens and config.family.name in (*UNEVEN, "analytic"):
        yield "method.judge.where", f"features of {config.family.name} have no even grid of places; say kind: latent"


def _what_the_clips_have(config: Config, judge: Judge) -> Iterator[tuple[str, str]]:
    world = config.data.name
    if world not in CLIPS_HAVE:
        return
    conditions, regions = CLIPS_HAVE[world]
    name, region = judge.condition, None if judge.where is None else judge.where.region
    if name is not None and name not in conditions:
        yield "method.judge.condition", f"clips of {world} have no {name!r}; they have {', '.join(conditions)}"
    if region is not None and region not in regions:
        yield (
            "method.judge.where.region",
            f"clips of {world} have no {region!r}; they have {', '.join(regions) or 'none'}",
        )
    if name in ALONG and judge.kind == PIXELS:
        yield "method.judge.condition", f"{name} runs along the clip, and kind: pixels sees frames; say kind: latent"


def _second_derivative(config: Config) -> Iterator[tuple[str, str]]:
    backend = getattr(config.family, "attention", None)
    if backend not in TWICE:
        yield "method.judge.penalty", f"exact needs a second derivative, which {backend} has not; say probe, or native"
    if config.train.gradient_checkpointing:
        yield "method.judge.penalty", "exact needs activations that gradient_checkpointing gives up; say probe"
