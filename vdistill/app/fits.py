"""Whether the parts of a config fit together: each rule one sentence, with the key to point at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..core.errors import UserError
from .fits_judge import judge_misfits
from .schema_drop import Dropping
from .schema_family import FamilyAnalytic, FamilyStock, FamilyTiny

if TYPE_CHECKING:
    from .schema import Config


GUIDED = {"dit": ("label",), "flux": ("guidance", "text"), "hunyuan": ("guidance", "text")}
"""What a family is guided by, where it is not text alone."""


CAUSAL = ("tiny", "wan", "cogvideox", "hunyuan", "hunyuan15", "ltx")
"""Families whose students can be causal."""
ONLY_CAUSAL = ("forcing", "ode_init", "causal_consistency")
"""Methods whose students are."""
TOLD = ("mixed", "lcm", "dmd2")
"""Methods whose students can be told several scales."""
GUIDES = ("guidance", "guidance_low", "guidance_high", "condition", "embed_guidance")
"""Keys of theirs that say what scales say."""
ROLLED = ("rollout", "last", "extend", "switch", "rolling", "through", "whole")
"""Keys of the causal section that say how a rollout goes."""
CLEAN_PASTS = ("guidance", "ode_init", "causal_consistency")
"""Methods whose students see pasts without noise, but for those of kind: diffusion."""


def misfits(config: Config) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong with it) of everything that does not fit."""
    yield from _family_and_data(config)
    yield from _method_and_data(config)
    yield from _clip_and_codec(config)
    yield from _conditions(config)
    yield from _critic(config)
    yield from _causal(config)
    yield from judge_misfits(config)
    yield from _scales(config)


def _family_and_data(config: Config) -> Iterator[tuple[str, str]]:
    family, data, method = config.family, config.data, config.method
    if data.name != "bank" and (family.name == "analytic") != (data.name == "analytic"):
        other = (
            "analytic does"
            if family.name == "analytic"
            else "shapes, talker, talking, latents, media, mix, bank, prompts do"
        )
        yield "data.name", f"{data.name} does not go with family {family.name}; {other}"
    if isinstance(family, FamilyTiny) and family.path is None:
        if method.name not in ("flow", "forcing"):
            yield "family.path", f"{method.name} needs a trained teacher: a diffusers folder, or 'shapes'"
        elif config.scope.name == "lora":
            yield "scope.name", "lora trains an adapter on a trained model; name one in family.path"
    if family.name == "analytic" and getattr(method, "distance", "") == "perceptual":
        yield "method.distance", "perceptual compares clips of latents, which the analytic family has not"
    if family.name == "analytic" and method.name == "frame_matching":
        yield "method.name", "frame_matching takes images out of clips, which the analytic family has not"
    if family.name == "analytic" and config.scope.name == "lora":
        yield "scope.name", "the analytic family has no layers for lora; use full"


def _method_and_data(config: Config) -> Iterator[tuple[str, str]]:
    data, method = config.data, config.method
    if getattr(method, "inputs", "") == "bank" and data.name != "bank":
        yield "method.inputs", f"bank needs data: (name: bank), found {data.name}"
    if getattr(method, "sync", None) and any(getattr(part, "duo", 0) for part in getattr(data, "parts", (data,))):
        yield "method.sync", "judges the one mouth of a picture; leave it out, or data.duo"
    if data.name != "prompts":
        return
    if method.name != "dmd2":
        yield (
            "data.name",
            f"{method.name} learns from clips, as in latents, media, mix or bank; prompts alone do for dmd2",
        )
    elif method.inputs not in ("backward", "rollout"):
        yield (
            "method.inputs",
            f"{method.inputs} needs clips, as in latents or media; with prompts: backward or rollout",
        )
    elif method.gan_weight:
        yield "method.gan_weight", "a GAN needs real clips, as in latents or media; with prompts use 0"


def _clip_and_codec(config: Config) -> Iterator[tuple[str, str]]:
    family, data = config.family, config.data
    if isinstance(family, FamilyStock):
        if data.name in ("shapes", "talker") and (data.frames, data.size, data.size) != family.clip:
            yield (
                "data.size",
                f"clips of {data.frames}x{data.size}x{data.size}, family says {family.clip}; say it there",
            )
        return
    if not isinstance(family, FamilyTiny):
        return
    if data.name in ("shapes", "prompts", "talker"):
        for key in ("frames", "size"):
            ours, theirs = getattr(data, key), getattr(family, key)
            if ours != theirs:
                yield f"data.{key}", f"{ours} differs from family.{key} {theirs}; say one of them"
    if family.path is not None:
        return
    frames, edge = (4, 8) if family.codec == "wan" else (family.patch_frames, family.patch_size)
    if (family.frames - 1) % frames:
        near = family.frames - (family.frames - 1) % frames
        yield "family.frames", f"{family.frames} is not 1 more than a multiple of {frames}; try {near}"
    if family.size % edge:
        yield "family.size", f"{family.size} is not a multiple of {edge}"


def _conditions(config: Config) -> Iterator[tuple[str, str]]:
    known, family, method = conditions(config), config.family, config.method
    told = {"scales.conditions": config.scales.names if config.scales else ()}
    for key, names in {**_asked(config), **told}.items():
        for name in [n for n in names if n not in known]:
            has = f"it has {', '.join(known)}" if known else "it has none"
            yield key, f"no condition {name!r} in family {family.name}; {has}"
    if known or family.name != "analytic":
        return
    if method.name == "guidance":
        yield "method.name", f"target {family.target} has no condition to guide by; classes has"
    elif method.name == "lcm" and (method.guidance_low, method.guidance_high) != (1.0, 1.0):
        yield "method.guidance_low", f"target {family.target} has no condition to guide by; low and high must be 1"
    elif method.name == "dmd2" and method.guidance.kind in ("cfg", "joint") and method.guidance.scale != 1:
        yield "method.guidance.scale", f"target {family.target} has no condition to guide by; must be 1"
    elif getattr(method, "scale", 1.0) != 1:
        yield "method.scale", f"target {family.target} has no condition to guide by; must be 1"


def conditions(config: Config) -> tuple[str, ...]:
    """The conditions that can be guided by; the first is what `condition` and `names` mean when left out."""
    family = config.family
    if isinstance(family, FamilyAnalytic):
        return ("label",) if family.target == "classes" else ()
    read: tuple[str, ...] = ()
    if family.adapters is not None:
        read = ("ref", "audio") if family.adapters.ref else ("audio",)
    elif family.path is not None and config.data.name in ("talker", "talking"):  # a folder that opens with its adapters
        read = ("ref", "audio")
    return GUIDED.get(family.name, ("text",)) + read


def _asked(config: Config) -> dict[str, tuple[str, ...]]:
    method = config.method
    if method.name == "dmd2":
        spec = method.guidance
        return {"method.guidance.scales": tuple(spec.scales or ()), "method.guidance.names": spec.names or ()}
    if isinstance(method, Dropping) and getattr(config.family, "path", None) is None:
        return {"method.drop": tuple(name for names, _ in method.drops for name in names)}
    condition = getattr(method, "condition", None)  # of the methods that guide by one
    return {"method.condition": (condition,)} if condition else {}


def _scales(config: Config) -> Iterator[tuple[str, str]]:
    scales, method = config.scales, config.method
    if scales is None:
        if method.name == "mixed":
            yield "scales", "mixed guides by a section such as scales: (conditions: (text: (usual: 3.0)))"
        return
    if method.name not in TOLD:
        yield "scales", f"{method.name} does not tell its student scales; {', '.join(TOLD)} do"
    if config.family.name == "analytic":
        yield "scales", "the analytic family takes one scale, by method guidance"
    if config.causal is not None:
        yield "scales", "a causal student is not told scales; leave out one of both"
    for key, field in type(method).model_fields.items():
        if key in GUIDES and getattr(method, key) != field.default:  # a config written out has every default in it
            yield f"method.{key}", "has no effect beside scales, which say how the teacher is guided"


def _critic(config: Config) -> Iterator[tuple[str, str]]:
    optim, method = config.optim, config.method
    if method.name == "dmd2" and None not in (optim.critic_lr, method.critic_lr):
        yield "method.critic_lr", "is said in optim.critic_lr too; say it once"
    judged = method.name in ("dmd2", "adversarial", "frame_matching") or getattr(method, "judge", None) is not None
    if not judged and optim.critic_lr is not None:
        yield "optim.critic_lr", f"{method.name} has no critic; leave it out"


def _causal(config: Config) -> Iterator[tuple[str, str]]:
    causal, family, method = config.causal, config.family, config.method
    inputs = getattr(method, "inputs", "") if method.name == "dmd2" else ""
    if causal is None:
        if method.name in ONLY_CAUSAL or inputs == "rollout":
            key, what = ("method.name", method.name) if method.name in ONLY_CAUSAL else ("method.inputs", inputs)
            yield key, f"{what} needs a section causal: (block: 3)"
        if getattr(method, "truth", None) is not None:
            yield (
                "method.truth",
                "is of pasts that say how a clip goes on, which only a causal student is shown; leave it out",
            )
        return
    if family.name not in CAUSAL:
        yield "causal", f"family {family.name} has no sequence to go along; {', '.join(CAUSAL)} have"
    if method.name not in (*ONLY_CAUSAL, "guidance") and inputs not in ("rollout", "data"):
        known = f"{', '.join(ONLY_CAUSAL)}, guidance, or dmd2 with inputs: rollout or data"
        yield "method.name", f"{method.name} does not train a causal student so; {known} does"
    for key in ROLLED if inputs != "rollout" else ():
        if key in causal.model_fields_set and getattr(causal, key):
            yield f"causal.{key}", "belongs to dmd2 with inputs: rollout; leave it out"
    if causal.switch and config.train.batch == 1:
        yield "causal.switch", "takes the text of another sample of the micro-batch; train.batch must be 2 or more"
    if causal.start is not None and getattr(method, "start", None) is not None:
        yield "method.start", "and causal.start are two ways to say one thing; say it in causal"
    if causal.teacher == "causal" and method.name != "dmd2":
        yield "causal.teacher", "belongs to dmd2; other methods of causal students have causal teachers; leave it out"
    if causal.teacher == "causal" and method.name == "dmd2" and method.gan_weight:
        yield "method.gan_weight", "the GAN looks at whole clips, which a causal critic does not see; use 0"
    if causal.resample is not None:
        if method.name != "guidance" and (method.name != "forcing" or method.kind != "teacher"):
            yield "causal.resample", "belongs to guidance, and to forcing of kind: teacher; leave it out"
        if method.name == "guidance" and method.times is None:
            yield "method.times", "pasts are made anew in the student's own steps; say them: [1.0, 0.9, 0.75, 0.5]"
    if causal.dagger is not None:
        if method.name != "guidance" or method.truth is None or method.times is None:
            yield "causal.dagger", "belongs to guidance with times and truth: 3, which asks for what the expert says"
        if config.data.name != "shapes" or 1 not in config.data.counts:
            yield "causal.dagger", "has an expert for the shapes world alone, of clips with one thing"
        if causal.dagger.switch and config.train.batch == 1:
            yield "causal.dagger.switch", "takes the text of another sample; train.batch must be 2 or more"
        if causal.resample is not None:
            yield "causal.dagger", "and causal.resample both say what a past looks like; leave one out"
    if causal.level > (shown := _noise_of_pasts(config)):
        what = f"{method.name} shows pasts of at most {shown:g}, and a stream would remember them at {causal.level:g}"
        more = ", or raise method.context_noise" if method.name == "forcing" else ""
        yield "causal.level", f"{what}; take {shown:g}{more}"
    if method.name == "guidance" and method.truth is not None:
        try:
            causal.layout().blocks(method.truth)
        except UserError as error:
            yield "method.truth", error.what
    if method.name == "guidance" and method.inputs == "bank":
        yield "method.inputs", "a bank's clips were made whole; a causal student takes data, backward or mix"
    if method.name == "guidance" and method.scale_low < method.scale_high:
        yield "method.scale_low", "a stream takes no scale: a causal student needs one, scale_low = scale_high"
    if method.name == "ode_init" and (method.kind == "diffusion") != (config.data.name == "bank"):
        other = "diffusion needs a bank's states" if method.kind == "diffusion" else "teacher makes its own, from clips"
        yield "method.kind", f"data is {config.data.name}, and {other}"


def _noise_of_pasts(config: Config) -> float:
    """The most noise that a causal student's past has in training: as much as there is, where it sees noisy blocks."""
    method = config.method
    if getattr(method, "kind", "") == "diffusion":
        return 1.0
    if method.name == "forcing":
        return method.context_noise
    return 0.0 if method.name in CLEAN_PASTS else 1.0
