"""Leaving out inputs that look like the last one (StreamDiffusion's stochastic similarity filter, Kodaira et al. 2023).

An input is left out with probability max(0, (cos - eta) / (1 - eta)), where cos is its cosine similarity to the last
one that was taken: a still picture costs almost nothing, and a slow change is not cut into visible jumps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..core.errors import UserError
from ..core.rng import Rng


def skip_probability(new: Tensor, last: Tensor, threshold: float = 0.98) -> float:
    """Of leaving out `new`, shaped as `last`; threshold: the eta in [0, 1) below which nothing is left out.

    Pixels should be in [0, 1] or have their mean left in: of centred noise every cosine is near 0.
    """
    cosine = float(cosine_similarity(new.flatten().double(), last.flatten().double(), dim=0))
    return min(max(0.0, (cosine - threshold) / (1 - threshold)), 1.0)


@dataclass
class SimilaritySkip:
    """Says of each input whether to leave it out. Draw "skip/i" for input i, so a stream is the same when repeated.

    longest: inputs left out in a row, after which the next is taken whatever it shows. skipped: of all `seen`.
    """

    rng: Rng
    threshold: float = 0.98
    longest: int = 10
    last: Tensor | None = None
    seen: int = 0
    skipped: int = 0
    row: int = field(default=0)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UserError(f"must be in [0, 1), found {self.threshold}", "similarity.threshold")
        if self.longest < 0:
            raise UserError(f"must be 0 or more, found {self.longest}", "similarity.longest")

    def __call__(self, new: Tensor) -> bool:
        draw = float(self.rng.uniform(f"skip/{self.seen}", ()))
        chance = 0.0 if self.last is None else skip_probability(new, self.last, self.threshold)
        skip = draw < chance and self.row < self.longest
        self.seen, self.skipped, self.row = self.seen + 1, self.skipped + skip, self.row + 1 if skip else 0
        if not skip:
            self.last = new.detach().clone()
        return skip
