"""Named, counter-based randomness: every draw is a pure function of where it is made, so resume stores no RNG state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rng:
    """A place in a run. Two draws differ exactly when (seed, step, micro, rank, turn, name) differ.

    seed: of the run; step: optimizer step; micro: micro-batch within it; rank: process; turn: which learner's update.
    Draws happen on the CPU and are then moved, so the numbers do not depend on the device.
    """

    seed: int
    step: int = 0
    micro: int = 0
    rank: int = 0
    turn: str = ""

    def at(self, **place: int | str) -> Rng:
        """The same source at another place: ``rng.at(step=3, turn="critic")``."""
        return replace(self, **place)  # type: ignore[arg-type]

    def generator(self, name: str) -> torch.Generator:
        """A fresh CPU generator for one named draw."""
        place = f"{self.seed}/{self.step}/{self.micro}/{self.rank}/{self.turn}/{name}"
        digest = hashlib.blake2b(place.encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    def normal(self, name: str, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        """Standard normal draw of ``shape``, in the device and dtype of ``like`` (CPU float32 without it)."""
        draw = torch.randn(tuple(shape), generator=self.generator(name), device="cpu")
        return draw if like is None else draw.to(device=like.device, dtype=like.dtype)

    def uniform(
        self, name: str, shape: Sequence[int], low: float = 0.0, high: float = 1.0, like: Tensor | None = None
    ) -> Tensor:
        """Uniform float64 draw in [low, high); float64 because it mostly makes times. On the device of ``like``."""
        unit = torch.rand(tuple(shape), generator=self.generator(name), dtype=torch.float64, device="cpu")
        draw = low + (high - low) * unit
        return draw if like is None else draw.to(device=like.device)

    def integers(self, name: str, shape: Sequence[int], below: int, like: Tensor | None = None) -> Tensor:
        """Uniform integers in [0, below), int64."""
        draw = torch.randint(below, tuple(shape), generator=self.generator(name), device="cpu")
        return draw if like is None else draw.to(device=like.device)

    def integer(self, name: str, below: int) -> int:
        """One uniform integer in [0, below)."""
        return int(self.integers(name, (), below))


@dataclass(frozen=True)
class EachRng(Rng):
    """Draws of a batch whose sample i is what ``Rng(seeds[i])`` draws at the same place: batching changes no sample."""

    seeds: tuple[int, ...] = ()

    def normal(self, name: str, shape: Sequence[int], like: Tensor | None = None) -> Tensor:
        if not shape or shape[0] != len(self.seeds):
            raise ValueError(f"draws are for batches of {len(self.seeds)}, asked for shape {tuple(shape)}")
        place = (self.step, self.micro, self.rank, self.turn)
        return torch.cat([Rng(seed, *place).normal(name, (1, *shape[1:]), like) for seed in self.seeds])
