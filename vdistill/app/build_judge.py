"""From the `judge:` section to the term that trains, and what can be said of it before."""

from __future__ import annotations

from collections.abc import Callable

from ..core.denoiser import Denoiser
from ..core.schedule import Schedule
from ..core.scope import Roles
from ..core.step import Generate
from ..core.times import Grid, LogitNormal, Times, Uniform
from ..discriminators.adversarial import Adversarial
from ..discriminators.anchor import Anchor
from ..discriminators.augment import AUGMENTS, in_turn
from ..discriminators.heads import TokenHeads
from ..discriminators.pair import Later, Pair
from ..discriminators.penalties import HeadSlope, Probe, Slope
from ..discriminators.perceptual import Perceptual, RandomFeatures
from ..discriminators.rounds import Penalty, Side
from ..families.stock_net import StockNet
from ..methods.adversarial import AdversarialDistillation
from .build_looks import (
    Evidence,
    check_images,
    layers_of,
    network_of,
    sight,
    taps_of,
    text_width,
    width_of,
    window,
)
from .judge_file import begun
from .schema_judge import PIXELS, TOKENS, Judge, MethodAdversarial, Metric
from .schema_method import MethodDmd2


def adversarial(m: MethodDmd2, critic: Denoiser) -> Adversarial:
    """What the `gan_*` keys mean: heads on the critic's features."""
    net = network_of(critic)
    layers = layers_of(net, m.gan_layers, "method.gan_layers")
    heads = TokenHeads([width_of(net, i) for i in layers])
    times = Uniform(m.t_min, m.t_max)
    return Adversarial(
        taps_of(critic, layers), critic.schedule, heads, m.gan_weight, m.gan_watch_weight, m.gan_loss, times
    )


def judge_rates(m: object) -> dict[str, float]:
    """Factors of the learning rate, by the names under which judges learn; empty where they learn as the others do."""
    judge = getattr(m, "judge", None)
    return {} if judge is None or judge.rate == 1 else dict.fromkeys((Adversarial.name, Pair.name), judge.rate)


def judge_beside(
    spec: Judge, teacher: Denoiser, critic: Denoiser, schedule: Schedule, evidence: Evidence | None = None
) -> Adversarial:
    """The term of a judge beside a matching loss, whose critic may be what it looks through."""
    watch_weight = 0.01 if spec.looks_through_critic else 1.0
    return judge_of(spec, teacher, critic, schedule, 3e-3, watch_weight, evidence)


def judge_of(
    spec: Judge, teacher: Denoiser, critic: Denoiser, schedule: Schedule, weight: float, watch_weight: float,
    evidence: Evidence | None = None,
) -> Adversarial:  # fmt: skip
    """The term of a judge; weights: where the section says none; evidence: what kind: pixels, a condition other than
    text and a region need. UserError for layers, text, conditions, image features or a judge that are not there."""
    seen = sight(spec, teacher, critic, evidence)
    clean = spec.kind == PIXELS
    term = Adversarial(
        seen.look,
        schedule,
        seen.judge,
        spec.weight or weight,
        spec.watch_weight or watch_weight,
        spec.loss,
        Grid((0.0,)) if clean else times_of(spec),
        levels=spec.levels,
        augment=in_turn([] if clean else [AUGMENTS[name] for name in spec.augment]),  # those of frames are in the look
        penalties=penalties_of(spec),
        anchor=Anchor(spec.anchor) if spec.anchor else None,
        features=spec.feature_matching,
        mismatched=spec.mismatched,
        swapped=seen.told if spec.condition else (),
        where=window(spec, seen, evidence),
    )
    return begun(term, spec.start)


def pair_of(
    spec: Judge, teacher: Denoiser, critic: Denoiser, weight: float = 1.0, watch_weight: float = 1.0,
    before: bool = True, evidence: Evidence | None = None,
) -> Pair:  # fmt: skip
    """A judge of steps, kind tokens, latent or factorised; before: as of `Pair`. Same errors as `judge_of`."""
    seen = sight(spec, teacher, critic, evidence, 2 if before else 1)
    return Pair(
        seen.look,
        seen.judge,
        -1 if spec.kind == TOKENS else 1,
        spec.weight or weight,
        spec.watch_weight or watch_weight,
        spec.loss,
        before,
        in_turn([AUGMENTS[name] for name in spec.augment]),
        penalties_of(spec),
        mismatched=spec.mismatched,
        swapped=seen.told if spec.condition else (),
        later=None if spec.later is None else Later(teacher.schedule, spec.later),
    )


def metric_of(spec: Metric, teacher: Denoiser) -> Perceptual:
    """A perceptual distance. UserError for layers that the teacher has not."""
    augment = in_turn([AUGMENTS[name] for name in spec.augment])
    net = network_of(teacher)
    if spec.features == "teacher":
        layers = layers_of(net, spec.layers, "method.metric.layers", last=False)
        return Perceptual(taps_of(teacher, layers, True), teacher.schedule, spec.time, augment, spec.draws)
    assert isinstance(net, StockNet)
    return Perceptual(RandomFeatures(net.channels), teacher.schedule, spec.time, augment, spec.draws)


def times_of(spec: Judge) -> Times:
    """At which a judge looks."""
    return Uniform(spec.t_min, spec.t_max) if spec.time_mean is None else LogitNormal(spec.time_mean)


def penalties_of(spec: Judge) -> list[Penalty]:
    """What holds a judge."""
    kinds: dict[str, Callable[[float, Side], Penalty]] = {
        "probe": lambda weight, of: Probe(weight, spec.sigma, of),
        "exact": Slope,
        "heads": HeadSlope,
    }
    asked: list[tuple[float, Side]] = [(spec.r1, "real"), (spec.r2, "fake")]
    return [kinds[spec.penalty](weight, of) for weight, of in asked if weight]


def adversarial_method(
    m: MethodAdversarial, roles: Roles, generate: Generate, evidence: Evidence | None = None
) -> AdversarialDistillation:
    """The method that has nothing but a judge."""
    teacher, denoisers = roles.teacher, roles.denoisers
    term = judge_of(m.judge, teacher, denoisers.get("critic", teacher), teacher.schedule, 1.0, 1.0, evidence)
    return AdversarialDistillation(denoisers["student"], roles.modules, generate, term, m.watch_per_student)


def judged_by_copy(m: object) -> bool:
    """Whether a copy of the teacher learns to judge."""
    return isinstance(m, MethodAdversarial) and m.judge.looks_through_critic


def check_judge(m: MethodDmd2 | MethodAdversarial, net: StockNet) -> None:
    """UserError for what a network does not have; it may be one without weights."""
    if m.judge is None:
        layers_of(net, m.gan_layers, "method.gan_layers")
        return
    if m.judge.kind == TOKENS:
        layers_of(net, m.judge.layers, "method.judge.layers")
    if m.judge.text or m.judge.condition == "text":
        text_width(net)
    check_images(m.judge)
