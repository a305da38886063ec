"""From a config to the objects that train: the one place where siblings meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..core.bank import Bank
from ..core.begin import Begin
from ..core.denoiser import Denoiser, Net
from ..core.engine import Cadence, Engine, Source
from ..core.errors import UserError
from ..core.guidance import Guidance, cfg, chain, joint, star
from ..core.guided import INPUT, Guided, Told
from ..core.inputs import Generated, Inputs, Mixed, Noised, Simulated
from ..core.losses.divergence import DIVERGENCES, Weigh
from ..core.optim import OptimSpec
from ..core.scope import AdapterRole, Lora, Roles, full_roles, lora_roles, merged
from ..core.step import Balance, Generate, Method, added
from ..core.times import Grid, LogitNormal, Shifted, Times, Uniform
from ..data.bank import OnTrajectory
from ..discriminators.balance import GradientRatio
from ..families.analytic import LABEL
from ..families.analytic_family import AnalyticFamily
from ..families.few_step import Straight
from ..families.stock import StockFamily
from ..methods.dmd2 import Dmd2, Dmd2Config
from ..methods.flow import Flow, FlowConfig
from ..methods.guidance import GuidanceConfig, GuidanceDistillation
from ..methods.lcm import Lcm, LcmConfig
from .build_adversarial import judged_method, players
from .build_avatar import beside_lora, newborn
from .build_causal import causal_method, generate_of, held, met_of, past_of, see_of, started, truth_of
from .build_data import make_source
from .build_family import AnyFamily, frugal, make_family
from .build_judge import adversarial, adversarial_method, judge_beside, judge_rates, judged_by_copy
from .build_looks import Evidence, evidence_of
from .build_scales import (
    has_learned,
    mixed_method,
    push_alike,
    token_rates,
    tokens_of,
    told_method,
    told_teacher,
    with_tokens,
)
from .build_sync import sync_terms
from .schema import Config, DataBank, ScopeLora
from .schema_adversarial import MethodJudged
from .schema_causal import MethodCausalConsistency, MethodForcing, MethodOdeInit
from .schema_family import FamilyAnalytic
from .schema_judge import MethodAdversarial
from .schema_method import GuidanceSpec, MethodDmd2, MethodFlow, MethodGuidance, MethodLcm
from .schema_scales import MethodMixed


@dataclass(frozen=True)
class Built:
    """A run, ready for its engine. times: the student's few steps, None for a teacher; student: its Denoiser now."""

    family: AnyFamily
    method: Method
    source: Source
    optim: Mapping[str, OptimSpec]
    student: Denoiser
    times: tuple[float, ...] | None

    def plain_student(self) -> Net:
        """The student as one plain network, adapters merged."""
        if isinstance(self.student, AdapterRole):
            return merged(self.student.net, self.student.adapter or "")
        assert isinstance(self.student, Net)
        return self.student


def build(config: Config, world: int = 1, device: torch.device | str = "cpu") -> Built:
    """Everything a config means. world: processes that share a step. UserError for what cannot be."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # modules born here (adapters, heads, embeddings) are a function of the seed too
        family = make_family(config, device)
        roles, embedded = make_roles(config, family)
        method, times = make_method(config, family, roles, embedded)
        method = told_method(method, config.scales)
    specs = {name: optim_of(config, name) for name in method.learners}
    source = held(config, family, method, make_source(config, family, world))
    return Built(family, method, source, specs, roles.denoisers["student"], times)


def engine_of(config: Config, built: Built, out: Path, **more: object) -> Engine:
    """The engine of a built run."""
    train = config.train
    cadence = Cadence(train.checkpoint_every, config.validation.every, train.keep, train.micro, train.max_bad)
    return Engine(
        built.method,
        built.source,
        built.optim,
        out,
        steps=train.steps,
        seed=config.seed,
        cadence=cadence,
        precision=train.precision,
        **more,  # type: ignore[arg-type]
    )


# -- roles ----------------------------------------------------------------------------------------------------------


def make_roles(config: Config, family: AnyFamily) -> tuple[Roles, bool]:
    """(who plays teacher, student and critic, whether the student takes the guidance scale as an input)."""
    m, scope = config.method, config.scope
    embedded = takes_scale(m)
    names = ("student", "critic") if isinstance(m, MethodDmd2) or judged_by_copy(m) else players(m)
    if isinstance(m, MethodFlow | MethodForcing) and not (
        isinstance(scope, ScopeLora) or (config.causal and config.causal.start)
    ):
        return Roles(family.net, {"student": family.net}, {"student": family.net}), False
    if isinstance(family, AnalyticFamily):
        if isinstance(scope, ScopeLora):
            raise UserError("the analytic family is trained whole", "scope", "use scope: {name: full}")
        nets = {n: family.network(config.seed + i, embedded) for i, n in enumerate(names)}
        return Roles(family.teacher, nets, nets), embedded
    with_tokens(family, config.scales)
    own = started(config, family)
    if own is not None:
        push_alike(family, own)
    start = with_guidance_input(family) if embedded else family.net
    if isinstance(scope, ScopeLora):
        frugal(config, family)
        targets = scope.targets or family.lora_targets
        new = newborn(config, family)
        roles = lora_roles(start, names, Lora(scope.rank, scope.alpha, targets), own)
        if new is not None:
            return beside_lora(family, roles, new), embedded
        own_scale = None if has_learned(family) else tokens_of(family)  # the base's, which a teacher reads too, stay
        scale = own_scale or (family.network_of(start).scale_module() if embedded else None)
        if scale is None:
            return roles, embedded
        extra = nn.ModuleDict({"guidance": scale, "adapter": roles.modules["student"]})
        return Roles(roles.teacher, roles.denoisers, {**roles.modules, "student": extra}), embedded
    roles = full_roles(family.net, names, own or start)
    for copied in roles.modules.values():
        copied.float()  # what is trained is float32; autocast computes in less where asked to
    frugal(config, family)
    return roles, embedded


def takes_scale(m: object) -> bool:
    """Whether the student is told the guidance scale: where it was trained for more than one."""
    if isinstance(m, MethodGuidance):
        return m.scale_low < m.scale_high
    return isinstance(m, MethodLcm) and m.embed_guidance


def with_guidance_input(family: StockFamily) -> Net:
    """The family's network with an embedding for the guidance scale that changes nothing yet."""
    return family.as_net(family.network_of().with_scale_input())


# -- methods --------------------------------------------------------------------------------------------------------


def make_method(
    config: Config, family: AnyFamily, roles: Roles, embedded: bool
) -> tuple[Method, tuple[float, ...] | None]:
    """(the method over its roles, the times of the student it makes)."""
    m, student, module = config.method, roles.denoisers["student"], roles.modules["student"]
    guided_by = LABEL if isinstance(family, AnalyticFamily) else family.guided_by
    schedule, limit = family.net.schedule, config.train.guidance_batch
    if isinstance(m, MethodFlow):
        flow = FlowConfig(
            m.time_mean, m.time_std, m.floor, m.drop_text, m.weight, guided_by, m.drops, m.regions or {},
            None if m.begin is None else Begin(m.begin.share, m.begin.most, m.begin.level),
        )  # fmt: skip
        return Flow(flow, student, module, sync_terms(family, m.sync)), None
    if isinstance(m, MethodForcing | MethodOdeInit | MethodCausalConsistency):
        assert isinstance(family, StockFamily)
        return causal_method(config, family, roles)
    if isinstance(m, MethodMixed):
        assert config.scales is not None
        often: Times = Grid(m.times) if m.times else Shifted(LogitNormal(m.time_mean, m.time_std), schedule)
        few = Straight(m.times) if m.times and m.substeps else m.times  # on the teacher's ODE no fresh noise belongs
        seen = inputs_of(config, m.inputs, few or (), often, m.data_weight)
        return mixed_method(m, config.scales, family, roles, seen, limit), few
    if isinstance(m, MethodGuidance):
        without = "text" if guided_by == INPUT else guided_by  # a scale that is an input already is not learned again
        spec = GuidanceConfig(
            m.scale_low, m.scale_high, m.condition or without, m.floor, limit, truth_of(config, family)
        )
        law: Times = Grid(m.times) if m.times else Shifted(LogitNormal(), schedule)
        inputs = inputs_of(config, m.inputs, m.times or (), law, m.data_weight)
        see, past = see_of(config, family), past_of(config, family)
        met = met_of(config, family)
        return GuidanceDistillation(spec, roles.teacher, student, module, inputs, see, past, met), m.times
    if isinstance(m, MethodJudged):
        return judged_method(config, m, family, roles, guided_by, inputs_of, evidence(config, family))
    times = m.times or tuple(schedule.grid(m.steps)[:-1].tolist())
    if isinstance(m, MethodLcm):
        low, high = (m.guidance_low, m.guidance_high) if config.scales is None else (1.0, 1.0)  # what guides is told
        lcm = LcmConfig(
            m.teacher_steps,
            m.skip,
            low,
            high,
            embedded,
            m.huber_c,
            m.condition or guided_by,
            m.solver,
            limit,
        )
        return Lcm(lcm, told_teacher(family, roles.teacher, config.scales, limit), student, module), times
    if isinstance(m, MethodAdversarial):
        make = Generated(inputs_of(config, m.inputs, times, Grid(times), m.data_weight))
        return adversarial_method(m, roles, make, evidence(config, family)), times
    return make_dmd2(config, m, family, roles, times), times


def make_dmd2(config: Config, m: MethodDmd2, family: AnyFamily, roles: Roles, times: tuple[float, ...]) -> Dmd2:
    """DMD2 with its guidance, inputs and terms."""
    guided_by = LABEL if isinstance(family, AnalyticFamily) else family.guided_by
    make: Generate
    if config.causal is not None:
        assert isinstance(family, StockFamily)
        make = generate_of(config, family, times)
    else:
        make = Generated(inputs_of(config, m.inputs, times, Grid(times), m.data_weight))
    teacher: Denoiser
    if config.scales is not None:
        teacher = told_teacher(family, roles.teacher, config.scales, config.train.guidance_batch)
    elif guided_by == INPUT and m.guidance.kind == "cfg" and not m.guidance.names:
        teacher = Told(roles.teacher, m.guidance.scale)
    else:
        teacher = Guided(roles.teacher, guidance_of(m.guidance, guided_by), config.train.guidance_batch)
    critic = roles.denoisers["critic"]
    balance: Balance
    terms, balance = [adversarial(m, critic)] if m.gan_weight else [], added
    if m.judge is not None:
        terms, balance = (
            [judge_beside(m.judge, roles.teacher, critic, family.net.schedule, evidence(config, family))],
            GradientRatio(m.judge.share),
        )
    sid = m.sid_alpha if m.objective == "sid" else None
    weigh = None if m.divergence == "reverse_kl" else Weigh(DIVERGENCES[m.divergence], terms[0].log_ratio)
    return Dmd2(
        Dmd2Config(m.critic_per_student, m.floor, sid), teacher, roles.denoisers["student"], critic, roles.modules,
        make, terms, Uniform(m.t_min, m.t_max), see_of(config, family), balance, weigh,
    )  # fmt: skip


def evidence(config: Config, family: AnyFamily) -> Evidence:
    """What judges may need beside the networks."""
    size = (1, 1) if isinstance(config.family, FamilyAnalytic) else config.family.clip[1:]
    return evidence_of(family, lambda: make_source(config, family, 1)(0, 0), size)


def inputs_of(config: Config, kind: str, times: tuple[float, ...], law: Times, data_weight: float) -> Inputs:
    """Noised data at times of `law`, the student's own sampling at `times`, a mixture, or states of a bank."""
    if kind == "bank":
        assert isinstance(config.data, DataBank)
        return OnTrajectory(Bank.open(Path(config.data.path)), times)
    if kind == "data":
        return Noised(law)
    own = Simulated(times, stochastic=not isinstance(times, Straight))
    return own if kind == "backward" else Mixed((own, Noised(law)), (1 - data_weight, data_weight))


def guidance_of(spec: GuidanceSpec, guided_by: str) -> Guidance:
    """The guidance table a config means."""
    if spec.kind == "chain":
        table = chain(*(spec.scales or {}).items())
    elif spec.kind == "star":
        table = star(**(spec.scales or {}))
    elif spec.kind == "joint":
        table = joint(spec.scale, spec.names or (guided_by,))
    else:
        table = cfg(spec.scale, spec.names[0] if spec.names else guided_by)
    if spec.interval:
        table = table.within(*spec.interval)
    if spec.rescale:
        table = table.rescaled(spec.rescale)
    return table.projected() if spec.apg else table


def optim_of(config: Config, learner: str) -> OptimSpec:
    """A learner's optimizer; only the student is averaged."""
    o, m, lr = config.optim, config.method, config.optim.lr
    if learner != "student":
        lr = (m.critic_lr if isinstance(m, MethodDmd2) else None) or o.critic_lr or lr
    ema = o.ema if learner == "student" else 0.0
    rates = token_rates(config.scales) if learner == "student" else judge_rates(m)
    betas = (o.betas[0], o.betas[1])
    return OptimSpec(o.name, lr, betas, o.weight_decay, o.warmup, o.decay, o.clip, ema, o.ema_warmup, rates)
