"""A training step acted out on tensors without numbers: the method itself, its forward and backward passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.optim import Ema, Optimizer
from ..core.rng import Rng
from ..core.scope import AdapterRole, Roles, recomputed
from ..core.step import Batch, Method
from ..families import memory
from ..families.hollow import conditions, emptied, empty_conditions, hollow, weightless
from ..families.released import release
from ..families.stock import StockFamily
from .build import make_method, make_roles, optim_of
from .fits import ONLY_CAUSAL
from .generate import Plan
from .models import clip_shape
from .plan_listen import Listener, repeated
from .plan_memory import Opened, Simulated, Update, mean
from .plan_sizes import bytes_of, counted, net_of, states, stepping, trained, weights
from .plan_talk import adapter_count, batches, of_two
from .plan_watch import AsOnGpu, Watch
from .schema import Config, DataMedia, DataShapes, DataTalker
from .schema_adversarial import MethodJudgedConsistency
from .schema_family import FamilyAnalytic, FamilyStock
from .texts import parts_of
from .validate import SHOWN

CYCLE = 60  # steps over which the turns of learners repeat


@dataclass(frozen=True)
class Chosen(Rng):
    """Draws whose whole numbers are 1: a student's own sampling takes one pass before the last, where it may.

    asked: the bounds below which whole numbers were drawn.
    """

    asked: list[int] = field(default_factory=list)

    def integer(self, name: str, below: int) -> int:
        self.asked.append(below)
        return min(1, below - 1)

    def uniform(
        self, name: str, shape: Sequence[int], low: float = 0.0, high: float = 1.0, like: Tensor | None = None
    ) -> Tensor:
        if len(shape):
            return super().uniform(name, shape, low, high, like)
        return torch.tensor((low + high) / 2, dtype=torch.float64)  # one number, which may be read


def simulate(config: Config, opened: Opened, gpu: bool = True, gpus: int = 1) -> Simulated:
    """A step of a run. gpu: reckon with the optimizers' and autocast's ways there. UserError as building the run.

    The family is used up.
    """
    family = opened.family
    assert not isinstance(config.family, FamilyAnalytic)
    shape = clip_shape(family, *config.family.clip)
    if opened.released:
        release(family.pipe)
    parts, others = {**counted(family), **adapter_count(family)}, bystanders(family)
    weightless(family, opened.dtype)
    plain(family, config, gpu)
    with torch.device("meta"):
        roles, embedded = make_roles(without_offload(config), family)
    methods = [(share, make_method(each, family, roles, embedded)[0]) for share, each in inputs_told_apart(config)]
    told = conditions(family, shape, opened.length)
    with ExitStack() as inside:
        inside.enter_context(hollow())
        watch = inside.enter_context(Watch())
        inside.enter_context(AsOnGpu(gpu))
        emptied([*others.values(), *everything(roles, [method for _, method in methods])])
        held = {f"weights: {name}": bytes_of([module]) for name, module in others.items()}
        batch = config.train.batch
        cond = Cond(empty_conditions(told, batch), {}, empty_conditions(told, 1))
        found = mean(
            [
                (share * often, _Run(config, roles, given, watch, gpu, gpus).simulated(method, parts, held))
                for often, given in batches(config, family, Batch(torch.zeros(batch, *shape), cond))
                for share, method in methods
            ]
        )
        return replace(found, between=between(config, family, shape, watch))


def between(config: Config, family: StockFamily, shape: tuple[int, ...], watch: Watch) -> dict[str, int]:
    """Bytes the VAE needs between updates, for itself and what it is given: of clips encoded at once (all of a batch
    where the world makes them, one by one where they are files), of clips decoded at once."""
    found = {}

    def most(name: str, work: Callable[[Tensor], Tensor], *given: int) -> None:
        alive = watch.alive
        watch.forget_peak()
        work(torch.zeros(given))
        found[name] = watch.peak - alive

    media = [part for part in parts_of(config) if isinstance(part, DataMedia | DataShapes | DataTalker)]
    if media:
        assert not isinstance(config.family, FamilyAnalytic)
        count = max(1 if isinstance(part, DataMedia) else config.train.batch for part in media)
        frames, height, width = config.family.clip
        width *= 2 if of_two(config) else 1
        most(f"encoding {clips(count)}", family.codec.encode, count, 3, frames, height, width)
    if config.validation.every:
        count = min(len(config.validation.prompts) or SHOWN, Plan().batch)
        most(f"decoding {clips(count)}", family.codec.decode, count, *shape)
    return found


def clips(count: int) -> str:
    """So many, in words."""
    return "a clip" if count == 1 else f"{count} clips"


def bystanders(family: StockFamily) -> dict[str, nn.Module]:
    """Modules of the pipeline that are not its network."""
    parts = family.pipe.components.items()
    return {name: m for name, m in parts if isinstance(m, nn.Module) and name not in family.networks}


def plain(family: StockFamily, config: Config, gpu: bool) -> None:
    """Network and VAE set to work in pieces or not, as the config says; of two experts, the first one answers."""
    network: Any = family.network_of()
    if getattr(network, "boundary", None) is not None:
        network.boundary = None  # which expert answers is for a batch's times to say; each works as the other
    for part in network.parts.values():
        if getattr(part, "_supports_gradient_checkpointing", False):
            part.disable_gradient_checkpointing()
    if isinstance(config.family, FamilyStock) and config.family.tiling:
        memory.tile(family.pipe.vae)
    if config.train.gradient_checkpointing:
        memory.checkpoint_gradients(
            network.parts, lambda block, *given, run: recomputed(block, *given, run=AsOnGpu(gpu).around(run))
        )


def without_offload(config: Config) -> Config:
    """Where weights lie is reckoned with, not acted out."""
    if not isinstance(config.family, FamilyStock):
        return config
    return config.model_copy(update={"family": config.family.model_copy(update={"offload": "none"})})


def everything(roles: Roles, methods: Sequence[Method]) -> list[nn.Module]:
    """All modules that play a part."""
    nets = [net_of(role) for role in (roles.teacher, *roles.denoisers.values())]
    return [*nets, *(module for method in methods for module in method.learners.values())]


def inputs_told_apart(config: Config) -> Iterator[tuple[float, Config]]:
    """(share, config) with inputs that are always the same, and guidance that always acts."""
    method: Any = config.method
    if getattr(method, "guidance", None) is not None:
        method = method.model_copy(update={"guidance": method.guidance.model_copy(update={"interval": None})})
    if config.causal and config.method.name in ONLY_CAUSAL:  # whose masks are asked for their numbers otherwise
        absolute = config.causal.model_copy(update={"places": "absolute"})
        config = config.model_copy(update={"causal": absolute})
    if config.causal and 0 < config.causal.rolling < 1:
        share = config.causal.rolling
        for part, chance in ((1 - share, 0.0), (share, 1.0)):
            causal = config.causal.model_copy(update={"rolling": chance})
            yield part, config.model_copy(update={"method": method, "causal": causal})
        return
    if isinstance(method, MethodJudgedConsistency) and 0 < method.own < 1:
        for part, own in ((1 - method.own, 0.0), (method.own, 1.0)):
            yield part, config.model_copy(update={"method": method.model_copy(update={"own": own})})
        return
    if getattr(method, "inputs", None) != "mix":
        yield 1.0, config.model_copy(update={"method": method})
        return
    for share, kind in ((1 - method.data_weight, "backward"), (method.data_weight, "data")):
        if share:
            yield share, config.model_copy(update={"method": method.model_copy(update={"inputs": kind})})


class _Run:
    """Roles without numbers, and what is watched while they train."""

    def __init__(self, config: Config, roles: Roles, batch: Batch, watch: Watch, gpu: bool, gpus: int) -> None:
        self.config, self.roles, self.batch, self.watch, self.gpu, self.gpus = config, roles, batch, watch, gpu, gpus

    def simulated(self, method: Method, parts: Mapping[str, int], others: Mapping[str, int]) -> Simulated:
        """A step of one method."""
        config = self.config
        specs = {name: optim_of(config, name) for name in method.learners}
        optims = {name: Optimizer(specs[name], module) for name, module in method.learners.items()}
        kept = {name: [*states(optim)] for name, optim in optims.items()}
        emas = {name: Ema(specs[name].ema, module) for name, module in method.learners.items() if specs[name].ema}
        for module in method.learners.values():
            module.requires_grad_(True)
            for p in module.parameters():
                p.grad = torch.zeros_like(p)
        held = {f"weights: {role}": size for role, size in weights(self.roles, method).items()}
        held |= others
        for name, module in method.learners.items():
            held[f"gradients: {name}"] = sum(p.nbytes for p in module.parameters())
            held[f"optimizer: {name}"] = sum(t.nbytes for t in kept[name])
            if name in emas:
                held[f"average: {name}"] = sum(t.nbytes for t in emas[name].shadow)
        turns = Counter(name for step in range(CYCLE) for name in method.turn(step))
        updates = {name: self.update(method, name, optims[name], turns[name] / CYCLE) for name in method.learners}
        saved = self.offloaded(held)
        updates = {name: replace(u, peak=u.peak - saved) for name, u in updates.items()}
        if saved:
            held["weights: moved to host memory"] = -saved
        can = all(
            getattr(p, "_supports_gradient_checkpointing", False) for p in net_of(self.roles.teacher).parts.values()
        )
        return Simulated({**parts, **trained(method)}, held, updates, can)

    def update(self, method: Method, learner: str, optim: Optimizer, often: float) -> Update:
        """Act out one learner's update."""
        for name, module in method.learners.items():
            module.requires_grad_(name == learner)
        optim.zero()
        rng = Chosen(0, turn=learner)
        micro = min(self.config.train.micro, 2)
        self.watch.flops.clear()
        self.watch.forget_peak()
        with Listener(self.watch, self.roles) as listener:
            for number in range(micro):
                with torch.autocast("cpu", torch.bfloat16) if self.config.train.precision == "bf16" else nullcontext():
                    loss = method.loss(learner, self.batch, replace(rng, micro=number))
                (loss.total / micro).backward()  # type: ignore[no-untyped-call]
                del loss
        flops, passes = Counter(self.watch.flops), listener.passes
        for below in {*rng.asked} - {1}:  # the mean of 0, 1, ... passes where one was acted out
            again = repeated(passes, "student", below, len(self.batch) * rng.asked.count(below))
            flops.update(again)
        times = self.config.train.micro / micro
        for each in passes.values():
            each.samples *= times
            each.flops = Counter({k: int(v * times) for k, v in each.flops.items()})
        missing = [p for p in optim.params if p.grad is None]
        for p in missing:
            p.grad = torch.zeros_like(p)
        late = sum(p.nbytes for p in missing)
        resident = self.watch.alive
        peak = max(self.watch.peak + late, resident + stepping(optim, self.gpu, self.gpus))
        scaled = Counter({k: int(v * times) for k, v in flops.items()})
        return Update(often, peak, max(0, peak - resident), scaled, passes)

    def offloaded(self, held: Mapping[str, int]) -> int:
        """Bytes of frozen weights that lie in host memory while others work.

        None where autograd keeps the weights of the shared base for its backward pass.
        """
        f, roles = self.config.family, self.roles
        if not isinstance(f, FamilyStock) or f.offload == "none":
            return 0
        shared = isinstance(roles.teacher, AdapterRole)
        if shared and not self.config.train.gradient_checkpointing:
            return 0
        network = net_of(roles.teacher)
        whole = held.get("weights: base of all roles" if shared else "weights: teacher", 0)
        blocks = [bytes_of([block]) for block in network.blocks()]
        largest = max(blocks) if f.offload == "leaf" else max(blocks) + max(0, whole - sum(blocks))
        return max(0, whole - largest)
