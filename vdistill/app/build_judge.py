"""From the `judge:` section to the term that trains, and what can be said of it before."""

from __future__ import annotations

from torch import nn

from ..core.denoiser import Denoiser, Net, Tapped
from ..core.errors import UserError
from ..core.schedule import Schedule
from ..core.scope import AdapterRole, Roles
from ..core.step import Generate
from ..core.times import LogitNormal, Times, Uniform
from ..discriminators.adversarial import Adversarial
from ..discriminators.anchor import Anchor
from ..discriminators.augment import AUGMENTS, in_turn
from ..discriminators.bands import Bands
from ..discriminators.heads import TokenHeads
from ..discriminators.latent import LatentJudge, MotionJudge, factorised_steps, full_steps
from ..discriminators.look import Look, Taps, Whole
from ..discriminators.penalties import Penalty, Probe, Slope
from ..families.stock_net import StockNet
from ..methods.adversarial import AdversarialDistillation
from .schema_judge import TOKENS, Judge, MethodAdversarial
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


def judge_beside(spec: Judge, teacher: Denoiser, critic: Denoiser, schedule: Schedule) -> Adversarial:
    """The term of a judge beside a matching loss, whose critic may be what it looks through."""
    shared = spec.kind == TOKENS and spec.features == "critic"
    return judge_of(spec, teacher, critic, schedule, 3e-3, 0.01 if shared else 1.0)


def judge_of(
    spec: Judge, teacher: Denoiser, critic: Denoiser, schedule: Schedule, weight: float, watch_weight: float
) -> Adversarial:
    """The term of a judge; weights: where the section says none. UserError for layers that are not there, or text
    where the network has none."""
    look, module = looking(spec, teacher, critic)
    exact = spec.penalty == "exact"
    penalties: list[Penalty] = []
    for strength, of in ((spec.r1, "real"), (spec.r2, "fake")):
        if strength:
            penalties.append(Slope(strength, of) if exact else Probe(strength, spec.sigma, of))  # type: ignore[arg-type]
    times: Times = Uniform(spec.t_min, spec.t_max) if spec.time_mean is None else LogitNormal(spec.time_mean)
    return Adversarial(
        look,
        schedule,
        module,
        spec.weight or weight,
        spec.watch_weight or watch_weight,
        spec.loss,
        times,
        levels=spec.levels,
        augment=in_turn([AUGMENTS[name] for name in spec.augment]),
        penalties=penalties,
        anchor=Anchor(spec.anchor) if spec.anchor else None,
        features=spec.feature_matching,
        mismatched=spec.mismatched,
    )


def adversarial_method(m: MethodAdversarial, roles: Roles, generate: Generate) -> AdversarialDistillation:
    """The method that has nothing but a judge."""
    teacher, denoisers = roles.teacher, roles.denoisers
    term = judge_of(m.judge, teacher, denoisers.get("critic", teacher), teacher.schedule, 1.0, 1.0)
    return AdversarialDistillation(denoisers["student"], roles.modules, generate, term, m.watch_per_student)


def judged_by_copy(m: object) -> bool:
    """Whether a copy of the teacher learns to judge."""
    return isinstance(m, MethodAdversarial) and m.judge.kind == TOKENS and m.judge.features == "critic"


def check_judge(m: MethodDmd2 | MethodAdversarial, net: StockNet) -> None:
    """UserError for what a network does not have; it may be one without weights."""
    if m.judge is None:
        layers_of(net, m.gan_layers, "method.gan_layers")
        return
    if m.judge.kind == TOKENS:
        layers_of(net, m.judge.layers, "method.judge.layers")
    if m.judge.text:
        text_width(net)


def looking(spec: Judge, teacher: Denoiser, critic: Denoiser) -> tuple[Look, nn.Module]:
    """(what the judge is shown, the judge)."""
    frozen = spec.features == "teacher"
    who = teacher if frozen else critic
    net = network_of(who)
    text = text_width(net) if spec.text else 0
    look: Look = Whole()
    layers: tuple[int, ...] = ()
    if spec.kind == TOKENS:
        layers = layers_of(net, spec.layers, "method.judge.layers", last=not frozen)
        look = taps_of(who, layers, frozen)
    judges = [judge_on(spec, net, layers, text) for _ in range(spec.bands)]
    return look, judges[0] if len(judges) == 1 else Bands(judges, spec.t_min, spec.t_max)


def judge_on(spec: Judge, net: nn.Module, layers: tuple[int, ...], text: int) -> nn.Module:
    """One judge: of features after these layers of the network, or of latents as it takes them."""
    if spec.kind == TOKENS:
        return TokenHeads([width_of(net, i) for i in layers], spec.hidden, text)
    assert isinstance(net, StockNet)
    steps = full_steps(spec.hidden) if spec.kind == "latent" else factorised_steps(spec.hidden)
    judge = LatentJudge(net.channels, steps, spec.hidden, text)
    return MotionJudge(judge) if spec.kind == "motion" else judge


def taps_of(who: Denoiser, layers: tuple[int, ...], frozen: bool = False) -> Taps:
    """A network's features."""
    assert isinstance(who, Tapped)
    return Taps(who, layers, frozen)


def network_of(who: Denoiser) -> nn.Module:
    """The raw network that plays a role."""
    net = who.net if isinstance(who, AdapterRole) else who
    assert isinstance(net, Net)
    return net.net


def layers_of(net: nn.Module, asked: tuple[int, ...], key: str, last: bool = True) -> tuple[int, ...]:
    """The blocks to look at, unless others are asked for the middle and the last, or, where those behind would run for
    nothing else, the middle alone. UserError for one that is not there."""
    blocks = len(net.blocks()) if isinstance(net, StockNet) else len(net.hidden)  # type: ignore[arg-type]
    layers = tuple(asked) or (tuple(sorted({blocks // 2, blocks - 1})) if last else ((blocks - 1) // 2,))
    if max(layers) >= blocks:
        raise UserError(f"layers {list(layers)}, the network has 0..{blocks - 1}", key)
    return layers


def width_of(net: nn.Module, layer: int) -> int:
    """Channels of the features after a block."""
    return net.width(layer) if isinstance(net, StockNet) else int(net.out.in_features)  # type: ignore[union-attr,arg-type]


def text_width(net: nn.Module) -> int:
    """Channels of the text tokens. UserError for a network whose text goes in elsewhere."""
    if not isinstance(net, StockNet) or net.text_in is None:
        what = type(net.model).__name__ if isinstance(net, StockNet) else type(net).__name__
        raise UserError(f"{what} does not say where its text goes in", "method.judge.text", "leave it out")
    return int(net.model.get_submodule(net.text_in).in_features)
