"""From the `scales:` section to a student that is told its scales, and to the teacher that is guided by them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

from ..core.begin import Begin
from ..core.denoiser import Denoiser, Net
from ..core.errors import UserError
from ..core.guidance import Guidance
from ..core.guided import INPUT
from ..core.inputs import Inputs
from ..core.losses.mixed import QUALITY, Balance, ByQuality, Disagreement, GradNorm, Region, Sync
from ..core.plan import AsTold, Plan, Telling, plan
from ..core.scope import Roles
from ..core.step import Method
from ..families.analytic_family import AnalyticFamily
from ..families.guidance_tokens import NAME, GuidanceTokens, tokens_for
from ..families.stock import StockFamily
from ..methods.guidance_scales import ScaleLaw, ToldScales
from ..methods.mixed import MixedConfig, MixedDistillation, Supervision
from ..video.extend import Continued
from .begun import Begun
from .build_sync import sync_terms
from .schema_scales import PUSHED, MethodMixed, ScalesSpec, SupervisionSpec

AnyFamily = StockFamily | AnalyticFamily


def plan_of(spec: ScalesSpec) -> Plan:
    """The guidance with open scales a config means."""
    ramps = {name: each.ramp for name, each in spec.conditions.items() if each.ramp is not None}
    table = Guidance(interval=spec.interval or (0.0, 1.0), rescale=spec.rescale)
    return plan(spec.kind, spec.names, ramps).changed(table.projected() if spec.apg else table)


def law_of(spec: ScalesSpec) -> ScaleLaw:
    """How scales are drawn; always the usual ones where the student is told none."""
    usual = {name: each.usual for name, each in spec.conditions.items()}
    most = {name: each.top for name, each in spec.conditions.items()}
    return ScaleLaw(usual, most, spec.at_usual, spec.at_ones) if spec.tells else ScaleLaw(usual, usual, 1.0, 0.0)


def with_tokens(family: StockFamily, spec: ScalesSpec | None) -> StockFamily:
    """The family with tokens beside its network, which change nothing yet; its own where it has learned some: then it
    is told its scales as its student is. UserError where it has learned others, or there is no place for them."""
    if spec is None:
        return family
    network, own = family.network_of(), tokens_of(family)
    law, more = law_of(spec), (QUALITY,) if spec.quality else ()
    gains = {name: each.gain for name, each in spec.conditions.items() if each.gain}
    if own is not None:
        if set(own.size.names) != {*law.usual, *more}:
            known = ", ".join(own.size.names)
            raise UserError(f"this model was taught scales of {known}", "scales.conditions", "name these")
        if spec.gains and not own.size.pushed:
            raise UserError("this model was taught scales without gains", "scales.gains", "leave it out")
        if spec.rank not in (0, own.size.rank):
            raise UserError(f"this model was taught scales with rank {own.size.rank}", "scales.rank", "leave it out")
        own.size = replace(own.size, gain=gains or own.size.gain)
        return family
    if spec.tokens == "none":
        return family
    usual, most = {**law.usual, **dict.fromkeys(more, 1.0)}, {**law.most, **dict.fromkeys(more, 1.0)}
    network.beside[NAME] = tokens_for(
        network,
        (*law.usual, *more),
        most,
        spec.tokens,
        usual=usual,
        gain=gains,
        count=spec.count,
        width=spec.width,
        pushed=tuple(name for name in spec.names if spec.gains and name in PUSHED),
        rank=spec.rank,
    )
    return family


def push_alike(family: StockFamily, own: Net) -> None:
    """A student that begins elsewhere pushes by the family's gains, where that has any."""
    ours, beside = tokens_of(family), family.network_of(own).beside
    if ours is not None and NAME in beside:
        theirs = beside[NAME]
        assert isinstance(theirs, GuidanceTokens)
        if ours.size.pushed and not theirs.size.pushed:
            raise UserError("that student was taught scales without gains", "method.start", "leave out scales.gains")
        if ours.size.rank not in (0, theirs.size.rank):
            raise UserError(
                f"that student was taught scales with rank {theirs.size.rank}", "method.start", "leave out scales.rank"
            )
        theirs.size = replace(theirs.size, gain=ours.size.gain or theirs.size.gain)


def token_rates(spec: ScalesSpec | None) -> dict[str, float]:
    """Factors of the learning rate of a student's parameters; empty where tokens learn as the network does.

    Tokens begin silent beside a network that is right but for its scales, so they have further to go than it.
    """
    places = (f"beside.{NAME}", INPUT)  # in the network that is trained; beside an adapter
    return {} if spec is None or spec.rate == 1 else dict.fromkeys(places, spec.rate)


def told_teacher(family: AnyFamily, teacher: Denoiser, spec: ScalesSpec | None, limit: int | None) -> Denoiser:
    """The teacher guided by what batches are told; as it is without scales, or where it takes them as inputs."""
    if spec is None or has_learned(family):
        return teacher
    return AsTold(teacher, plan_of(spec), limit)


def has_learned(family: AnyFamily) -> bool:
    """Whether a family's network has learned to be told its scales."""
    tokens = tokens_of(family)
    return tokens is not None and tokens.learned


def told_method(method: Method, spec: ScalesSpec | None) -> Method:
    """The method with batches that are told scales; as it is without."""
    if spec is None:
        return method
    return ToldScales(method, plan_of(spec), law_of(spec), spec.balanced, spec.quality)


def mixed_method(
    m: MethodMixed, spec: ScalesSpec, family: AnyFamily, roles: Roles, inputs: Inputs, limit: int | None
) -> Method:
    """The regression to the guided teacher, with data where wished."""
    cfg = MixedConfig(m.floor, m.times or (), m.substeps)
    data = None if m.supervision is None else supervision_of(m.supervision)
    student, module = roles.denoisers["student"], roles.modules["student"]
    terms = sync_terms(family, m.sync)
    if m.begin is None:
        teacher = told_teacher(family, roles.teacher, spec, limit)
        return MixedDistillation(cfg, teacher, student, module, inputs, data, terms=terms)
    teacher = told_teacher(family, Continued(roles.teacher, clean=True), spec, limit)
    method = MixedDistillation(cfg, teacher, Continued(student, clean=True), module, inputs, data, terms=terms)
    return Begun(method, Begin(m.begin.share, m.begin.most, m.begin.level), student.schedule)


def supervision_of(spec: SupervisionSpec) -> Supervision:
    """What data adds, as a config says."""
    region = Region(spec.region)
    made: dict[str, Balance] = {"by_quality": ByQuality(spec.low), "region": region, "sync": Sync(spec.region)}
    if "disagreement" in spec.balance:
        made["disagreement"] = Disagreement(spec.kappa, region=region if "region" in spec.balance else None)
    smooth = math.inf if spec.smooth == "all" else float(spec.smooth)
    ratio = None if spec.gradnorm is None else GradNorm(spec.gradnorm)
    return Supervision(spec.target, [made[name] for name in spec.balance], spec.weight, smooth, spec.replaces, ratio)


def tokens_of(family: AnyFamily) -> GuidanceTokens | None:
    """Those of a family's network; None where it has none."""
    if not isinstance(family, StockFamily):
        return None
    beside = family.network_of().beside
    found = beside[NAME] if NAME in beside else None
    assert found is None or isinstance(found, GuidanceTokens)
    return found


def told_student(family: StockFamily, net: Denoiser, scales: Mapping[str, float] | None = None) -> Denoiser:
    """A network with tokens, told scales: the usual ones where none are given; any other network as it is.

    UserError for a scale it does not take; a warning for one beyond what was learned.
    """
    tokens = tokens_of(family)
    if tokens is None:
        return net
    size, asked = tokens.size, dict(scales or {})
    if unknown := sorted(asked.keys() - set(size.names)):
        raise UserError(f"this model takes no scale of {unknown[0]!r}", "scales", f"it takes {', '.join(size.names)}")
    for name in tokens.beyond(asked):
        warnings.warn(f"scale {asked[name]:g} of {name} is beyond what was learned, {size.most[name]:g}", stacklevel=2)
    told = {**size.usual, **asked}
    return Telling(net, told, size.gains_at(told))
