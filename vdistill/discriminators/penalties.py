"""What keeps a judge smooth: R1 (on real samples) and R2 (on generated), exact or by a probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.losses.gan import approximate_r1, exact_r1
from ..core.rng import Rng

Ask = Callable[[Tensor], Tensor]
"""Clean samples [B, C, T, ...] -> logits [B, N], at one drawn time and noise."""


class Penalty(Protocol):
    """Added to the judge's loss, of real samples or of generated ones."""

    @property
    def of(self) -> Literal["real", "fake"]: ...

    def __call__(self, ask: Ask, x: Tensor, logits: Tensor, rng: Rng) -> Tensor:
        """[B]; logits: what ask(x) was."""


@dataclass(frozen=True)
class Probe:
    """Approximated R1 / R2: weight |D(x) - D(x + sigma n)|^2, any attention, no second backward (APT).

    The disturbed sample is noised with the same noise to the same time as the sample, so the two differ by
    alpha_t sigma n only and the penalty is one on the slope of D, at every time.
    """

    weight: float = 100.0
    sigma: float = 0.1
    of: Literal["real", "fake"] = "real"

    def __call__(self, ask: Ask, x: Tensor, logits: Tensor, rng: Rng) -> Tensor:
        noise = rng.normal(f"probe/{self.of}", x.shape, like=x)
        return self.weight * approximate_r1(logits, ask(x + self.sigma * noise))


@dataclass(frozen=True)
class Slope:
    """Exact R1 / R2: weight / 2 |grad_x D|^2, D the mean logit. Attention runs on plain matrix products for it, since
    the fast kernels have no second derivative."""

    weight: float = 1.0
    of: Literal["real", "fake"] = "real"

    def __call__(self, ask: Ask, x: Tensor, logits: Tensor, rng: Rng) -> Tensor:
        x = x.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            return self.weight / 2 * exact_r1(ask(x), x)
