"""Saving memory with frozen stock networks, all by diffusers' own means: 8-bit storage, offload by groups, tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..core.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Offload = Literal["none", "block", "leaf"]


def set_backend(parts: Mapping[str, Any], name: str) -> None:
    """Attention backend by diffusers' name. UserError, in one line, for one this machine or network cannot run."""
    for part, module in parts.items():
        if not hasattr(module, "set_attention_backend"):
            raise UserError(f"{type(module).__name__} has no attention backends to choose from", "family.attention")
        try:
            module.set_attention_backend(name)
        except (ValueError, RuntimeError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"backend {name!r} does not run here for {part} ({first[:160]})", "family.attention"
            ) from error


SWAPPED = ("processor", "forward")
"""What families put in place of a module's own for the time of one call."""


def _swapped(module: nn.Module) -> dict[str, Any]:
    return {name: module.__dict__[name] for name in SWAPPED if name in module.__dict__}


def _swap(modules: Sequence[nn.Module], states: Sequence[dict[str, Any]]) -> None:
    for module, state in zip(modules, states, strict=True):
        for name in SWAPPED:
            module.__dict__.pop(name, None)
        module.__dict__.update(state)


def checkpoint_gradients(parts: Mapping[str, Any], how: Callable[..., Any]) -> None:
    """Compute activations twice. how: (block, *its arguments, run=) -> what `run` gives for them, twice where needed.

    The second time, the attention seam and norms that are told a time for every position are what they were the first.
    UserError for a network that cannot.
    """

    def again(block: Any, *args: Any) -> Any:
        modules = list(block.modules())
        held = [_swapped(module) for module in modules]

        def as_then(*inputs: Any) -> Any:
            now = [_swapped(module) for module in modules]
            _swap(modules, held)
            try:
                return block(*inputs)
            finally:
                _swap(modules, now)

        return how(block, *args, run=as_then)

    for module in parts.values():
        if not getattr(module, "_supports_gradient_checkpointing", False):
            raise UserError(f"{type(module).__name__} cannot do that", "train.gradient_checkpointing", "leave it out")
        module.enable_gradient_checkpointing(again)


def store_in_8_bits(parts: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Keep weights as float8 e4m3 and compute in `dtype`; layers that diffusers deems sensitive stay as they are, and
    so do convolutions, whose gradient needs their weights after they have been put away."""
    for module in parts.values():
        module.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype, skip_modules_classes=CONVOLUTIONS
        )


def offload(parts: Mapping[str, Any], device: torch.device, kind: Offload) -> None:
    """Keep weights in host memory and bring each group to `device` when it is its turn."""
    for module in parts.values():
        more = {"num_blocks_per_group": 1} if kind == "block" else {}
        module.enable_group_offload(
            onload_device=device, offload_device=torch.device("cpu"), offload_type=f"{kind}_level", **more
        )


def tile(vae: Any) -> None:
    """Encode and decode in overlapping tiles. UserError for a VAE that cannot."""
    if not hasattr(vae, "enable_tiling"):
        raise UserError(f"{type(vae).__name__} has no tiles", "family.tiling", "leave it out")
    vae.enable_tiling()
