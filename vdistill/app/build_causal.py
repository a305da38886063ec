"""From the causal section of a config to the objects that train a causal student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..causal.consistency import CausalConsistency, ConsistencyConfig
from ..causal.dagger import Dagger
from ..causal.forcing import Forcing, ForcingConfig
from ..causal.long_tuning import Again, Longer, LongTuning, checked_length
from ..causal.noised import NoisedBlocks
from ..causal.ode_init import AfterCleanPath, OdeInit
from ..causal.resampled import Resampled
from ..causal.rolling import Either, Rolling
from ..causal.rollout import Plan, SelfForcing
from ..causal.student import Past
from ..core.bank import Bank
from ..core.denoiser import Denoiser, Net
from ..core.engine import Source
from ..core.errors import UserError
from ..core.guidance import cfg
from ..core.guided import INPUT, Guided, Told
from ..core.scope import Roles
from ..core.step import Batch, Generate, Met, Method, See, Shown, alone, as_given, given_past
from ..data.bank import OnTrajectory
from ..families.stock import StockFamily
from ..worlds.expert import ShapesExpert
from .build_family import tuned, world_of
from .models import open_model
from .schema import Config, DataBank, DataShapes
from .schema_causal import Causal, MethodCausalConsistency, MethodForcing, MethodOdeInit
from .schema_family import FamilyAnalytic
from .schema_method import MethodDmd2, MethodGuidance


def unit_of(family: StockFamily) -> int:
    """Latent frames that are one position of the family's network. UserError for one that cannot be causal."""
    network = family.network_of()
    if len(network.names) > 1:
        hint = "make one expert causal: a folder with one transformer"
        raise UserError("has two experts, which would read each other's memory", f"causal: {family.name}", hint)
    return network.patch[0]


def started(config: Config, family: StockFamily) -> Net | None:
    """The network a student begins with, where that is not the teacher. UserError for one of another shape."""
    path = (config.causal and config.causal.start) or getattr(config.method, "start", None)
    if not path:
        return None
    found = open_model(path, family.name, getattr(torch, getattr(config.family, "dtype", "float32"))).net
    ours, theirs = family.net.state_dict(), found.state_dict()
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        raise UserError("is of another shape than the teacher", str(path), "start from a student of the same teacher")
    tuned(config, family.network_of(found))
    return found.to(family.device)


# -- methods --------------------------------------------------------------------------------------------------------


def causal_method(config: Config, family: StockFamily, roles: Roles) -> tuple[Method, tuple[float, ...] | None]:
    """(a method that trains causal students alone, the student's times, None for any number)."""
    m, causal, unit = config.method, config.causal, unit_of(family)
    assert causal is not None
    layout, student, module = causal.layout(unit), roles.denoisers["student"], roles.modules["student"]
    if isinstance(m, MethodForcing):
        forcing = ForcingConfig(
            m.kind,
            m.time_mean,
            m.time_std,
            m.floor,
            m.drop_text,
            m.weight,
            family.guided_by,
            m.context_noise,
            unit,
            m.own,
            m.own_times,
            m.drops,
        )
        maker = guided(student, family.guided_by, m.own_scale, config.train.guidance_batch)
        return Forcing(forcing, layout, student, module, maker, past_of(config, family)), None
    assert isinstance(m, MethodOdeInit | MethodCausalConsistency)
    times = m.times or tuple(family.net.schedule.grid(m.steps)[:-1].tolist())
    teacher = guided(roles.teacher, family.guided_by, m.scale, config.train.guidance_batch)
    if isinstance(m, MethodCausalConsistency):
        own = ConsistencyConfig(m.teacher_steps, m.skip, m.each, m.average, m.solver, unit)
        return CausalConsistency(own, layout, teacher, student, module), times
    if m.kind == "teacher":
        grid = tuple(family.net.schedule.grid(m.teacher_steps).tolist())
        path = AfterCleanPath(teacher, layout, grid, times, m.solver, unit)
        return OdeInit(m.kind, layout, path, student, module, unit), times
    assert isinstance(config.data, DataBank)
    states = OnTrajectory(Bank.open(Path(config.data.path)), times).states
    return OdeInit(m.kind, layout, states, student, module, unit), times


def see_of(config: Config, family: object) -> See:
    """How the networks of a method meet a clip: whole, or, where the teacher is causal, each block after its past."""
    causal = config.causal
    if causal is None or not isinstance(family, StockFamily):
        return alone
    past = isinstance(config.method, MethodGuidance) or causal.teacher == "causal"
    return Past(causal.layout(unit_of(family)), unit_of(family)) if past else alone


def truth_of(config: Config, family: object) -> int | None:
    """Latent frames after which a causal student is asked for the clip itself. UserError where a clip ends before."""
    assert isinstance(config.method, MethodGuidance)
    truth = config.method.truth
    if truth is not None and isinstance(family, StockFamily) and truth >= (length := clip_length(config, family)):
        raise UserError(
            f"a clip has {length} latent frames, found {truth}", "method.truth", "take fewer or leave it out"
        )
    return truth


def past_of(config: Config, family: object) -> Shown:
    """What a causal student of the config is shown of a clip in training."""
    causal, m = config.causal, config.method
    if causal is None or causal.resample is None or not isinstance(family, StockFamily):
        return given_past
    assert isinstance(m, MethodForcing | MethodGuidance)
    again, times = causal.resample, m.own_times if isinstance(m, MethodForcing) else m.times
    assert times is not None
    return Resampled(plan_of(causal, times, unit_of(family)), *again.levels, again.rounds)


def met_of(config: Config, family: object) -> Met:
    """What a causal student of the config learns from: clips of the data, or its own streams under an expert."""
    causal, d, m = config.causal, config.data, config.method
    if causal is None or causal.dagger is None or not isinstance(family, StockFamily):
        return as_given
    assert isinstance(d, DataShapes) and isinstance(m, MethodGuidance) and m.times is not None
    unit = unit_of(family)
    plan = plan_of(causal, m.times, unit)
    starts = lambda length: [unit * first for first, _ in plan.layout.spans(length // unit)]  # noqa: E731
    expert = ShapesExpert(world_of(d), family.codec, starts)
    lead = -(-(m.truth or 0) // unit) * unit
    return Dagger(
        plan, expert.follows, expert.told, expert, lead, causal.dagger.each, causal.dagger.switch, expert.meet
    )


def guided(teacher: Denoiser, guided_by: str, scale: float, limit: int | None) -> Denoiser:
    """A teacher under one scale; as it is, and for half the cost, where that is 1."""
    if guided_by == INPUT:
        return Told(teacher, scale)
    return teacher if scale == 1 else Guided(teacher, cfg(scale, guided_by), limit)


# -- how a causal student makes a sample for training ---------------------------------------------------------------


def plan_of(causal: Causal, times: tuple[float, ...], unit: int) -> Plan:
    """How a causal student makes a block."""
    return Plan(causal.layout(unit), times, causal.first_times, causal.level, unit, whole=causal.whole)


def generate_of(config: Config, family: StockFamily, times: tuple[float, ...]) -> Generate:
    """From noised clips, or by the student's own rollout, as long as a clip or longer."""
    causal, m, unit = config.causal, config.method, unit_of(family)
    assert causal is not None and isinstance(m, MethodDmd2)
    if m.inputs == "data":
        return NoisedBlocks(causal.layout(unit), (*times, 0.0), unit)
    plan, last = plan_of(causal, times, unit), causal.last and causal.last // unit
    forcing = SelfForcing(plan, last, causal.through)
    if causal.rolling == 1:
        return Rolling(plan, last)
    if causal.rolling:
        return Either(Rolling(plan, last), forcing, causal.rolling)
    if causal.rollout is None:
        return forcing
    length = clip_length(config, family)
    checked_length(length, causal.rollout, plan.layout.block * unit)
    if causal.extend is None:
        return Longer(forcing, causal.rollout, pictures(family))
    tuning = LongTuning(plan, causal.extend, causal.rollout, pictures(family), causal.switch)
    if causal.switch and tuning.calls(length) < 2:
        what = f"a clip of {length} latents never grows by {causal.extend} within {causal.rollout}"
        raise UserError(what, "causal.switch", f"rollout: {length + causal.extend} or more")
    return tuning


def pictures(family: StockFamily) -> Again:
    """What makes the last picture of some latents a latent of its own."""

    def again(latents: Tensor) -> Tensor:
        return family.codec.encode(family.codec.decode(latents)[:, :, -1:])

    return again


def clip_length(config: Config, family: StockFamily) -> int:
    """Latent frames of a clip."""
    assert not isinstance(config.family, FamilyAnalytic)
    return family.codec.shape(*config.family.clip)[1]


@dataclass(frozen=True)
class Held:
    """A source whose batches stay for some steps, while clips grow on their conditions or streams of them serve."""

    inner: Source
    steps: int

    def __call__(self, step: int, micro: int) -> Batch:
        return self.inner(step - step % self.steps, micro)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def held(config: Config, family: object, method: Method, source: Source) -> Source:
    """The source as a method needs it: batches stay while clips grow, and while the student's streams serve."""
    if config.causal is not None and config.causal.dagger is not None:
        return Held(source, config.causal.dagger.each)
    growing, m = getattr(method, "generate", None), config.method
    if not (isinstance(growing, LongTuning) and isinstance(family, StockFamily) and isinstance(m, MethodDmd2)):
        return source
    return Held(source, growing.calls(clip_length(config, family)) * m.critic_per_student)
