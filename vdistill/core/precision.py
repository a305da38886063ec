"""The arithmetic a machine is fast in: bfloat16 on a CPU that only emulates it takes ten times as long as float32."""

from __future__ import annotations

import platform

import torch

X86 = ("x86_64", "AMD64")
EMULATED = ("DEFAULT", "AVX2")  # what PyTorch found on an x86 CPU that multiplies float32 alone


def emulates_bf16(device: torch.device | str) -> bool:
    """Whether products of bfloat16 on this device are made of conversions: x86 CPUs before AVX-512."""
    capability = torch.backends.cpu.get_cpu_capability()
    return torch.device(device).type == "cpu" and platform.machine() in X86 and capability in EMULATED


def usable(precision: str, device: torch.device | str) -> str:
    """The precision to compute in, "no" or "bf16", where `precision` is asked for: float32 where that is faster."""
    return "no" if emulates_bf16(device) else precision
