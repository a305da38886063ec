"""What is trained: all weights, or low-rank adapters, where teacher, student and critic are ONE frozen base.

LoRA: Hu et al. 2022. In the adapter scope every role runs the same base weights; only which adapter answers differs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attend, full
from .cond import Cond
from .denoiser import Denoiser, Net
from .errors import UserError
from .schedule import Schedule


@dataclass(frozen=True)
class Lora:
    """rank, alpha (rank when None) and the names of the linear layers that get an adapter."""

    rank: int = 16
    alpha: float | None = None
    targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Roles:
    """teacher: frozen; denoisers: the trained roles by name; modules: what is trained and saved of each."""

    teacher: Denoiser
    denoisers: Mapping[str, Denoiser]
    modules: Mapping[str, nn.Module]


def full_roles(net: Net, names: Sequence[str], start: Net | None = None) -> Roles:
    """Every role its own copy of all weights. They begin as the teacher, the first of them at `start` if given."""
    copies = {name: copy.deepcopy(net if i or start is None else start) for i, name in enumerate(names)}
    return Roles(frozen(net), copies, copies)


def lora_roles(net: Net, names: Sequence[str], lora: Lora, start: Net | None = None) -> Roles:
    """Every trained role an adapter on the frozen `net`, which without adapters is the teacher; the first of them on
    `start` if given, another frozen network that it goes on from."""
    if start is not None:
        own, rest = lora_roles(start, names[:1], lora), lora_roles(net, names[1:], lora)
        return Roles(rest.teacher, {**own.denoisers, **rest.denoisers}, {**own.modules, **rest.modules})
    frozen(net)
    for name in names:
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha or lora.rank, target_modules=list(lora.targets), lora_dropout=0.0
        )
        try:
            with warnings.catch_warnings():  # several adapters on one base is what we want
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                inject_adapter_in_model(config, net, adapter_name=name)
        except ValueError as error:
            raise UserError(f"no layer is called any of {list(lora.targets)}", "scope.targets") from error
    for name, parameter in net.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # trained in float32, whatever the frozen base is kept in
    denoisers = {name: AdapterRole(net, name) for name in names}
    modules = {name: AdapterWeights(net, name) for name in names}
    return Roles(AdapterRole(net, None), denoisers, modules)


def frozen(net: Net) -> Net:
    """The same network, in evaluation mode and without gradients for its weights."""
    net.eval()
    net.requires_grad_(False)
    return net


class AdapterWeights(nn.Module):
    """The parameters of one adapter, living in the base network; what a learner trains, saves and loads."""

    def __init__(self, net: nn.Module, adapter: str) -> None:
        super().__init__()
        marker = f".{adapter}."
        for name, parameter in net.named_parameters():
            if "lora_" in name and marker in name:
                self.register_parameter(name.replace(marker, ".").replace(".", "/"), parameter)

    def tensors(self) -> dict[str, Tensor]:
        """name in the base network (without the adapter's own name) -> weight."""
        return {name.replace("/", "."): p.detach() for name, p in self.named_parameters()}


class AdapterRole:
    """The base network with one adapter answering, or none: a Denoiser that adds no weights."""

    def __init__(self, net: Net, adapter: str | None) -> None:
        self.net, self.adapter = net, adapter
        self.layers = [m for m in net.modules() if isinstance(m, BaseTunerLayer)]

    @property
    def schedule(self) -> Schedule:
        return self.net.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        with self.active():
            return self.net.x0(x, t, cond, attend=attend)

    def taps(self, x: Tensor, t: Tensor, cond: Cond, layers: Sequence[int]) -> list[Tensor]:
        with self.active():
            return self.net.taps(x, t, cond, layers)

    @contextmanager
    def active(self) -> Iterator[Net]:
        """The network as this role while inside. Who may be trained (requires_grad) stays as the engine set it."""
        answer(self.layers, self.adapter)
        before = PLAYING.set(self)
        try:
            yield self.net
        finally:
            PLAYING.reset(before)


PLAYING: ContextVar[AdapterRole | None] = ContextVar("the role whose forward runs now", default=None)


def answer(layers: Sequence[BaseTunerLayer], adapter: str | None) -> None:
    """From now on `adapter` answers in these layers, or none; requires_grad stays as it is."""
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(adapter is not None)
        if adapter is not None:
            layer.set_adapter(adapter)
    for p, flag in flags:
        p.requires_grad_(flag)


def recomputed(block: nn.Module, *args: Any, run: Callable[..., Any] | None = None) -> Any:
    """A block whose activations are computed again in the backward pass, by the role that ran it forward.

    run: what is called in its place, both times.
    """
    role, run = PLAYING.get(), run or block
    if role is None:
        return checkpoint(run, *args, use_reentrant=False)
    layers = [m for m in block.modules() if isinstance(m, BaseTunerLayer)]

    def as_then(*inputs: Any) -> Any:
        answer(layers, role.adapter)
        return run(*inputs)

    return checkpoint(as_then, *args, use_reentrant=False)


def merged(net: Net, adapter: str) -> Net:
    """A copy of the network in main memory, with one adapter added into its weights and all adapters gone.

    Weights kept in 8 bits become bfloat16, which holds each of them exactly.
    """
    whole = {id(t): _in_main_memory(t) for t in (*net.parameters(), *net.buffers())}
    plain = copy.deepcopy(net, whole)
    for module in plain.modules():
        module.__dict__.pop("forward", None)  # what stands before a class's own belongs to the network copied from
    layers = [(n, m) for n, m in plain.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.enable_adapters(True)
        layer.merge(adapter_names=[adapter])
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    return plain


def _in_main_memory(tensor: Tensor) -> Tensor:
    small = tensor.is_floating_point() and tensor.element_size() == 1
    copied = tensor.detach().to("cpu", torch.bfloat16 if small else tensor.dtype, copy=True)
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
