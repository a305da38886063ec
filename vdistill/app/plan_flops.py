"""From floating-point operations to time: peaks of GPUs, and what share of them a training reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..core.errors import UserError

MFU = 0.4
"""Share of a GPU's peak that well-fed training of large transformers reaches (model FLOPs utilisation)."""
RESERVE = 1 << 30  # bytes the driver, the libraries' workspaces and their contexts take
USABLE = 0.94  # share of the rest, where allocations of many sizes leave gaps


@dataclass(frozen=True)
class Gpu:
    """Dense peaks in 1e12 operations a second, as the maker states them for tensor cores: half (bf16 products summed in
    float32) and single (float32 without TF32); memory: GiB that programs see."""

    half: float
    single: float
    memory: float

    @property
    def room(self) -> int:
        """Bytes a training can fill."""
        return int((self.memory * (1 << 30) - RESERVE) * USABLE)

    def seconds(self, flops: Mapping[torch.dtype, int], mfu: float = MFU) -> float:
        """Time of so many operations by type, at a share of the peak."""
        small = (torch.bfloat16, torch.float16, torch.float8_e4m3fn)
        return sum(n / ((self.half if kind in small else self.single) * 1e12 * mfu) for kind, n in flops.items())


GPUS: dict[str, Gpu] = {
    "a100-40": Gpu(312, 19.5, 39.5),
    "a100-80": Gpu(312, 19.5, 79.2),
    "h100": Gpu(989, 67, 79.2),
    "h200": Gpu(989, 67, 139.8),
    "b200": Gpu(2250, 80, 178),
    "l40s": Gpu(362, 91.6, 44.5),
    "l4": Gpu(121, 30.3, 22.0),
    "rtx3090": Gpu(71, 35.6, 23.6),
    "rtx4090": Gpu(165, 82.6, 23.5),
    "rtx5090": Gpu(209.5, 104.8, 31.4),
}
"""By name. GeForce cards sum bf16 products in float32 at half the rate of their data-centre sisters."""


def gpu_named(name: str) -> Gpu:
    """A GPU by its name, written in any way. UserError listing the names for one that is not known."""
    plain = name.lower().replace("nvidia", "").replace("geforce", "")
    key = "".join(c for c in plain if c.isalnum())
    key = {"a100": "a10080", "4090": "rtx4090", "5090": "rtx5090", "3090": "rtx3090"}.get(key, key)
    key = key.removesuffix("gb") if key.startswith("a100") else key
    for known, gpu in GPUS.items():
        if known.replace("-", "") == key:
            return gpu
    raise UserError(f"no GPU {name!r} in the table", "--gpu", f"there are {', '.join(GPUS)}")
