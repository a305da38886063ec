"""What keeps a judge smooth: R1 (on real samples) and R2 (on generated), exact, by a probe, or at its heads alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.losses.gan import approximate_r1, exact_r1
from ..core.rng import Rng
from .rounds import Round, Seen, Side


@dataclass(frozen=True)
class Probe:
    """Approximated R1 / R2: weight |D(x) - D(x + sigma n)|^2, any attention, no second backward (APT).

    The disturbed sample is noised with the same noise to the same time as the sample, so the two differ by
    alpha_t sigma n only and the penalty is one on the slope of D, at every time.
    """

    weight: float = 100.0
    sigma: float = 0.1
    of: Side = "real"

    def __call__(self, here: Round, seen: Seen, rng: Rng) -> Tensor:
        noise = rng.normal(f"probe/{self.of}", seen.x.shape, like=seen.x)
        return self.weight * approximate_r1(seen.logits, here.ask(seen.x + self.sigma * noise).logits)


@dataclass(frozen=True)
class Slope:
    """Exact R1 / R2: weight / 2 |grad_x D|^2, D the mean logit. Attention runs on plain matrix products for it, since
    the fast kernels have no second derivative."""

    weight: float = 1.0
    of: Side = "real"

    def __call__(self, here: Round, seen: Seen, rng: Rng) -> Tensor:
        x = seen.x.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            return self.weight / 2 * exact_r1(here.ask(x).logits, x)


@dataclass(frozen=True)
class HeadSlope:
    """R1 / R2 at what the heads are shown (ADD, MCM): weight / 2 sum over layers |grad_f D|^2, D the mean logit.

    Only the heads have a second derivative taken and only they learn from it: the network whose features f are needs
    neither another pass nor an attention of a certain kind.
    """

    weight: float = 1.0
    of: Side = "real"

    def __call__(self, here: Round, seen: Seen, rng: Rng) -> Tensor:
        shown = [f.detach().requires_grad_() for f in seen.shown]
        with sdpa_kernel(SDPBackend.MATH):
            logits = here.judge(shown)
            return self.weight / 2 * torch.stack([exact_r1(logits, f) for f in shown]).sum(0)
